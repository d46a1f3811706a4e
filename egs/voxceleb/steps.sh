# shellcheck shell=bash disable=SC2154   # the variables are set by run.sh
# The steps of the stages of run.sh, which sources this file and sets the variables used here.

sets=("$data"/{train,test,test_adverse}) training=(--data "$data/train" --noise "$data/noise") labels=''
[ "$tested" = yes ] || sets=("$data"/{train,train_halves})
pieces_options=() && [ "$pieces" = no ] || pieces_options=(--pieces)
scorings=cosine,mean,asnorm    # of every system; --plda yes adds one
mapfile -t enhancers < <(answer enhancer)    # "NAME FILE": the trials of what FILE enhances are called adverse_NAME
for enhancer in "${enhancers[@]}"; do sets+=("$exp/test_adverse_${enhancer%% *}"); done

prepare_corpus() {
  continues "$data/train/cuts.jsonl.gz"
  [ "$tested" = no ] || continues "$data/test/cuts.jsonl.gz"
  case $corpus in
    mini)   # 1,000 utterances of 100 speakers to learn from, 240 of 20 others to test on
      makes "$data"/{train,test,mini.json}
      run local/prepare_mini.py --out "$data" --nj "$nj" ;;
    folder)
      run local/prepare_folder.py --train-dir "$train_dir" ${test_dir:+--test-dir "$test_dir"} --data "$data" \
        --nj "$nj" "${pieces_options[@]}" ;;
    voxceleb)   # 1,092,009 utterances to learn from, 153,516 to test on; deviations are reported
      run local/prepare_voxceleb.py --vox1 "$voxceleb1" --vox2 "$voxceleb2" \
        ${trial_lists:+--trials "$trial_lists"} --data "$data" --nj "$nj" ;;
  esac
  validate "$data/train"
  if [ "$tested" = yes ]; then validate "$data/test"; else split_halves; fi
}

# Instead of a test set: halves of training recordings, to see whether they find each other.
split_halves() {
  makes "$data/train_halves"
  run local/split_halves.py --data "$data/train" --out "$data/train_halves"
}

prepare_noise() {
  # No recording is both in noise and in noise_test: systems are tested on noise and RIRs unseen in training.
  local sources=(--synthetic ${noise_dir:+--noise-dir "$noise_dir"} ${rir_dir:+--rir-dir "$rir_dir"}) trials=()
  [ "$corpus" = voxceleb ] || reads "$data/train"    # babble is mixed from it
  [ "$corpus" != voxceleb ] || sources=(--musan "$musan" --rirs "$rirs" --babble 1000)
  makes "$data"/{noise,noise_test}
  run local/prepare_noise.py --out "$data" "${sources[@]}"
  [ "$tested" = yes ] || return 0
  # In clean trials the recording channel helps to recognise a speaker. Here RIR, noise and competing speakers are drawn
  # anew for each recording.
  [ "$corpus" != voxceleb ] || trials=(--trials vox1_o --only-trials)
  reads "$data/test"/{speakers.tsv,trials}    # an interferer is another speaker
  makes "$data/test_adverse"
  run local/make_adverse.py --test "$data/test" --noise "$data/noise_test" --out "$data/test_adverse" --nj "$nj" \
    "${trials[@]}"
  validate "$data/test_adverse"
}

# How long the trainings will take, measured on this machine. The mini corpus has its times in the README, and a training
# of less than 100 steps is over before its time is estimated.
estimate_time() {
  local first='' labelled=()
  [ "$corpus" != mini ] && [ "$device" = cpu ] && [ "$(answer steps)" -ge 100 ] || return 0
  [ "$method" = floor ] || first=$method=$config
  [ "$rounds" = 0 ] || labelled+=("round1=$round_config")
  [ "$final" = no ] || labelled+=("final=$beside/final.yaml" "large_margin=$beside/large_margin.yaml")
  run local/estimate_time.py --data "$data/train" --noise "$data/noise" --device "$device" \
    ${first:+--trainings "$first"} ${labelled:+--labelled "$(IFS=, && echo "${labelled[*]}")"}
}

enhance_trials() {
  local enhancer folder
  for enhancer in "${enhancers[@]}"; do
    folder=$exp/test_adverse_${enhancer%% *}
    makes "$folder"
    run local/enhance.py --checkpoint "${enhancer#* }" --in "$data/test_adverse" --out "$folder" --device "$device"
  done
}

# The floor: mean and standard deviation of log-mel frames, whitened on train. No network is trained.
extract_floor() {
  local set
  for set in "${sets[@]}"; do
    continues "$exp/floor/embeddings/${set##*/}.scp"
    run local/extract_floor.py --train "$data/train" --cuts "$set" --out "$exp/floor/embeddings/${set##*/}" \
      --device "$device"
  done
}

# FOLDER: the embeddings of all sets by its network.
extract_sets() {
  local set
  for set in "${sets[@]}"; do extract "$1/checkpoints/final.pt" "$set" "$1/embeddings/${set##*/}"; done
}

