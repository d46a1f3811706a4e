#!/usr/bin/env bash
# Speaker verification learnt without labels: from recordings to a table of equal error rates.
#
#   bash egs/voxceleb/run.sh                     on a corpus that is synthesised here: no data, no GPU needed
#   bash egs/voxceleb/run.sh --corpus folder --train-dir A --test-dir B [--noise-dir C] [--rir-dir D]
#   bash egs/voxceleb/run.sh --corpus voxceleb --voxceleb1 A --voxceleb2 B --musan C --rirs D --gpus 4
#
# Stage        reads                                writes
#   1 data     the corpus folders                   data/<corpus>/train, test: manifests and trial lists
#   2 noise    train, the noise and room folders    data/<corpus>/noise, noise_test: banks; test_adverse
#   3 train    train, noise, the config             exp/<run>/checkpoints, log.jsonl, tensorboard
#   4 extract  train, test, test_adverse, final.pt  exp/<run>/embeddings, and floor/embeddings: no network at all
#   5 rounds   the embeddings of train              exp/<run>/round1, ...: pseudo_labels.tsv, checkpoints, embeddings
#   6 final    the last round's embeddings          exp/<run>/final: the same, of a larger network learnt afresh
#   7 score    embeddings, trial lists, labels      exp/<run>/scores; calibration.json: a threshold found without labels
#   8 results  scores                               exp/<run>/results.json, det.png, and the table on the screen
#
# A stage that is done is skipped; it runs again when its config or its inputs have changed. Paths that you give are
# relative to where you are; the default folders data/ and exp/ lie in the project's root.
set -euo pipefail
{   # bash reads a script while it runs; a block it reads whole, so that this file may be edited meanwhile
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/utils/parse_options.sh"
. "$root/utils/stage.sh"

stage=1          # first stage to run
stop_stage=8     # last stage to run
corpus=mini      # mini (synthesised here), folder (recordings of your own) or voxceleb
method=csc       # how to learn first: csc, dino or any other name of a config; floor: not at all, rounds start there
config=          # the config (default: conf/mini/<method>.yaml for mini and without a GPU, else conf/<method>.yaml)
rounds=2         # pseudo-label rounds after it, at most: they end when the labels settle
round_config=    # their config (default: round.yaml beside the config); round_csc.yaml, round_dino.yaml: other rounds
cluster_config=  # how clusters are found (default: by silhouette; conf/clusters_published.yaml: as many as published)
final=yes        # yes: a last network on the last labels, final.yaml and large_margin.yaml beside the config; or no
enhance=         # final.pt of egs/voicebank, or several as none=A,ccr=B: adverse trials are scored enhanced by it, too
plda=no          # yes: score by PLDA too, learnt from the last labels that are found; or no
data=            # folder for the prepared corpus (default: data/<corpus>)
exp=             # folder for the run (default: exp/<corpus>_<method>)
seed=1           # random seed of training and clustering; the corpus stays the same
nj=$(getconf _NPROCESSORS_ONLN)    # processes that prepare data
gpus=$(nvidia-smi -L 2>/dev/null | grep -c -m 1 ^GPU || true)    # GPUs to train on; 0: the CPU
train_dir=       # folder: recordings to learn from, in any tree, without labels
test_dir=        # folder: recordings to test on, one folder a speaker
noise_dir=       # folder: noises (default: synthetic ones)
rir_dir=         # folder: room impulse responses (default: synthetic ones)
voxceleb1=       # voxceleb: VoxCeleb1, dev and test, as published
voxceleb2=       # voxceleb: VoxCeleb2, dev, as published; m4a is converted once, which takes 150 GB
trial_lists=     # voxceleb: folder of veri_test.txt, veri_test2.txt, ... (default: that of --voxceleb1)
musan=           # voxceleb: MUSAN
rirs=            # voxceleb: OpenSLR 28, RIRS_NOISES
parse_options "$@"

# All that was given is checked before anything is made.
case $corpus in
  mini) ;;
  folder) required train_dir test_dir ;;
  voxceleb) required voxceleb1 voxceleb2 musan rirs ;;
  *) fail "--corpus is mini, folder or voxceleb, not '$corpus'" ;;
