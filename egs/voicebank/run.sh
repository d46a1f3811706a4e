#!/usr/bin/env bash
# Speech enhancement with a contrastive regulariser in a label-free feature space: from recordings to a table.
#
#   bash egs/voicebank/run.sh                    on a corpus that is synthesised here: no data, no GPU needed
#   bash egs/voicebank/run.sh --corpus folder --clean-dir A --noisy-dir B --test-clean-dir C --test-noisy-dir D
#   bash egs/voicebank/run.sh --corpus folder --clean-dir A --test-clean-dir B --noise-dir C     mixed here
#   bash egs/voicebank/run.sh --corpus voicebank --voicebank A --space wav2vec2.pth --bundle WAV2VEC2_BASE --gpus 4
#
# Stage         reads                             writes
#   1 data      the corpus folders                data/<corpus>_pairs: train, valid, test; scores of the noisy test
#   2 space     the clean side of train           exp/<run>/space: the encoder in whose features speech is compared
#   3 none      train, valid, the config          exp/<run>/none, none_10, ...: networks without a regulariser,
#                                                 and what they make of train and valid: the negatives (with
#                                                 --mixing anew the networks themselves are)
#   4 arms      train, valid, space, negatives    exp/<run>/<arm>: one network for each arm
#   5 enhance   the noisy side of test            exp/<run>/<arm>/enhanced/test
#   6 score     the enhanced and the clean test   exp/<run>/scores
#   7 results   scores, logs                      exp/<run>/results.json, spectrograms.png, and the table on the screen
#
# A stage that is done is skipped; it runs again when its config or its inputs have changed. Paths that you give are
# relative to where you are; the default folders data/ and exp/ lie in the project's root.
set -euo pipefail
{   # bash reads a script while it runs; a block it reads whole, so that this file may be edited meanwhile
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/utils/parse_options.sh"
. "$root/utils/stage.sh"

stage=1          # first stage to run
stop_stage=7     # last stage to run
corpus=mini      # mini (synthesised here), folder (recordings of your own) or voicebank
backbone=crn     # the network: crn, mask_gru, tf_conformer or any other name of a config
config=          # the config, by whose name results go (default: conf/mini/<backbone>.yaml; on a GPU conf/<backbone>.yaml)
arms='none positive cr ccr'    # what is trained and compared; fixed, hard_only, cr_matched and literal are controls
negatives='10 35 100'    # networks that make negatives, by the share of the steps, in percent, that each learns for
space=           # final.pt of an encoder to compare in, or logmel (default: one is trained, with space.yaml by the config)
bundle=          # --space holds the weights of this torchaudio model, e.g. WAV2VEC2_BASE, and not our own
mixing=once      # of mini, and of a folder with noise: once, pairs are kept; or anew, in training, for every crop
data=            # folder for the prepared corpus (default: data/<corpus>_pairs; <corpus>_anew_pairs with --mixing anew)
exp=             # folder for the run (default: exp/<corpus>_<backbone>; <corpus>_anew_<backbone> with --mixing anew)
seed=1           # random seed of training; the corpus stays the same
nj=$(getconf _NPROCESSORS_ONLN)    # processes that prepare data and score
gpus=$(nvidia-smi -L 2>/dev/null | grep -c -m 1 ^GPU || true)    # GPUs to train on; 0: the CPU
clean_dir=       # folder: clean recordings to learn from, in any tree
noisy_dir=       # folder: the same ones noisy; without it they are mixed with noise
test_clean_dir=  # folder: clean recordings to test on
test_noisy_dir=  # folder: the same ones noisy; without it they are mixed with noise
noise_dir=       # folder: noises to mix with (default: synthetic ones); a third of them for the test only
voicebank=       # voicebank: the folder with clean_trainset_28spk_wav, noisy_trainset_28spk_wav, ... of VoiceBank-DEMAND
train_set=       # voicebank: 28spk or 56spk (default: 28spk)
parse_options "$@"

# All that was given is checked before anything is made.
case $corpus in
  mini) ;;
  folder) required clean_dir test_clean_dir ;;
  voicebank) required voicebank ;;
  *) fail "--corpus is mini, folder or voicebank, not '$corpus'" ;;
