# shellcheck shell=bash
# The stages of a recipe, sourced by its run.sh:
#
#   keep_markers_in exp/mini_csc              # done-markers of the stages below go to exp/mini_csc/.done
#   if stage 3 "train csc"; then
#     continues exp/mini_csc/checkpoints/final.pt
#     run local/train.py --config conf/csc.yaml --exp exp/mini_csc
#   fi
#   end_stages
#
# stage      honours --stage and --stop-stage and prints the heading.
# run        shows the command, runs it (a .py file under python) and stops the recipe when it fails. A command whose
#            outputs exist is skipped as long as neither its words nor anything that it reads has changed
#            (utils/cache.py). A stage in which nothing ran says so.
# reads      PATH...: the next command reads these besides the paths among its words.
# makes      PATH...: the next command makes these. Outputs of another command, or made from other inputs, are first
#            moved to a folder `previous` beside them; to previous/unfinished if it was killed. After a kill the same
#            command finds what it left.
# continues  PATH...: the same for a script that recognises its own outputs and continues from them.
#
# shares     FOLDER: this script reads FOLDER until it ends, and keeps no markers there.
#
# Locks: recipes that only read a folder share it. A recipe that has to change it waits until no other one uses it. A
# folder that cannot be written is read without a lock if it has none.

marker_folders=() done_folder='' current_stage='' code='' lock_of=''
paths_read=() paths_made=() paths_replaced=()

# Time, script and line, text. The line is the recipe's, or $line.
log() {
  printf '%s %s:%s %s\n' "$(date +%H:%M:%S)" "${0##*/}" "${line:-${BASH_LINENO[${#BASH_LINENO[@]} - 2]}}" "$*"
}

cache() { python "${BASH_SOURCE[0]%/*}/cache.py" "$@"; }

# FOLDER: markers of the next stages go to FOLDER/.done. The folder before it stays locked for reading.
keep_markers_in() {
  end_stages
  if [ -n "$done_folder" ] && [ "$1/.done" -ef "$done_folder" ]; then return; fi
  [ -z "$lock_of" ] || flock -s "$lock_of" 2>/dev/null || true
  done_folder=$1/.done
  marker_folders+=("$done_folder")
  mkdir -p "$done_folder" 2>/dev/null || [ -d "$1" ] || fail "$1 cannot be written"
  [ -n "$code" ] || code=$(cache code)
  shares "$1"
}

# FOLDER: locks it for reading, and sets $lock_of, which is empty where there are no locks.
shares() {
  local file=$1/.done/lock
  lock_of=''
  command -v flock >/dev/null || return 0
  if [ -w "$file" ] || { [ ! -e "$file" ] && [ -w "$1/.done" ]; }; then
    exec {lock_of}>>"$file"
  elif [ -r "$file" ]; then
    exec {lock_of}<"$file"
  fi
  wait_for_lock -s "is changing $1"
}

# MODE WHAT: takes the lock of the current folder, shared (-s) or alone (-x). Not every NFS has locks: then flock ends with
# another status than 1.
wait_for_lock() {
  local status=0
  [ -n "$lock_of" ] || return 0
  flock -n "$1" "$lock_of" 2>/dev/null || status=$?
  if [ $status -eq 1 ]; then
    log "another recipe $2: waiting until it ends"
    flock "$1" "$lock_of"
  fi
}

# NUMBER WHAT: true when this stage is asked for.
stage() {
  end_stages
  if (($1 < ${stage:-1} || $1 > ${stop_stage:-99})); then return 1; fi
  current_stage=$1 stage_title=$2 stage_line=${BASH_LINENO[0]}
  stage_seconds=0 stage_paths=() commands=0 commands_run=0
}

reads() { paths_read+=("$@"); }
makes() { paths_made+=("$@") && paths_replaced+=("$@"); }
continues() { paths_made+=("$@"); }

run() {
  local found state marker seconds=0
  commands=$((commands + 1))
  found=$(check_command "$@") || stage_failed $?
  if [[ $found != done* ]]; then
    [ -w "$done_folder" ] ||
      fail "stage $current_stage: $stage_title: has to run, but ${done_folder%/.done} cannot be written"
    wait_for_lock -x "is using ${done_folder%/.done}"
    found=$(check_command --start -- "$@") || stage_failed $?   # another recipe may have done it meanwhile
  fi
  read -r state marker <<<"$found"
  if [ "$state" != "done" ]; then
    [ "$commands_run" -gt 0 ] || log "stage $current_stage: $stage_title"
    commands_run=$((commands_run + 1))
    [ "$state" = again ] || move_to_previous "$state" "${paths_replaced[@]}"
    mv -f "${marker%.json}.new" "$marker"
    show_and_run "$@"
    cache finish "$marker" "$seconds" || stage_failed $?
  fi
  stage_seconds=$((stage_seconds + seconds))
  stage_paths+=("${paths_made[@]}")
  paths_read=() paths_made=() paths_replaced=()
}

# [--start --] COMMAND...: what utils/cache.py says of it.
check_command() {
  local started=()
  [ "$1" != --start ] || { started=(--start) && shift 2; }
  cache check --done "$done_folder" --stage "$current_stage" --title "$stage_title" --code "$code" "${started[@]}" \
    --reads "${paths_read[@]}" --outputs "${paths_made[@]}" -- "$@"
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

# STATE PATH...: keeps the outputs that are about to be replaced, one generation of them, so that a slip in an option loses
# nothing. Unfinished outputs go to a folder of their own and never replace finished ones.
move_to_previous() {
  local path folder made=made
  [ "$1" != unfinished ] || made=begun
  for path in "${@:2}"; do
    [ -e "$path" ] || continue
    folder=$(dirname "$path")/previous
    [ "$1" != unfinished ] || folder+=/unfinished
    log "$path was $made with other settings or inputs: moved to $folder"
    { mkdir -p "$folder" && rm -rf "${folder:?}/${path##*/}" && mv "$path" "$folder/"; } || stage_failed $?
  done
}

# STATUS: the command has printed the reason; this adds the stage, and what to do.
stage_failed() {
  echo "stage $current_stage: $stage_title: stopped with status $1, see above; the same command continues from there" >&2
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
  current_stage=''
}

# FOLDER: writes FOLDER/seconds.json with the seconds of the stages before this one by number, whether they ran in this
# call or in an earlier one, and FOLDER/commits.json with the commit of the code that made each of them.
write_history() {
  local what
  for what in seconds commits; do
    cache "$what" --stage "$current_stage" "${marker_folders[@]}" >"$1/$what.json.new"
    mv "$1/$what.json.new" "$1/$what.json"
  done
}

# At the end of a recipe: names the finished stages that another version of the code made. They are kept.
tell_other_code() {
  local text
  text=$(cache other-code --code "$code" "${marker_folders[@]}")
  [ -z "$text" ] || while IFS= read -r text; do log "$text"; done <<<"$text"
}
