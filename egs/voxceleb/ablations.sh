#!/usr/bin/env bash
# What the parts of Contrastive Separative Coding are worth: one training per arm and seed, all in one table.
#
#   bash egs/voxceleb/run.sh --stop-stage 2     once: the mini corpus
#   bash egs/voxceleb/ablations.sh              writes exp/ablations/<arm>_<seed>/ and exp/ablations/table.md
#
# An arm is the config with the few lines of conf/mini/ablations/<arm>.yaml over it:
#
#   attention      the method as it is
#   mean           the mean of an identity's bank in place of attention
#   table          a trainable table in place of the bank
#   no_separation  without the separation loss
#   no_contrast    without the contrastive loss
#   supervised     AAM-softmax on the same branch, TRAINED WITH TRUE SPEAKER LABELS: the only arm that sees any
#   released       the GALR block as its authors released it; only with --arms
#
# What is done is skipped, an interrupted training is continued. An arm `attention` equals a training of run.sh
# but for rounding, and is trained again: here every training has one thread, because several of one thread use
# the cores better than one of several.
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/utils/parse_options.sh"
. "$root/utils/stage.sh"

seeds="1 2 3"    # random seeds of the trainings; arms are compared seed by seed
arms="attention mean table no_separation no_contrast supervised"    # which arms; all are compared with the first
data=            # prepared corpus (default: data/mini)
exp=             # folder for the runs (default: exp/ablations)
config=          # what the arms change (default: conf/mini/csc.yaml)
jobs=$(getconf _NPROCESSORS_ONLN)    # trainings at a time, of one thread and about 2 GB each
device=cpu       # cpu or cuda
parse_options "$@"

read -ra seeds_asked <<<"$seeds"
read -ra arms_asked <<<"$arms"
[[ "$seeds " =~ ^([0-9]+\ +)+$ ]] || fail "--seeds takes whole numbers, and '$seeds' is something else"
((jobs > 0 && ${#arms_asked[@]} > 0)) || fail "--jobs is at least 1, and --arms names at least one arm"
absolute_paths data exp config
cd "$root"
data=${data:-data/mini} exp=${exp:-exp/ablations} config=${config:-egs/voxceleb/conf/mini/csc.yaml}
changes=egs/voxceleb/conf/mini/ablations
for file in "$config" "${arms_asked[@]/%/.yaml}"; do
  [[ -f $file || -f $changes/$file ]] ||
    fail "there is no config $file; the arms in $changes are: $(cd "$changes" && echo *.yaml)"
done
for set in train noise test test_adverse; do
  [ -d "$data/$set" ] || fail "there is no $data/$set: run 'bash egs/voxceleb/run.sh --stop-stage 2' first"
done
. ./path.sh
export OMP_NUM_THREADS=1

# ARM SEED: training, embeddings and scores, in $exp/ARM_SEED.
run_arm() {
  local folder=$exp/$1_$2 set list labels=()
  [ "$1" != supervised ] || labels=(--labels "$data/train/speakers.tsv")
  keep_markers_in "$folder"
  if stage 1 "train arm $1 with seed $2"; then
    continues "$folder/checkpoints"
    run local/train.py --config "$config" --config "$changes/$1.yaml" --data "$data/train" --noise "$data/noise" \
      --exp "$folder" --seed "$2" --device "$device" --training.workers 1 "${labels[@]}"
  fi
  if stage 2 "extract embeddings"; then
    for set in test test_adverse; do
      continues "$folder/embeddings/$set.scp"
      run local/extract_embeddings.py --checkpoint "$folder/checkpoints/final.pt" --cuts "$data/$set" \
        --out "$folder/embeddings/$set" --device "$device" --workers 1
    done
  fi
  if stage 3 "score"; then
    makes "$folder/scores"
    for list in "$data"/{test,test_adverse}/trials/*.txt; do
      set=$(basename "$(dirname "$(dirname "$list")")")
      run local/score_trials.py --system "$1" --embeddings "$folder/embeddings/$set.scp" --trials "$list" \
        --speakers "$data/$set/speakers.tsv" --scoring cosine --out "$folder/scores"
    done
    run local/make_results.py --exp "$folder" --recipe voxceleb --corpus "$(basename "$data")" --method "$1" \
      --seed "$2"
  fi
  end_stages
}

# ARM_SEED...: one after the other, each with a log of its own.
work() {
  local name
  for name in "$@"; do
    log "$name: $exp/$name.log"
    run_arm "${name%_*}" "${name##*_}" >>"$exp/$name.log" 2>&1 </dev/null &
    wait $! || fail "$name failed; the end of $exp/$name.log is: $(tail -n 2 "$exp/$name.log")"
  done
}

mkdir -p "$exp" || fail "$exp cannot be written"
runs=()
for seed in "${seeds_asked[@]}"; do runs+=("${arms_asked[@]/%/_$seed}"); done
set -m    # each worker leads a process group: whatever ends this script ends all that it has started
workers=()
trap 'kill -- "${workers[@]/#/-}" 2>/dev/null || true' EXIT
for ((i = 0; i < jobs && i < ${#runs[@]}; i++)); do
  share=()
  for ((n = i; n < ${#runs[@]}; n += jobs)); do share+=("${runs[n]}"); done
  work "${share[@]}" &
  workers+=($!)
done
failed=0
for worker in "${workers[@]}"; do wait "$worker" || failed=1; done
workers=()
[ "$failed" = 0 ] || fail "not all runs are done, see above; the same command goes on from there"
folders=$(printf ",$exp/%s" "${runs[@]}")
python local/tabulate_ablations.py --runs "${folders#,}" --out "$exp/table.md"