esac
only_with folder clean_dir noisy_dir test_clean_dir test_noisy_dir noise_dir
only_with voicebank voicebank train_set
existing_folders clean_dir noisy_dir test_clean_dir test_noisy_dir noise_dir voicebank
((1 <= stage && stage <= stop_stage && stop_stage <= 7)) ||
  fail "--stage $stage --stop-stage $stop_stage: the stages are 1 to 7, and the first comes before the last"
[ -z "${noisy_dir:+$test_noisy_dir}" ] || [ -z "$noise_dir" ] || fail "--noise-dir: both noisy folders are given"
((nj > 0)) || fail "--nj is at least 1"
[ -n "${arms// /}" ] || fail "--arms names at least one"
[ -z "$bundle" ] || [ -n "$space" ] || fail "--bundle $bundle: give the file of its weights with --space"
[ -z "$bundle" ] || [ "$space" != logmel ] || fail "--bundle $bundle: its weights are a file, and --space is logmel"
[ "$space" = logmel ] || absolute_paths space
[ -z "$space" ] || [ "$space" = logmel ] || [ -f "$space" ] || fail "--space: there is no file $space"
case $mixing in
  once) ;;
  anew) [ "$corpus" != voicebank ] || fail "--mixing anew: VoiceBank-DEMAND is mixed already"
        [ -z "$noisy_dir" ] || fail "--mixing anew: $noisy_dir is mixed already; give --noise-dir in its place" ;;
  *) fail "--mixing is once or anew, not '$mixing'" ;;
esac
for folder in "$noisy_dir" "$test_clean_dir"; do
  [ -z "$folder" ] || ! [ "$folder" -ef "$clean_dir" ] || fail "--clean-dir $clean_dir is given for two things"
done
[ -z "$test_noisy_dir" ] || ! [ "$test_noisy_dir" -ef "$test_clean_dir" ] ||
  fail "--test-noisy-dir: $test_noisy_dir is what --test-clean-dir holds"
for share in $negatives; do
  [[ $share =~ ^([1-9][0-9]?|100)$ ]] || fail "--negatives: '$share' is no percentage from 1 to 100"
done
absolute_paths config data exp
[ -z "$config" ] || [ -f "$config" ] || fail "there is no config $config"
[ -z "$config" ] || backbone=$(basename "$config" .yaml)   # results are not to call it by another network's name
cd "$root"
kind=$corpus   # of data and runs
[ "$mixing" = once ] || kind=${corpus}_anew
data=${data:-data/${kind}_pairs} exp=${exp:-exp/${kind}_$backbone}
conf=egs/voicebank/conf device=cuda launcher=()
[ "$gpus" -gt 0 ] || device=cpu
[ "$gpus" -lt 2 ] || launcher=(torchrun --standalone --nproc-per-node "$gpus")
arm_configs=$conf/arms
if [ "$corpus" = mini ] || [ "$device" = cpu ]; then conf=$conf/mini; fi
config=${config:-$conf/$backbone.yaml} beside=$(dirname "${config:-$conf/$backbone.yaml}")
[ -f "$config" ] || fail "there is no config $config; networks in $conf: $(
  cd "$conf" && printf '%s\n' *.yaml | sed -e '/^space.yaml$/d' -e 's/\.yaml$//' | xargs)"
[ -n "$space" ] || [ -f "$beside/space.yaml" ] || fail "there is no config $beside/space.yaml; add it or give --space"
regularised=() curricular=no
for arm in $arms; do
  [ -f "$arm_configs/$arm.yaml" ] ||
    fail "--arms: there is no '$arm'; there are: $(cd "$arm_configs" && echo *.yaml | sed 's/\.yaml//g')"
  [ "$arm" = none ] || regularised+=("$arm")
  ! grep -Eq 'mode: (ccr|hard_only|cr_matched)' "$arm_configs/$arm.yaml" || curricular=yes
done
[ $curricular = no ] || [ -n "${negatives// /}" ] || fail "--negatives: ccr and its controls need one or more"
[ $curricular = yes ] || negatives=
. ./path.sh
cslib_also_needs egs/voicebank/requirements.txt
if [ "$gpus" -gt 0 ]; then
  found=$(python -c 'import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)')
  [ "$gpus" -le "$found" ] || fail "--gpus $gpus: torch can use $found GPUs here; --gpus 0 takes the CPU"
