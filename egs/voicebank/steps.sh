# shellcheck shell=bash disable=SC2154   # the variables are set by run.sh
# The steps of the stages of run.sh, which sources this file and sets the variables used here.

# Options that are this recipe's own.
check_options() {
  local folder share
  [ -z "${noisy_dir:+$test_noisy_dir}" ] || [ -z "$noise_dir" ] || fail "--noise-dir: both noisy folders are given"
  [ -n "${arms// /}" ] || fail "--arms names at least one"
  [ -z "$bundle" ] || [ -n "$space" ] || fail "--bundle $bundle: give the file of its weights with --space"
  [ -z "$bundle" ] || [ "$space" != logmel ] || fail "--bundle $bundle: its weights are a file, and --space is logmel"
  [ "$space" = logmel ] || absolute_paths space
  [ -z "$space" ] || [ "$space" = logmel ] || [ -f "$space" ] || fail "--space: there is no file $space"
  anew=''
  case $mixing in
    once) ;;
    anew) anew=yes
          [ "$corpus" != voicebank ] || fail "--mixing anew: VoiceBank-DEMAND is mixed already"
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
  if [ -n "$config" ]; then    # results use the name of a config that is given
    [ -f "$config" ] || fail "there is no config $config"
    backbone=$(basename "$config" .yaml)
  fi
}

# The configs of the network, the space and the arms; and what follows from them: regularised, the arms with a
# regulariser; graded, the folders of the networks that make negatives; in_space, the options of the feature space.
check_configs() {
  local arm
  arm_configs=egs/voicebank/conf/arms regularised=()
  [ -f "$config" ] || fail "there is no config $config; networks in $conf: $(
    cd "$conf" && printf '%s\n' *.yaml | sed -e '/^space.yaml$/d' -e 's/\.yaml$//' | xargs)"
  [ -n "$space" ] || [ -f "$beside/space.yaml" ] || fail "there is no config $beside/space.yaml; add it or give --space"
  check_training --config "$config" --config "$arm_configs/none.yaml"
  for arm in $arms; do
    [ -f "$arm_configs/$arm.yaml" ] ||
      fail "--arms: there is no '$arm'; there are: $(cd "$arm_configs" && echo *.yaml | sed 's/\.yaml//g')"
    [ "$arm" != none ] || continue
    regularised+=("$arm")
    check_training --config "$config" --config "$arm_configs/$arm.yaml"
  done
  in_space=(--space.name encoder --space.checkpoint "${space:-$exp/space/checkpoints/final.pt}")
  [ "$space" != logmel ] || in_space=(--space.name logmel)
  [ -z "$bundle" ] || in_space=(--space.name torchaudio --space.checkpoint "$space" --space.bundle "$bundle")
  if [ -n "$space" ]; then
    checks+=(-- open local/check_space.py "${in_space[@]}")
  else
    check_training --config "$beside/space.yaml"
  fi
}

# What follows from the options once they are checked.
settle() {
  local share
  steps=$(answer steps)
  [ "$(answer needs_negatives)" = yes ] || negatives=
  graded=()    # networks of graded quality, trained for less long: the curriculum leaves them behind one by one
  for share in $negatives; do
    if [ "$share" -eq 100 ]; then graded+=("$exp/none"); else graded+=("$exp/none_$share"); fi
  done
  learnt=$data/train speech=$data/train/clean mixed_in=() mix_train=()
  negative_paths=("${graded[@]/%//enhanced}") negatives_read=("${graded[@]/%//enhanced/train}")
  if [ -n "$anew" ]; then    # what is mixed anew is enhanced anew, by the network itself
    learnt=$data/train/speech speech=$learnt mixed_in=(--noise "$data/noise") mix_train=(--mix-train false)
    negative_paths=("${graded[@]/%//checkpoints/final.pt}") negatives_read=("${negative_paths[@]}")
  fi
}