esac
only_with folder train_dir test_dir noise_dir rir_dir
only_with voxceleb voxceleb1 voxceleb2 trial_lists musan rirs
existing_folders train_dir test_dir noise_dir rir_dir voxceleb1 voxceleb2 trial_lists musan rirs
((1 <= stage && stage <= stop_stage && stop_stage <= 8)) ||
  fail "--stage $stage --stop-stage $stop_stage: the stages are 1 to 8, and the first comes before the last"
((nj > 0)) || fail "--nj is at least 1"
[[ $final == yes || $final == no ]] || fail "--final is yes or no, not '$final'"
[[ $plda == yes || $plda == no ]] || fail "--plda is yes or no, not '$plda'"
[[ $plda == no || $rounds$final != 0no ]] || fail "--plda yes --rounds 0 --final no: there are no labels to learn from"
[[ $method != floor || $rounds$final != 0no ]] || fail "--method floor --rounds 0 --final no: nothing would be learnt"
enhancers=()     # NAME=FILE: the trials of what it enhances are called adverse_NAME
IFS=, read -ra words <<<"$enhance"
for word in "${words[@]}"; do
  name=enhanced file=$word
  [[ ! $word =~ ^([A-Za-z0-9_]+)=(.+)$ ]] || name=${BASH_REMATCH[1]} file=${BASH_REMATCH[2]}
  [ -f "$file" ] || fail "--enhance: there is no file $file (names, as in none=A,ccr=B, have letters, digits and _)"
  [[ " ${enhancers[*]}" != *" $name="* ]] || fail "--enhance: two are called $name; name them, as in none=A,ccr=B"
  absolute_paths file
  enhancers+=("$name=$file")
done
absolute_paths config round_config cluster_config data exp
cd "$root"
data=${data:-data/$corpus} exp=${exp:-exp/${corpus}_$method}
conf=egs/voxceleb/conf device=cuda launcher=()
[ "$gpus" -gt 0 ] || device=cpu
[ "$gpus" -lt 2 ] || launcher=(torchrun --standalone --nproc-per-node "$gpus")
if [ "$corpus" = mini ] || [ "$device" = cpu ]; then conf=$conf/mini; fi
config=${config:-$conf/$method.yaml} beside=$(dirname "${config:-$conf/$method.yaml}") configs=()
round_config=${round_config:-$beside/round.yaml}
again_config=${round_config%.yaml}_again.yaml   # of a round that goes on with the network that it follows
[ -f "$again_config" ] || again_config=$round_config
[ "$method" = floor ] || configs+=("$config")
[ "$rounds" = 0 ] || configs+=("$round_config" "$again_config")
[ "$final" = no ] || configs+=("$beside/final.yaml" "$beside/large_margin.yaml")
for file in "${configs[@]}"; do
  [ -f "$file" ] || fail "there is no config $file; in $conf there are: $(cd "$conf" && echo *.yaml)"
done
[ -z "$cluster_config" ] || [ -f "$cluster_config" ] || fail "--cluster-config: there is no file $cluster_config"
. ./path.sh
if [ "$gpus" -gt 0 ]; then
  found=$(python -c 'import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)')
  [ "$gpus" -le "$found" ] || fail "--gpus $gpus: torch can use $found GPUs here; --gpus 0 takes the CPU"
fi
for file in "${configs[@]}"; do
  check=(python local/train.py --config "$file" --data "$data/train" --exp "$exp" --print_config)
  problem=$("${check[@]}" 2>&1 >/dev/null) || fail "$file: ${problem#error: }"
done
for enhancer in "${enhancers[@]}"; do
  problem=$(python local/enhance.py --checkpoint "${enhancer#*=}" 2>&1 >/dev/null) || fail "--enhance: ${problem#error: }"
done
[ -z "$cluster_config" ] || problem=$(python local/cluster_embeddings.py --config "$cluster_config" --embeddings e \
  --out o --print_config 2>&1 >/dev/null) || fail "$cluster_config: ${problem#error: }"