fi
learnt=$data/train speech=$data/train/clean mixed_in=() mix_train=()
if [ "$mixing" = anew ]; then
  learnt=$data/train/speech speech=$learnt mixed_in=(--noise "$data/noise") mix_train=(--mix-train false)
fi
check=(python local/train.py --config "$config" --config "$arm_configs/none.yaml" --data "$data/train" --exp "$exp"
  --print_config)
whole=$("${check[@]}" 2>&1) || fail "$config: ${whole#error: }"
steps=$(sed -n '/^training:/,/^[a-z]/s/^ *steps: \([0-9]*\)$/\1/p' <<<"$whole")
[ -n "$space" ] || problem=$(python local/train.py --config "$beside/space.yaml" --data "$speech" --exp "$exp" \
  --print_config 2>&1 >/dev/null) || fail "$beside/space.yaml: ${problem#error: }"
in_space=(--space.name encoder --space.checkpoint "${space:-$exp/space/checkpoints/final.pt}")
[ "$space" != logmel ] || in_space=(--space.name logmel)
[ -z "$bundle" ] || in_space=(--space.name torchaudio --space.checkpoint "$space" --space.bundle "$bundle")
[ -z "$space" ] || problem=$(python local/check_space.py "${in_space[@]}" 2>&1 >/dev/null) || fail "${problem#error: }"

log "data in $data, run in $exp, config $config; '. ./path.sh' in your shell, and the commands below can be copied"
keep_markers_in "$data"
if stage 1 "data ($corpus)"; then
  noise=()
  if [ "$corpus" = mini ] || { [ "$corpus" = folder ] && ! [[ $noisy_dir && $test_noisy_dir ]]; }; then
    # No noise is both in noise and in noise_test, unless there are fewer than three, which is told.
    reads ${noise_dir:+"$noise_dir"}
    makes "$data"/{noise,noise_test}
    if [ -n "$noise_dir" ]; then noise=(--noise-dir "$noise_dir"); else noise=(--synthetic); fi
    run local/prepare_noise.py --out "$data" "${noise[@]}"
    noise=()
  fi
  case $corpus in
    mini)   # 540 pairs of 90 speakers to learn from, 40 of 10 others to validate with, 80 of 20 others to test on
      makes "$data"/{made_from.json,train,valid,test}
      run local/prepare_mini_pairs.py --noise "$data/noise" --noise-test "$data/noise_test" --out "$data" --nj "$nj" \
        "${mix_train[@]}" ;;
    folder)
      if [ -n "$noisy_dir" ]; then noise+=(--noisy-dir "$noisy_dir"); else noise+=(--noise "$data/noise"); fi
      if [ -n "$test_noisy_dir" ]; then
        noise+=(--test-noisy-dir "$test_noisy_dir")
      else
        noise+=(--noise-test "$data/noise_test")
      fi
      reads "$clean_dir" "$test_clean_dir" ${noisy_dir:+"$noisy_dir"} ${test_noisy_dir:+"$test_noisy_dir"}
      makes "$data"/{made_from.json,train,valid,test}
      run local/prepare_pairs.py --clean-dir "$clean_dir" --test-clean-dir "$test_clean_dir" "${noise[@]}" \
        --data "$data" --nj "$nj" "${mix_train[@]}" ;;
    voicebank)   # 10,802 pairs to learn from, 770 of p226 and p287 to validate with, 824 to test on
      reads "$voicebank"
      makes "$data"/{made_from.json,train,valid,test}
      run local/prepare_voicebank.py --corpus "$voicebank" ${train_set:+--train-set "$train_set"} --data "$data" \
        --nj "$nj" ;;
  esac
  expected=()   # with other means of the noisy test set, which are told, something is wrong
  [ "$corpus" != voicebank ] || expected=(--expected "pesq=1.97,csig=3.35,cbak=2.44,covl=2.63,ssnr=1.68,stoi=0.92")
  makes "$data/noisy.tsv"
  run local/score_enhancement.py --clean "$data/test/clean" --enhanced "$data/test/noisy" --out "$data/noisy.tsv" \
    --nj "$nj" "${expected[@]}"
