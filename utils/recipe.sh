# shellcheck shell=bash disable=SC2154   # the options are set by run.sh
# What all recipes share, sourced by every run.sh. It brings the options (parse_options.sh) and the stages (stage.sh).

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
here=$PWD    # paths among the options are relative to it
# shellcheck source=utils/parse_options.sh
. "$root/utils/parse_options.sh"
# shellcheck source=utils/stage.sh
. "$root/utils/stage.sh"
checks=() launcher=() device=cuda    # what check_run checks; how to start a training, and where

# RECIPE STAGES: checks the options that every recipe has, goes to the project's root, and sets
#   conf      the recipe's folder of configs: conf/mini for the mini corpus; conf/cpu, or conf/mini, without a GPU
#   device    cuda or cpu
#   launcher  torchrun where there are several GPUs
common_options() {
  ((1 <= stage && stage <= stop_stage && stop_stage <= $2)) ||
    fail "--stage $stage --stop-stage $stop_stage: the stages are 1 to $2, and the first comes before the last"
  ((nj > 0)) || fail "--nj is at least 1"
  absolute_paths config data exp
  cd "$root" || exit 1
  conf=egs/$1/conf
  [ "$gpus" -gt 0 ] || device=cpu
  [ "$gpus" -lt 2 ] || launcher=(torchrun --standalone --nproc-per-node "$gpus")
  if [ "$corpus" != mini ] && [ "$device" = cpu ] && [ -d "$conf/cpu" ]; then
    conf=$conf/cpu
  elif [ "$corpus" = mini ] || [ "$device" = cpu ]; then
    conf=$conf/mini
  fi
}

# FILE...: each is a config that exists.
existing_configs() {
  local file
  for file in "$@"; do
    [ -f "$file" ] || fail "there is no config $file; in $conf there are: $(cd "$conf" && echo *.yaml)"
  done
}

# OPTION...: local/train.py takes these options (a --config among them). Checked by check_run.
check_training() { checks+=(-- parse local/train.py "$@" --data data --exp exp); }

# NAME...: the folders that these options name can be written, or made.
writable() {
  local name above
  for name in "$@"; do
    above=${!name}
    while [ ! -e "$above" ]; do above=$(dirname -- "$above"); done
    [[ -d $above && -w $above && -x $above ]] || fail "--$name: the folder ${!name} cannot be written"
  done
}

# OPTION...: sets up the environment and checks, in one process, what check_training was given and the options here:
# --gpus and more, see utils/check_run.py. Its answers, lines of a name and values, are in $answers.
check_run() {
  [ -d "$data" ] || writable data    # prepared data are only read
  writable exp
  . ./path.sh
  answers=$(python utils/check_run.py --here "$here" "$@" "${checks[@]}") || exit 1
}

# WORD...: as a list in YAML.
as_list() {
  local words='' quoted=("${@//\\/\\\\}")
  [ $# -eq 0 ] || printf -v words ', "%s"' "${quoted[@]//\"/\\\"}"
  echo "[${words#, }]"
}

# NAME: the values of the answers of that name, one a line.
answer() { sed -n "s/^$1 //p" <<<"$answers"; }

# FOLDER OPTION...: a network, trained into FOLDER/checkpoints. An interrupted training continues.
train() {
  continues "$1/checkpoints/final.pt"
  run "${launcher[@]}" local/train.py --exp "$1" --seed "$seed" --device "$device" "${@:2}"
}

# CHECKPOINT SET OUT: the embeddings of a set, OUT.ark and OUT.scp.
extract() {
  continues "$3.scp"
  run local/extract_embeddings.py --checkpoint "$1" --cuts "$2" --out "$3" --device "$device"
}

# SET: says what is wrong with a prepared set, if anything.
validate() {
  reads "$1"/{speakers.tsv,emotions.tsv,trials}
  run utils/validate_data.py "$1"
}

# NAME...: these options are yes or no.
yes_or_no() {
  local name
  for name in "$@"; do
    [[ ${!name} == yes || ${!name} == no ]] || fail "--${name//_/-} is yes or no, not '${!name}'"
  done
}

# CORPUS[:OPTION,OPTION...]...: --corpus is mini or one of these; each needs its options.
corpora() {
  local words=("$@") word names=mini required_names
  for word in "${words[@]}"; do names+=", ${word%%:*}"; done
  [ "$corpus" != mini ] || return 0
  for word in "${words[@]}"; do
    [ "$corpus" = "${word%%:*}" ] || continue
    [[ $word != *:* ]] || IFS=, read -ra required_names <<<"${word#*:}"
    required "${required_names[@]}"
    return 0
  done
  fail "--corpus is ${names%, *} or ${names##*, }, not '$corpus'"
}

# Ends a recipe: closes the last stage, and names the finished parts that other code made.
end_recipe() {
  end_stages
  tell_other_code
}
