# shellcheck shell=bash
# The stages of a recipe, sourced by its run.sh:
#
#   keep_markers_in exp/mini_csc              # done-markers of the stages below go to exp/mini_csc/.done
#   if stage 3 "train csc"; then
#     continues exp/mini_csc/checkpoints
#     run local/train.py --config conf/csc.yaml --exp exp/mini_csc
#   fi
#   end_stages
#
# stage      keeps to --stage and --stop-stage and prints the heading.
# run        shows the command, runs it (a .py file under python) and stops the recipe when it fails. A command that
#            is done already is not run: neither has its fingerprint changed (its words, its YAML files, the folders
#            it reads; see utils/fingerprint.py), nor has a command before it been run again, and what it made is
#            still there. A stage of which nothing was run says so.
# reads      PATH...: the next command depends on these files of the user's, or on what lies in these folders.
# makes      PATH...: the next command makes these. Made by another command than this one, they are first moved to a
#            folder `previous` beside them. After a kill the command is the same one, and finds what it left.
# continues  PATH...: the same for a script that tells by itself whether what is there is its own and goes on with it.
#
# Marker of a command, .done/<stage>.<command>: "started|done FINGERPRINT SECONDS MAKING", the last a number drawn
# when the command was run. Marker of a stage, .done/<stage>: "done FINGERPRINT MAKING SECONDS", the first two those
# of its last command.

marker_folders=() done_folder='' current_stage='' before=''
folders_read=() paths_made=() paths_replaced=()

# Time, script and line, text. The line is the recipe's, or $line.
log() {
  printf '%s %s:%s %s\n' "$(date +%H:%M:%S)" "${0##*/}" "${line:-${BASH_LINENO[${#BASH_LINENO[@]} - 2]}}" "$*"
}

# FOLDER: markers of the next stages go to FOLDER/.done; one recipe at a time works on a folder, others wait.
keep_markers_in() {
  end_stages
  done_folder=$1/.done
  marker_folders+=("$done_folder")
  mkdir -p "$done_folder" || fail "$1 cannot be written"
  if command -v flock >/dev/null; then
    exec 8>"$done_folder/lock"
    flock -n 8 || { log "another recipe is working on $1: waiting for it" && flock 8; } || true   # not on every NFS
  fi
}

# NUMBER WHAT: true when this stage is asked for.
stage() {
  local fingerprint='' making=''
  end_stages
  if (($1 < ${stage:-1} || $1 > ${stop_stage:-99})); then
    [ ! -f "$done_folder/$1" ] || read -r _ fingerprint making _ <"$done_folder/$1"
    before="$fingerprint $making"
    return 1
  fi
  current_stage=$1 stage_title=$2 stage_line=${BASH_LINENO[0]}
  stage_seconds=0 stage_paths=() commands=0 commands_run=0
}

reads() { folders_read+=("$@"); }
makes() { paths_made+=("$@") && paths_replaced+=("$@"); }
continues() { paths_made+=("$@"); }

run() {
  local marker fingerprint state='' old_fingerprint='' seconds=0 making=''
  commands=$((commands + 1))
  marker=$done_folder/$current_stage.$commands
  fingerprint=$(python "${BASH_SOURCE[0]%/*}/fingerprint.py" \
    --after "$before" --reads "${folders_read[@]}" -- "$@") || stage_failed $?
  [ ! -f "$marker" ] || read -r state old_fingerprint seconds making <"$marker"
  if [ "$state $old_fingerprint" != "done $fingerprint" ] || ! all_exist "${paths_made[@]}"; then
    [ "$commands_run" -gt 0 ] || log "stage $current_stage: $stage_title"
    commands_run=$((commands_run + 1))
    [ "$old_fingerprint" = "$fingerprint" ] || move_to_previous "${paths_replaced[@]}"
    making=$RANDOM$RANDOM
    mark "$marker" started "$fingerprint" 0 "$making"
    show_and_run "$@"
    mark "$marker" "done" "$fingerprint" "$seconds" "$making"
  fi
  before="$fingerprint $making"
  stage_seconds=$((stage_seconds + seconds))
  stage_paths+=("${paths_made[@]}")
  folders_read=() paths_made=() paths_replaced=()
}

# Sets the caller's $seconds.
show_and_run() {
  local start=$SECONDS words
  [[ $1 != *.py ]] || set -- python "$@"
  printf -v words ' %q' "$@"
  log "${words:1}"
  "$@" || stage_failed $?
  seconds=$((SECONDS - start))
}

# FILE WORD...
mark() {
  echo "${@:2}" >"$1.new" && mv "$1.new" "$1"
}

all_exist() {
  local path
  for path in "$@"; do [ -e "$path" ] || return 1; done
}

# PATH...: one generation is kept of what is about to be made anew, so that nothing is lost by a slip in an option.
move_to_previous() {
  local path folder
  for path in "$@"; do
    [ -e "$path" ] || continue
    folder=$(dirname "$path")/previous
    log "$path was made with other settings or inputs: moved to $folder"
    mkdir -p "$folder" && rm -rf "${folder:?}/${path##*/}" && mv "$path" "$folder/"
  done
}

# STATUS: the command has said why; this says where, and what to do.
stage_failed() {
  echo "stage $current_stage: $stage_title: stopped with status $1, see above; the same command goes on from there" >&2
  exit "$1"
}

# Closes the stage before the next one starts, and the last one at the end of a recipe.
end_stages() {
  [ -n "$current_stage" ] || return 0
  local line=$stage_line
  if [ "$commands" -eq 0 ]; then
    log "stage $current_stage: $stage_title: nothing to do"
  elif [ "$commands_run" -eq 0 ]; then
    log "stage $current_stage: $stage_title: done already; to run it again delete ${stage_paths[*]}"
  else
    log "stage $current_stage took $stage_seconds s"
  fi
  mark "$done_folder/$current_stage" "done" "$before" "$stage_seconds"
  current_stage=''
}

# FILE: {"1": seconds, ...} of all stages that are done, whether in this run or in an earlier one.
write_seconds() {
  local folder file marker separator=''
  {
    printf '{'
    for folder in "${marker_folders[@]}"; do
      for file in "$folder"/[0-9]; do
        [ -f "$file" ] || continue
        marker=$(cat "$file")
        printf '%s"%s": %d' "$separator" "${file##*/}" "${marker##* }"
        separator=', '
      done
    done
    printf '}\n'
  } >"$1.new" && mv "$1.new" "$1"
}