fi

keep_markers_in "$exp"
if stage 2 "the space to compare in" && [ -z "$space" ] && [ ${#regularised[@]} -gt 0 ]; then
  continues "$exp/space/checkpoints"
  noise=()
  [ ! -d "$data/noise" ] || noise=(--noise "$data/noise")
  run "${launcher[@]}" local/train.py --config "$beside/space.yaml" --data "$speech" "${noise[@]}" \
    --exp "$exp/space" --seed "$seed" --device "$device"
fi
# FOLDER ARM [OPTION...]: a network, learnt into FOLDER/checkpoints. An interrupted training is continued. All arms
# start from the same weights and see the same crops in the same order.
train() {
  continues "$1/checkpoints"
  run "${launcher[@]}" local/train.py --config "$config" --config "$arm_configs/$2.yaml" --data "$learnt" \
    "${mixed_in[@]}" --exp "$1" --seed "$seed" --device "$device" --objective.validation.pairs "$data/valid" "${@:3}"
}

# FOLDER SET: what its network makes of the noisy side of a set.
enhance() {
  makes "$1/enhanced/$2"
  run local/enhance.py --checkpoint "$1/checkpoints/final.pt" --in "$data/$2/noisy" --out "$1/enhanced/$2" \
    --device "$device"
}

# Networks of graded quality, for the curriculum to leave behind one by one: they learnt for less long.
graded=()
for share in $negatives; do
  if [ "$share" -eq 100 ]; then graded+=("$exp/none"); else graded+=("$exp/none_$share"); fi
done
if stage 3 "networks without a regulariser, and the negatives that they make"; then
  train "$exp/none" none
  for folder in "${graded[@]}"; do
    share=${folder##*none_}
    [ "$folder" = "$exp/none" ] || train "$folder" none --training.steps $(((steps * share + 99) / 100))
    [ "$mixing" = anew ] || enhance "$folder" train    # what is mixed anew is enhanced anew, by the network itself
    enhance "$folder" valid
  done
fi
enhanced='' negative_list=''
for folder in "${graded[@]}"; do
  enhanced+="${enhanced:+, }\"$folder/enhanced\""
  negative_list+="${negative_list:+, }\"$folder/checkpoints/final.pt\""
done
[ "$mixing" = anew ] || negative_list=$enhanced

if stage 4 "arms: ${regularised[*]:-none}" && [ ${#regularised[@]} -gt 0 ]; then
  [ -z "$space" ] || [ "$space" = logmel ] || reads "$space"
  run local/check_space.py --pairs "$data/valid" --negatives "[$enhanced]" "${in_space[@]}" --device "$device"
  for arm in "${regularised[@]}"; do
    train "$exp/$arm" "$arm" "${in_space[@]/#--space./--objective.regulariser.feature_space.}" \
      --objective.negatives "[$negative_list]"
  done
fi

if stage 5 "enhance the test set"; then
  for arm in none "${regularised[@]}"; do enhance "$exp/$arm" test; done
fi

if stage 6 "score"; then
  for arm in none "${regularised[@]}"; do
    makes "$exp/scores/$arm.tsv"
    run local/score_enhancement.py --clean "$data/test/clean" --enhanced "$exp/$arm/enhanced/test" \
      --out "$exp/scores/$arm.tsv" --nj "$nj"
  done
fi

if stage 7 "results"; then
  write_seconds "$exp/seconds.json"
  systems=$(IFS=, && echo "none${regularised[*]:+,${regularised[*]}}") compared=()
  [ ${#regularised[@]} -eq 0 ] || compared=("${in_space[@]}")
  continues "$exp/results.json" "$exp/spectrograms.png"
  run local/make_enhancement_results.py --exp "$exp" --corpus "$corpus" --backbone "$backbone" --seed "$seed" \
    --mixing "$mixing" --test "$data/test" --noisy "$data/noisy.tsv" --systems "$systems" \
    --negatives "$negatives" "${compared[@]}" --seconds "$exp/seconds.json"
fi
end_stages
exit
}