log "data in $data, run in $exp, config $config; '. ./path.sh' in your shell, and the commands below can be copied"
keep_markers_in "$data"
if stage 1 "data ($corpus)"; then
  case $corpus in
    mini)   # 1000 utterances of 100 speakers to learn from, 240 of 20 others to test on
      makes "$data"/{train,test,mini.json}
      run local/prepare_mini.py --out "$data" --nj "$nj" ;;
    folder)
      reads "$train_dir" "$test_dir"
      continues "$data"/{train,test}
      run local/prepare_folder.py --train-dir "$train_dir" --test-dir "$test_dir" --data "$data" --nj "$nj" ;;
    voxceleb)   # 1,092,009 utterances to learn from, 153,516 to test on; a deviation is reported
      reads "$voxceleb1" "$voxceleb2" ${trial_lists:+"$trial_lists"}
      continues "$data"/{train,test}
      run local/prepare_voxceleb.py --vox1 "$voxceleb1" --vox2 "$voxceleb2" \
        ${trial_lists:+--trials "$trial_lists"} --data "$data" --nj "$nj" ;;
  esac
  run utils/validate_data.py "$data/train"
  run utils/validate_data.py "$data/test"
fi

if stage 2 "noise, babble, rooms and the adverse test set"; then
  # No recording is both in noise and in noise_test: a system is tested on noises and rooms that it never heard.
  makes "$data"/{noise,noise_test}
  case $corpus in
    voxceleb)
      reads "$musan" "$rirs"
      run local/prepare_noise.py --out "$data" --musan "$musan" --rirs "$rirs" --babble 1000 ;;
    *)
      reads ${noise_dir:+"$noise_dir"} ${rir_dir:+"$rir_dir"}
      run local/prepare_noise.py --out "$data" --synthetic \
        ${noise_dir:+--noise-dir "$noise_dir"} ${rir_dir:+--rir-dir "$rir_dir"} ;;
  esac
  # In clean trials the channel helps to give speakers away. Here room, noise and other talkers are drawn anew for each.
  makes "$data/test_adverse"
  adverse=(local/make_adverse.py --test "$data/test" --noise "$data/noise_test" --out "$data/test_adverse" --nj "$nj")
  [ "$corpus" != voxceleb ] || adverse+=(--trials vox1_o --only-trials)
  run "${adverse[@]}"
  run utils/validate_data.py "$data/test_adverse"
fi

# FOLDER CONFIG [OPTION...]: a network, learnt into FOLDER/checkpoints. An interrupted training is continued.
train() {
  continues "$1/checkpoints"
  run "${launcher[@]}" local/train.py --config "$2" --data "$data/train" --noise "$data/noise" --exp "$1" \
    --seed "$seed" --device "$device" "${@:3}"
}

sets=("$data"/{train,test,test_adverse})
for enhancer in "${enhancers[@]}"; do sets+=("$exp/test_adverse_${enhancer%%=*}"); done