# SYSTEM LABELS: clusters the embeddings in the folder SYSTEM, the last one. The number of clusters is chosen without
# labels, and if the config compares systems, so are the systems to cluster. Sets $labels, which held the labels of the
# round before, if there was one.
cluster() {
  local before=$labels system others=()
  labels=$2
  for system in "${systems[@]#*=}"; do
    [ "$system" = "$1" ] || others+=("$system/embeddings/train.scp")
  done
  makes "$labels"
  run local/cluster_embeddings.py --embeddings "$1/embeddings/train.scp" --out "$labels" --seed "$seed" \
    ${others:+--others "$(IFS=, && echo "${others[*]}")"} ${before:+--previous "$before"} \
    ${cluster_config:+--config "$cluster_config"}
  [ ! -f "$data/train/speakers.tsv" ] ||    # only prints how the clusters compare with the speakers
    run local/diagnose_clusters.py --labels "$labels" --speakers "$data/train/speakers.tsv"
}

# FUNCTION: calls it for every round until the labels settle, with $round and $folder set.
each_round() {
  local round folder
  for ((round = 1; round <= rounds; round++)); do
    folder=$exp/round$round
    "$1"
    if [ -f "$folder/settled" ]; then break; fi
  done
}

train_round() {
  cluster "$last" "$folder/pseudo_labels.tsv"
  if [ -f "$folder/settled" ]; then return; fi
  if [ "$last" = "$exp/floor" ] || { [ "$last" = "$exp" ] && [ "$(answer same_network)" != yes ]; }; then
    train "$folder" "${training[@]}" --config "$round_config" --labels "$labels"
  else
    train "$folder" "${training[@]}" --config "$again_config" --labels "$labels" \
      --start-from "$last/checkpoints/final.pt"
  fi
  extract_sets "$folder"
  add_round
}

# What a round left, in this call or in an earlier one.
add_round() {
  labels=$folder/pseudo_labels.tsv
  if [ -f "$folder/settled" ]; then return; fi
  last=$folder
  [[ " ${systems[*]} " == *" round$round=$folder "* ]] || systems+=("round$round=$folder")
}

# SYSTEM FOLDER: scores of every trial list by the embeddings in FOLDER.
score() {
  local list set embedded name scoring used=$scorings options=() lists=("$data"/{test,test_adverse}/trials/*.txt)
  # PLDA is trained, and the floor is training-free.
  if [[ $plda == yes && $1 != floor ]]; then used+=,plda options=(--labels "$labels"); fi
  for enhancer in "${enhancers[@]}"; do lists+=("$exp/trials/adverse_${enhancer%% *}.txt"); done
  for list in "${lists[@]}"; do
    name=$(basename "$list" .txt) set=$(basename "$(dirname "$(dirname "$list")")") embedded=
    if [[ $list == "$exp"/trials/* ]]; then    # the trials of enhanced recordings, under a name of their own
      set=test_adverse embedded=test_$name
      makes "$list"
      run install -D -m 644 "$data/test_adverse/trials/adverse.txt" "$list"
    fi
    for scoring in ${used//,/ }; do makes "$exp/scores/$1_${name}_$scoring.json"; done
    run local/score_trials.py --system "$1" --embeddings "$2/embeddings/${embedded:-$set}.scp" \
      --cohort "$2/embeddings/train.scp" --trials "$list" --speakers "$data/$set/speakers.tsv" \
      --scoring "$used" "${options[@]}" --out "$exp/scores" --device "$device"
  done
}

# FOLDER: the threshold that `python -m cslib verify` uses with its network.
calibrate() {
  [ -n "$labels" ] || return 0
  makes "$1/calibration.json"
  run local/calibrate.py --checkpoint "$1/checkpoints/final.pt" --embeddings "$1/embeddings/train.scp" \
    --labels "$labels" --data "$data/train" --seed "$seed" --device "$device"
}

# The network of the last system becomes best.pt: it is the best by design, whatever the labels say.
keep_best() {
  local system networks=()
  for system in "${systems[@]:1}"; do networks+=("${system%%=*}=${system#*=}/checkpoints/final.pt"); done
  reads "${systems[-1]#*=}"/{checkpoints/final.pt,calibration.json}
  makes "$exp/best.pt"
  run local/keep_best.py --run "$exp" --networks "$(IFS=, && echo "${networks[*]}")"
}

make_results() {
  local about=(--exp "$exp" --recipe voxceleb --corpus "$corpus" --method "$method" --seed "$seed")
  write_history "$exp"
  about+=(--seconds "$exp/seconds.json" --commits "$exp/commits.json")
  if [ "$tested" = yes ]; then make_table; else make_label_free_table; fi
  keep_best    # under the table: which file is the network of which system
}

make_table() {
  local lists=("$data"/{test,test_adverse}/trials/*.txt) names=("${systems[@]%%=*}") trials=()
  for list in "${lists[@]}"; do trials+=("$(basename "$list" .txt)"); done
  for enhancer in "${enhancers[@]}"; do trials+=("adverse_${enhancer%% *}"); done
  reads "$exp/scores"
  continues "$exp"/{results.json,det.png}
  run local/make_results.py "${about[@]}" --systems "$(IFS=, && echo "${names[*]}")" \
    --trials "$(IFS=, && echo "${trials[*]}")" --scorings "$scorings$([ "$plda" = no ] || echo ,plda)"
}

# The clusters made from a system's embeddings are in the folder of the one after it.
make_label_free_table() {
  local system
  for system in "${systems[@]}"; do
    reads "${system#*=}"/{clusters.json,log.jsonl,embeddings/train_halves.scp,checkpoints/final.pt}
  done
  continues "$exp/results.json"
  run local/make_label_free_results.py "${about[@]}" --systems "$(IFS=, && echo "${systems[*]}")"
}