prepare_corpus() {
  local noise=() expected=()
  if [ "$corpus" = mini ] || { [ "$corpus" = folder ] && ! [[ $noisy_dir && $test_noisy_dir ]]; }; then
    # No recording is both in noise and in noise_test, unless there are fewer than three, which is reported.
    noise=(--synthetic)
    [ -z "$noise_dir" ] || noise=(--noise-dir "$noise_dir")
    makes "$data"/{noise,noise_test}
    run local/prepare_noise.py --out "$data" "${noise[@]}"
  fi
  makes "$data"/{made_from.json,train,valid,test}
  case $corpus in
    mini)   # 540 pairs of 90 speakers to learn from, 40 of 10 others to validate with, 80 of 20 others to test on
      run local/prepare_mini_pairs.py --noise "$data/noise" --noise-test "$data/noise_test" --out "$data" --nj "$nj" \
        "${mix_train[@]}" ;;
    folder)
      if [ -n "$noisy_dir" ]; then noise=(--noisy-dir "$noisy_dir"); else noise=(--noise "$data/noise"); fi
      if [ -n "$test_noisy_dir" ]; then
        noise+=(--test-noisy-dir "$test_noisy_dir")
      else
        noise+=(--noise-test "$data/noise_test")
      fi
      run local/prepare_pairs.py --clean-dir "$clean_dir" --test-clean-dir "$test_clean_dir" "${noise[@]}" \
        --data "$data" --nj "$nj" "${mix_train[@]}" ;;
    voicebank)   # 10,802 pairs to learn from, 770 of p226 and p287 to validate with, 824 to test on
      run local/prepare_voicebank.py --corpus "$voicebank" ${train_set:+--train-set "$train_set"} --data "$data" \
        --nj "$nj"
      # The known means of the noisy test set: with others, which are reported, something is wrong.
      expected=(--expected "pesq=1.97,csig=3.35,cbak=2.44,covl=2.63,ssnr=1.68,stoi=0.92") ;;
  esac
  score "$data/test/noisy" "$data/noisy.tsv" "${expected[@]}"
}

# ENHANCED TABLE OPTION...: measures of recordings beside the clean test set.
score() {
  makes "$2"
  run local/score_enhancement.py --clean "$data/test/clean" --enhanced "$1" --out "$2" --nj "$nj" "${@:3}"
}

# FOLDER ARM OPTION...
train_arm() {
  train "$1" --config "$config" --config "$arm_configs/$2.yaml" --data "$learnt" "${mixed_in[@]}" \
    --objective.validation.pairs "$data/valid" "${@:3}"
}

# OPTION...: the encoder whose features compare speech.
train_space() { train "$exp/space" --config "$beside/space.yaml" --data "$speech" "$@"; }

# FOLDER SET: the noisy side of a set, enhanced by the network in FOLDER.
enhance() {
  makes "$1/enhanced/$2"
  run local/enhance.py --checkpoint "$1/checkpoints/final.pt" --in "$data/$2/noisy" --out "$1/enhanced/$2" \
    --device "$device"
}

# FOLDER: a network that was trained for a share of the steps, and what it makes of train and valid.
make_negatives() {
  local share=${1##*none_}
  [ "$1" = "$exp/none" ] || train_arm "$1" none --training.steps $(((steps * share + 99) / 100))
  [ -n "$anew" ] || enhance "$1" train
  enhance "$1" valid
}

check_space() {
  reads "${graded[@]/%//enhanced/valid}"
  run local/check_space.py --pairs "$data/valid" --negatives "$(as_list "${graded[@]/%//enhanced}")" \
    "${in_space[@]}" --device "$device"
}

# ARM
train_regularised() {
  reads "${negatives_read[@]}"
  train_arm "$exp/$1" "$1" "${in_space[@]/#--space./--objective.regulariser.feature_space.}" \
    --objective.negatives "$(as_list "${negative_paths[@]}")"
}

make_results() {
  local systems compared=()
  systems=$(IFS=, && echo "none${regularised[*]:+,${regularised[*]}}")
  [ ${#regularised[@]} -eq 0 ] || compared=("${in_space[@]}")
  write_history "$exp"
  reads "$exp/scores"
  continues "$exp"/{results.json,spectrograms.png}
  run local/make_enhancement_results.py --exp "$exp" --corpus "$corpus" --backbone "$backbone" --seed "$seed" \
    --mixing "$mixing" --test "$data/test" --noisy "$data/noisy.tsv" --systems "$systems" \
    --negatives "$negatives" "${compared[@]}" --seconds "$exp/seconds.json" --commits "$exp/commits.json"
}
