# shellcheck shell=bash
# Several trainings at a time, for scripts that make many of them:
#
#   in_parallel 2 exp/ablations train_arm dino_1 dino_2 centred_1
#
# calls `train_arm NAME` for every name, two at a time, and writes the output of each to exp/ablations/<name>.log. A
# failure prints the last lines of that log and ends the worker; the other worker continues, and the script fails at the
# end.

pool_workers=()
trap 'kill -- "${pool_workers[@]/#/-}" 2>/dev/null || true' EXIT

# JOBS FOLDER FUNCTION NAME...
in_parallel() {
  local jobs=$1 folder=$2 function=$3 i n share worker failed=0
  shift 3
  local names=("$@")
  mkdir -p "$folder" || fail "$folder cannot be written"
  set -m    # each worker leads a process group: when the script ends, everything that it started ends
  for ((i = 0; i < jobs && i < ${#names[@]}; i++)); do
    share=()
    for ((n = i; n < ${#names[@]}; n += jobs)); do share+=("${names[n]}"); done
    one_by_one "$folder" "$function" "${share[@]}" &
    pool_workers+=($!)
  done
  for worker in "${pool_workers[@]}"; do wait "$worker" || failed=1; done
  pool_workers=()
  set +m
  [ $failed = 0 ] || fail "some of them failed, see above; the same command continues from there"
}

# FOLDER FUNCTION NAME...
one_by_one() {
  local folder=$1 function=$2 name
  for name in "${@:3}"; do
    log "$name: $folder/$name.log"
    "$function" "$name" >>"$folder/$name.log" 2>&1 </dev/null &
    wait $! || fail "$name failed; the end of $folder/$name.log is: $(tail -n 2 "$folder/$name.log")"
  done
}
