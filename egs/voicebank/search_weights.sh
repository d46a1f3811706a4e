#!/usr/bin/env bash
# Search the weight of the regulariser: each arm is trained with several weights, over the same range for all arms, and
# scored on the validation pairs; test pairs are not used. The weights found go into conf/arms.
#
#   bash egs/voicebank/run.sh --stop-stage 3                             once: pairs, feature space and negatives
#   bash egs/voicebank/search_weights.sh --from exp/mini_crn             writes exp/mini_crn_weights/table.md
#
# Finished trainings are skipped, interrupted ones continue.
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/utils/parse_options.sh"
. "$root/utils/stage.sh"
. "$root/utils/pool.sh"

from=            # finished run of run.sh, whose networks without a regulariser made the negatives
arms='positive cr ccr'     # arms to train
factors='0.2 0.5 1 2 5'    # weights to try, as multiples of those in conf/arms
data=            # prepared pairs of that run (default: those of mini)
negatives='10 35 100'    # the value of --negatives in that run
space=           # feature space: final.pt of an encoder, or logmel (default: the encoder of that run)
bundle=          # --space holds the weights of this torchaudio model
exp=             # folder for the trainings (default: <from>_weights)
seed=1           # random seed of the trainings
jobs=$(getconf _NPROCESSORS_ONLN)    # trainings at a time, each with one thread and about 1 GB
device=cpu       # cpu or cuda
parse_options "$@"

required from
[ -z "$bundle" ] || [[ -n $space && $space != logmel ]] || fail "--bundle $bundle: give the file of its weights with --space"
absolute_paths from data exp
[ "$space" = logmel ] || absolute_paths space
cd "$root"
((jobs > 0)) || fail "--jobs is at least 1"
read -ra arms_asked <<<"$arms"
read -ra factors_asked <<<"$factors"
((${#arms_asked[@]} > 0 && ${#factors_asked[@]} > 0)) || fail "--arms and --factors name at least one each"
for factor in "${factors_asked[@]}"; do
  [[ $factor =~ ^[0-9]*\.?[0-9]+$ ]] || fail "--factors takes numbers, not '$factor'"
done
config=$from/none/config.yaml   # the network and the steps of the run
[ -f "$config" ] || fail "--from: there is no $config: run 'bash egs/voicebank/run.sh --stop-stage 3' first"
space=${space:-$from/space/checkpoints/final.pt} exp=${exp:-${from}_weights}
in_space=(--objective.regulariser.feature_space.name encoder --objective.regulariser.feature_space.checkpoint "$space")
[ -z "$bundle" ] || in_space=(--objective.regulariser.feature_space.name torchaudio
  --objective.regulariser.feature_space.checkpoint "$space" --objective.regulariser.feature_space.bundle "$bundle")
[ "$space" != logmel ] || in_space=(--objective.regulariser.feature_space.name logmel)
arm_configs=egs/voicebank/conf/arms
for file in "$space" "${arms_asked[@]/%/.yaml}"; do
  [[ $file == logmel || -f $file || -f $arm_configs/$file ]] ||
    fail "there is no file $file; check the name, or run egs/voicebank/run.sh"
done
graded=()
for share in $negatives; do
  [[ $share =~ ^([1-9][0-9]?|100)$ ]] || fail "--negatives: '$share' is no percentage from 1 to 100"
  if [ "$share" -eq 100 ]; then graded+=("$from/none"); else graded+=("$from/none_$share"); fi
done
((${#graded[@]} > 0)) || fail "--negatives names at least one: what --negatives of run.sh was"
# With --mixing anew, the run enhanced no training set: its networks themselves are the negatives.
mixing=once negatives_of=("${graded[@]/%//enhanced}")
if [[ -d ${graded[0]}/enhanced/valid && ! -d ${graded[0]}/enhanced/train ]]; then
  mixing=anew negatives_of=("${graded[@]/%//checkpoints/final.pt}")
fi
for negative in "${graded[@]/%//checkpoints/final.pt}" "${negatives_of[@]}"; do
  [[ -f $negative || -d $negative/train && -d $negative/valid ]] ||
    fail "--from: there is no $negative: run 'bash egs/voicebank/run.sh --stop-stage 3' for it first"
done
printf -v list ', "%s"' "${negatives_of[@]}"
list=${list#, } read_too=("${graded[@]/%//checkpoints/final.pt}")
[ "$space" = logmel ] || read_too+=("$space")
if [ "$mixing" = once ]; then
  data=${data:-data/mini_pairs} learnt=$data/train sides=("$data"/{train,valid}/{clean,noisy}) mixed_in=()
else
  data=${data:-data/mini_anew_pairs}
  learnt=$data/train/speech sides=("$learnt" "$data"/valid/{clean,noisy}) mixed_in=(--noise "$data/noise")
  read_too+=("$data/noise")
fi
for side in "${sides[@]}"; do
  [ -d "$side" ] || fail "there is no $side: give the pairs of the run as --data"
done
. ./path.sh
cslib_also_needs egs/voicebank/requirements.txt
printf -v enhanced ', "%s"' "${graded[@]/%//enhanced}"
python local/check_space.py --pairs "$data/valid" --negatives "[${enhanced#, }]" \
  "${in_space[@]/#--objective.regulariser.feature_space./--space.}" --device "$device" ||
  fail "--data: $data does not hold the pairs that $from learnt from, or the space cannot be opened, see above"
export OMP_NUM_THREADS=1
shares "$data"

# ARM_FACTOR: trains the arm with that weight and scores the enhanced validation pairs.
try_weight() {
  local arm=${1%_*} folder=$exp/$1 weight
  weight=$(awk -v factor="${1##*_}" '/ weight: /{ sub(/.* weight: /, ""); print factor * $0 }' "$arm_configs/$arm.yaml")
  keep_markers_in "$folder"
  if stage 1 "train $arm with a weight of $weight"; then
    reads "${sides[@]}" "${read_too[@]}"
    continues "$folder/checkpoints/final.pt"
    run local/train.py --config "$config" --config "$arm_configs/$arm.yaml" --data "$learnt" "${mixed_in[@]}" \
      --exp "$folder" --seed "$seed" --device "$device" --training.workers 0 --objective.validation.pairs "$data/valid" \
      --objective.negatives "[$list]" --objective.regulariser.weight "$weight" "${in_space[@]}"
  fi
  if stage 2 "enhance and score the validation pairs"; then
    makes "$folder/enhanced/valid"
    run local/enhance.py --checkpoint "$folder/checkpoints/final.pt" --in "$data/valid/noisy" \
      --out "$folder/enhanced/valid" --device "$device"
    makes "$exp/$1.tsv"
    run local/score_enhancement.py --clean "$data/valid/clean" --enhanced "$folder/enhanced/valid" \
      --out "$exp/$1.tsv" --nj 1
  fi
  end_stages
}

runs=()
for factor in "${factors_asked[@]}"; do runs+=("${arms_asked[@]/%/_$factor}"); done
in_parallel "$jobs" "$exp" try_weight "${runs[@]}"
runs=("${runs[@]/#/"$exp/"}")
printf -v tables ',%s.tsv' "${runs[@]}"
python local/tabulate_scores.py --scores "${tables#,}" --out "$exp/table.md"
