# shellcheck shell=bash
# The options of a recipe. The recipe lists them as plain assignments; the comment is the help text:
#
#   stage=1        # first stage to run
#   corpus=mini    # mini, folder or voxceleb
#   train_dir=     # folder of recordings
#   parse_options "$@"
#
# --corpus folder or --corpus=folder sets $corpus, --train-dir sets $train_dir. An option whose default is a whole
# number takes whole numbers only. --help prints the comment at the head of the recipe and the options with their
# defaults. Anything else ends with one sentence and status 1. What the user types is never evaluated.

fail() {
  echo "error: $*" >&2
  exit 1
}

# Fills option_names and option_texts from the assignments above the call of parse_options.
read_options() {
  local line pattern='^([a-z][a-z0-9_]*)=([^#]* )?# *(.*)$'
  option_names=() option_texts=()
  while IFS= read -r line && [[ $line != parse_options* ]]; do
    if [[ $line =~ $pattern ]]; then
      option_names+=("${BASH_REMATCH[1]}")
      option_texts+=("${BASH_REMATCH[3]}")
    fi
  done <"$0"
}

print_help() {
  local line i name
  {
    read -r line   # the #! line
    while IFS= read -r line && [[ $line == \#* ]]; do
      line=${line#\#}
      echo "${line# }"
    done
  } <"$0"
  printf '\nOptions [default]\n'
  for i in "${!option_names[@]}"; do
    name=${option_names[i]}
    printf '  --%-12s %s%s\n' "${name//_/-}" "${option_texts[i]}" "${!name:+ [${!name}]}"
  done
}

# NAME VALUE: sets an option. An option whose default is a number takes numbers only.
set_option() {
  local name=${1//-/_} value=$2
  if [[ ${!name} =~ ^[0-9]+$ ]]; then
    [[ $value =~ ^[0-9]{1,9}$ ]] || fail "--$1 takes a whole number, not '$value'"
    value=$((10#$value))
  fi
  printf -v "$name" %s "$value"
}

parse_options() {
  local option
  read_options
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) print_help && exit 0 ;;
      --[a-z]*) option=${1#--} && option=${option%%=*} ;;
      *) fail "'$1' is not an option: options look like --corpus folder; --help lists them" ;;
    esac
    [[ $option != *[!a-z0-9_-]* && " ${option_names[*]} " == *" ${option//-/_} "* ]] ||
      fail "there is no option --$option; --help lists the options"
    if [[ $1 == *=* ]]; then
      set_option "$option" "${1#*=}"
    elif [ $# -eq 1 ] || [[ $2 == --* ]]; then
      fail "--$option needs a value"
    else
      set_option "$option" "$2"
      shift
    fi
    shift
  done
}

# NAME...: these options must have been given.
required() {
  local name
  for name in "$@"; do
    [ -n "${!name}" ] || fail "--${name//_/-} is missing${corpus:+: --corpus $corpus requires it}"
  done
}

# CORPUS NAME...: these options have a meaning with that corpus only.
only_with() {
  local wanted=$1 name
  for name in "${@:2}"; do
    [ "${corpus:-}" = "$wanted" ] || [ -z "${!name}" ] ||
      fail "--${name//_/-} belongs to --corpus $wanted, and the corpus is ${corpus:-not given}"
  done
}

# NAME...: each of these options, where given, must name an existing folder; it becomes an absolute path.
existing_folders() {
  local name
  for name in "$@"; do
    [ -n "${!name}" ] || continue
    [ -d "${!name}" ] || fail "--${name//_/-}: there is no folder ${!name}"
    [[ -r ${!name} && -x ${!name} ]] || fail "--${name//_/-}: the folder ${!name} cannot be read"
    printf -v "$name" %s "$(CDPATH='' cd -- "${!name}" && pwd)"
  done
}

# NAME...: paths that may not exist yet become absolute; they are relative to the current folder.
absolute_paths() {
  local name
  for name in "$@"; do
    [ -n "${!name}" ] || continue
    [[ ${!name} == /* ]] || printf -v "$name" %s "$PWD/${!name}"
  done
}