# FOLDER: what its network makes of every utterance.
extract() {
  local cuts set
  for cuts in "${sets[@]}"; do
    set=${cuts##*/}
    continues "$1/embeddings/$set.scp"
    run local/extract_embeddings.py --checkpoint "$1/checkpoints/final.pt" --cuts "$cuts" \
      --out "$1/embeddings/$set" --device "$device"
  done
}

# LABELS BEFORE EMBEDDINGS: clusters, from the embeddings in a folder. No speaker is seen: how many there are to be is
# chosen without labels. BEFORE are the labels of the round before, if there was one.
find_labels() {
  makes "$1"
  run local/cluster_embeddings.py --embeddings "$3/embeddings/train.scp" --out "$1" ${2:+--previous "$2"} \
    ${cluster_config:+--config "$cluster_config"} --seed "$seed"
  if [ -f "$data/train/speakers.tsv" ]; then   # only prints how the clusters compare with the speakers
    run local/diagnose_clusters.py --labels "$1" --speakers "$data/train/speakers.tsv"
  fi
}

keep_markers_in "$exp"
systems=("floor=$exp/floor")
last=$exp/floor
if [ "$method" != floor ]; then
  systems+=("$method=$exp")
  last=$exp
fi
if stage 3 "train $method" && [ "$method" != floor ]; then
  train "$exp" "$config"   # mini, two cores: 9 minutes, 1,500 steps of csc
fi

if stage 4 "extract embeddings"; then
  for enhancer in "${enhancers[@]}"; do
    reads "${enhancer#*=}"
    makes "$exp/test_adverse_${enhancer%%=*}"
    run local/enhance.py --checkpoint "${enhancer#*=}" --in "$data/test_adverse" \
      --out "$exp/test_adverse_${enhancer%%=*}" --device "$device"
  done
  for cuts in "${sets[@]}"; do
    set=${cuts##*/}
    # The floor: mean and standard deviation of log-mel frames, whitened on train. What learns has to beat it.
    continues "$exp/floor/embeddings/$set.scp"
    run local/extract_floor.py --train "$data/train" --cuts "$cuts" --out "$exp/floor/embeddings/$set" \
      --device "$device"
  done
  [ "$method" = floor ] || extract "$exp"
fi

labels='' last_config=$config
if stage 5 "pseudo-label rounds ($rounds)"; then
  for ((round = 1; round <= rounds; round++)); do
    earlier=$labels labels=$exp/round$round/pseudo_labels.tsv
    find_labels "$labels" "$earlier" "$last"
    if [ -f "$exp/round$round/settled" ]; then break; fi
    if [ -f "$last/checkpoints/final.pt" ] && python utils/same_network.py "$last_config" "$round_config"; then
      train "$exp/round$round" "$again_config" --labels "$labels" --start-from "$last/checkpoints/final.pt"
    else
      train "$exp/round$round" "$round_config" --labels "$labels"
    fi
    last=$exp/round$round last_config=$round_config
    extract "$last"
  done
fi
for ((round = 1; round <= rounds; round++)); do
  labels=$exp/round$round/pseudo_labels.tsv
  if [ -f "$exp/round$round/settled" ]; then break; fi
  last=$exp/round$round
  systems+=("round$round=$last")
done

if [ "$final" = yes ]; then
  labels=$exp/final/pseudo_labels.tsv
  if stage 6 "final network"; then
    find_labels "$labels" "" "$last"
    train "$exp/final/plain" "$beside/final.yaml" --labels "$labels"
    train "$exp/final" "$beside/large_margin.yaml" --labels "$labels" \
      --start-from "$exp/final/plain/checkpoints/final.pt"
    extract "$exp/final"
  fi
  systems+=("final=$exp/final")
fi

if stage 7 "score"; then
  makes "$exp/scores"
  lists=("$data"/{test,test_adverse}/trials/*.txt)
  for enhancer in "${enhancers[@]}"; do   # the same trials of enhanced recordings, under a name of their own
    list=$exp/trials/adverse_${enhancer%%=*}.txt
    makes "$list"
    run install -D -m 644 "$data/test_adverse/trials/adverse.txt" "$list"
    lists+=("$list")
  done
  for system in "${systems[@]}"; do
    scorings=(--scoring "cosine,mean,asnorm")
    # The floor is what no training at all gives, and a PLDA is trained.
    [[ $plda == no || ${system%%=*} == floor ]] || scorings=(--scoring "cosine,mean,asnorm,plda" --labels "$labels")
    for list in "${lists[@]}"; do
      set=$(basename "$(dirname "$(dirname "$list")")") embedded=$set
      [[ $list != "$exp"/trials/* ]] || set=test_adverse embedded=test_$(basename "$list" .txt)
      run local/score_trials.py --system "${system%%=*}" --embeddings "${system#*=}/embeddings/$embedded.scp" \
        --cohort "${system#*=}/embeddings/train.scp" --trials "$list" --speakers "$data/$set/speakers.tsv" \
        "${scorings[@]}" --out "$exp/scores" --device "$device"
    done
  done
  for system in "${systems[@]:1}"; do   # for `python -m cslib verify`; of the floor there is no checkpoint
    [ -n "$labels" ] || break
    makes "${system#*=}/calibration.json"
    run local/calibrate.py --checkpoint "${system#*=}/checkpoints/final.pt" \
      --embeddings "${system#*=}/embeddings/train.scp" --labels "$labels" --seed "$seed"
  done
fi

if stage 8 "results"; then
  write_seconds "$exp/seconds.json"
  continues "$exp/results.json" "$exp/det.png"
  run local/make_results.py --exp "$exp" --recipe voxceleb --corpus "$corpus" --method "$method" --seed "$seed" \
    --seconds "$exp/seconds.json"
fi
end_stages
exit
}
