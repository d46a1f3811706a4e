#!/usr/bin/env bash
# Speaker verification learnt without labels: from recordings to a table of equal error rates.
#
#   bash egs/voxceleb/run.sh                     on a corpus that is synthesised here: no data, no GPU needed
#   bash egs/voxceleb/run.sh --corpus folder --train-dir A [--test-dir B] [--noise-dir C] [--rir-dir D]
#   bash egs/voxceleb/run.sh --corpus voxceleb --voxceleb1 A --voxceleb2 B --musan C --rirs D --gpus 4
#
# Stage        reads                                writes
#   1 data     the corpus folders                   data/<corpus>/train, test: manifests and trial lists
#   2 noise    train, the noise and RIR folders     data/<corpus>/noise, noise_test; test_adverse
#   3 train    train, noise, the config             exp/<run>/checkpoints, log.jsonl, tensorboard
#   4 extract  train, test, test_adverse, final.pt  exp/<run>/embeddings; floor/embeddings, the training-free baseline
#   5 rounds   the embeddings of train              exp/<run>/round1, ...: pseudo_labels.tsv, checkpoints, embeddings
#   6 final    the last round's embeddings          exp/<run>/final: the same, of a larger network trained from scratch
#   7 score    embeddings, trial lists, labels      exp/<run>/scores; calibration.json: a threshold found without labels
#   8 results  scores                               exp/<run>/results.json, det.png, and the table on the screen
#
# Without --test-dir nothing is scored, and the table has signs that need no labels. A finished command runs again when
# something that it reads has changed, and only then. Paths are relative to the current folder; the default folders data/
# and exp/ lie in the project's root.
set -euo pipefail
{   # bash reads a script while it runs, but a block as a whole: this file may be edited meanwhile
# shellcheck source=utils/recipe.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe.sh"

stage=1          # first stage to run
stop_stage=8     # last stage to run
corpus=mini      # mini (synthesised here), folder (your own recordings) or voxceleb
method=csc       # first training: csc, dino or any other config's name; floor: none, rounds start from the baseline
config=          # its config (default: conf/<method>.yaml; in conf/mini for the mini corpus, in conf/cpu without a GPU)
rounds=2         # largest number of pseudo-label rounds after it; they end early when the labels settle
round_config=    # config of the rounds (default: round.yaml beside the config); also: round_csc.yaml, round_dino.yaml
cluster_config=  # how to cluster (default: clusters.yaml beside the config, else by silhouette); conf/clusters_published.yaml
final=yes        # yes: train a last network on the last labels, final.yaml and large_margin.yaml beside the config; or no
enhance=         # enhancement network, or several as none=A,ccr=B (final.pt): adverse trials are scored after each, too
plda=no          # yes: score by PLDA as well, trained on the last pseudo-labels; or no
data=            # folder for the prepared corpus (default: data/<corpus>)
exp=             # folder for the run (default: exp/<corpus>_<method>)
seed=1           # random seed of training and clustering; the corpus stays the same
nj=$(getconf _NPROCESSORS_ONLN)    # processes that prepare data
gpus=$(nvidia-smi -L 2>/dev/null | grep -c -m 1 ^GPU || true)    # GPUs to train on; 0: the CPU
train_dir=       # folder: recordings to learn from, in any tree, without labels; each must have one speaker, see --pieces
pieces=no        # folder: yes cuts training recordings at pauses, for recordings in which several people speak; or no
test_dir=        # folder: recordings to test on, one folder per speaker (default: no test)
noise_dir=       # folder: noise recordings (default: synthetic noise)
rir_dir=         # folder: room impulse responses (default: synthetic ones)
voxceleb1=       # voxceleb: VoxCeleb1, dev and test, as published
voxceleb2=       # voxceleb: VoxCeleb2, dev, as published; m4a is converted once, which takes 150 GB
trial_lists=     # voxceleb: folder of veri_test.txt, veri_test2.txt, ... (default: that of --voxceleb1)
musan=           # voxceleb: MUSAN
rirs=            # voxceleb: OpenSLR 28, RIRS_NOISES
parse_options "$@"

# Everything is checked before anything is made.
corpora folder:train_dir voxceleb:voxceleb1,voxceleb2,musan,rirs
only_with folder train_dir test_dir noise_dir rir_dir
only_with voxceleb voxceleb1 voxceleb2 trial_lists musan rirs
existing_folders train_dir test_dir noise_dir rir_dir voxceleb1 voxceleb2 trial_lists musan rirs
yes_or_no final plda pieces
tested=yes && [[ $corpus == folder && -z $test_dir ]] && tested=no
[[ $pieces == no || $corpus == folder ]] || fail "--pieces belongs to --corpus folder, and the corpus is $corpus"
[[ $tested == yes || $enhance$plda == no ]] || fail "--enhance and --plda yes score test trials: give --test-dir"
[[ $rounds$final != 0no || $plda == no ]] || fail "--plda yes --rounds 0 --final no: there are no labels to train it on"
[[ $rounds$final != 0no || $method != floor ]] || fail "--method floor --rounds 0 --final no: nothing would be trained"
absolute_paths round_config cluster_config
common_options voxceleb 8
data=${data:-data/$corpus} exp=${exp:-exp/${corpus}_$method} config=${config:-$conf/$method.yaml}
beside=$(dirname "$config") round_config=${round_config:-$(dirname "$config")/round.yaml} configs=() compared=()
again_config=${round_config%.yaml}_again.yaml    # for a round that continues from the network before it
[ -f "$again_config" ] || again_config=$round_config
[ "$method" = floor ] || configs+=("$config")
[ "$rounds" = 0 ] || configs+=("$round_config" "$again_config")
[ "$final" = no ] || configs+=("$beside/final.yaml" "$beside/large_margin.yaml")
[ -n "$cluster_config" ] || [ ! -f "$beside/clusters.yaml" ] || cluster_config=$beside/clusters.yaml
existing_configs "${configs[@]}" ${cluster_config:+"$cluster_config"}
for file in "${configs[@]}"; do check_training --config "$file"; done
[ -z "$cluster_config" ] ||
  checks+=(-- parse local/cluster_embeddings.py --config "$cluster_config" --embeddings e --out o)
[[ $method == floor || $rounds == 0 ]] || compared=(--same-network "$(as_list "$config" "$round_config")")
check_run --gpus "$gpus" --enhance "$enhance" "${compared[@]}"
. egs/voxceleb/steps.sh    # prepare_corpus, cluster, score, ...

log "data in $data, run in $exp, config $config; to run a command below by hand, first '. ./path.sh' in your shell"
[ $tested = yes ] || log "no --test-dir: test sets, scores and DET plot are left out; the table has label-free signs"
keep_markers_in "$data"
if stage 1 "data ($corpus)"; then prepare_corpus; fi
if stage 2 "noise, babble, RIRs and the adverse test set"; then
  prepare_noise
  estimate_time
fi

keep_markers_in "$exp"
last=$exp/floor systems=("floor=$exp/floor")
if stage 3 "train $method" && [ "$method" != floor ]; then
  train "$exp" "${training[@]}" --config "$config"   # mini, two cores: 9 minutes, 1,500 steps of csc
fi
[ "$method" = floor ] || last=$exp systems+=("$method=$exp")
if stage 4 "extract embeddings"; then
  enhance_trials
  extract_floor
  [ "$method" = floor ] || extract_sets "$exp"
fi
if stage 5 "pseudo-label rounds ($rounds)"; then each_round train_round; fi
each_round add_round
if stage 6 "final network" && [ "$final" = yes ]; then
  cluster "$last" "$exp/final/pseudo_labels.tsv"
  train "$exp/final/plain" "${training[@]}" --config "$beside/final.yaml" --labels "$labels"
  train "$exp/final" "${training[@]}" --config "$beside/large_margin.yaml" --labels "$labels" \
    --start-from "$exp/final/plain/checkpoints/final.pt"
  extract_sets "$exp/final"
fi
[ "$final" = no ] || labels=$exp/final/pseudo_labels.tsv systems+=("final=$exp/final")
if stage 7 "score"; then
  [ $tested = no ] || for system in "${systems[@]}"; do score "${system%%=*}" "${system#*=}"; done
  for system in "${systems[@]:1}"; do calibrate "${system#*=}"; done    # the floor has no checkpoint
fi
if stage 8 "results"; then make_results; fi
end_recipe
exit
}
