#!/usr/bin/env bash
# Ablations: one training per arm and seed, all in one table with confidence intervals.
#
#   bash egs/voxceleb/run.sh --stop-stage 2             once: the mini corpus
#   bash egs/voxceleb/ablations.sh --table csc          writes exp/ablations/csc/<arm>_<seed>/ and .../table.md
#   bash egs/voxceleb/ablations.sh --table clusters --from exp/mini_csc_SEED
#
# Tables and their arms. An arm is a config with the few lines of conf/mini/ablations/<table>/<arm>.yaml on top of it:
#
#   starts         methods that learn without labels from nothing, each with its own config, with the same steps and batch
#     dino, csc, simclr, moco, vicreg    all with the network of DINO, except for csc, which needs one that separates
#   csc            parts of CSC, conf/mini/csc.yaml
#     attention      the method as it is
#     mean           the mean of an identity's bank in place of attention
#     table          a trainable table in place of the bank
#     no_separation  without the separation loss
#     no_contrast    without the contrastive loss
#     supervised     AAM-softmax on the same branch, TRAINED WITH TRUE SPEAKER LABELS: the only supervised arm
#     released       the GALR block as its authors released it; only with --arms
#   dino           parts of DINO, conf/mini/dino.yaml, and extensions of its paper
#     dino           the method as it is
#     centred        teacher outputs centred, as in the paper, in place of Sinkhorn-Knopp
#     slow_teacher   teacher momentum as in the paper
#     no_head_norm   no normalisation in the head, as in the paper
#     clean_teacher  the teacher sees the crops without augmentation
#     variance_covariance    with the variance-covariance loss of RDINO
#     dimension      with the dimension regularisation of SDPN's successor; only with --arms
#     no_koleo       without the KoLeo loss
#     no_me_max      without me-max
#     dino_csc       with mixtures of two speakers: separation as an auxiliary objective
#   positives      continues a finished DINO training: --from
#     utterance      all crops from one utterance, as before
#     cluster        crops from two utterances of one cluster
#   clusters       number of clusters of a round, conf/mini/round.yaml: --from
#     silhouette, stability, threshold    chosen without labels
#     fixed_50, fixed_100, fixed_200      given
#   noisy_labels   how a round treats wrong labels: --from
#     none           no treatment
#     sub_centres    a second centre per cluster
#     top_k          two centres, and a margin on the nearest wrong clusters
#     balanced       two centres, and clusters drawn with equal probability
#     posterior      leaves out utterances with a low posterior in their cluster
#     fixed_gate     leaves out labels whose loss exceeds a fixed gate
#     dynamic_gate   the gate is estimated anew in every epoch
#     correction     the same, and trains the labels left out with the network's own prediction
#     dlg_lc         the same, also when the losses show no two modes: as published
#
# The first arm of a table is the reference. Finished arms are skipped, interrupted trainings continue. Arms that equal a
# training of run.sh up to rounding are trained again: here every training has one thread and reads its own crops, since
# several such trainings use the cores better than one with several threads.
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/utils/parse_options.sh"
. "$root/utils/stage.sh"
. "$root/utils/pool.sh"

table=csc        # starts, csc, dino, positives, clusters or noisy_labels
seeds="1 2 3"    # random seeds of the trainings; arms are compared seed by seed
arms=            # arms, separated by spaces (default: all of the table); the first one is the reference
from=            # finished run whose embeddings are clustered, or which continues; SEED in it stands for the seed
data=            # prepared corpus (default: data/mini)
exp=             # folder for the runs (default: exp/ablations/<table>)
config=          # config that the arms change (default: that of the table)
steps=           # training steps of every arm (default: from its config)
jobs=$(getconf _NPROCESSORS_ONLN)    # trainings at a time, each with one thread and about 2 GB
device=cpu       # cpu or cuda
parse_options "$@"

case $table in
  starts) base=dino defaults="dino csc simclr moco vicreg"
    [ -z "$config" ] || fail "--config is not for the table starts, where every arm has its own" ;;
  csc) base=csc defaults="attention mean table no_separation no_contrast supervised" ;;
  dino) base=dino defaults="dino centred slow_teacher no_head_norm clean_teacher variance_covariance no_koleo no_me_max dino_csc" ;;
  positives) base=dino defaults="utterance cluster" ;;
  clusters) base=round defaults="silhouette stability threshold fixed_50 fixed_100 fixed_200" ;;
  noisy_labels) base=round
    defaults="none sub_centres top_k balanced posterior fixed_gate dynamic_gate correction dlg_lc" ;;
  *) fail "--table is starts, csc, dino, positives, clusters or noisy_labels, not '$table'" ;;
esac
read -ra seeds_asked <<<"$seeds"
read -ra arms_asked <<<"${arms:-$defaults}"
[[ "$seeds " =~ ^([0-9]+\ +)+$ ]] || fail "--seeds takes whole numbers, not '$seeds'"
((jobs > 0 && ${#arms_asked[@]} > 0)) || fail "--jobs is at least 1, and --arms names at least one arm"
absolute_paths data exp config from
cd "$root"
data=${data:-data/mini} exp=${exp:-exp/ablations/$table} config=${config:-egs/voxceleb/conf/mini/$base.yaml}
changes=egs/voxceleb/conf/mini/ablations/$table
for file in "$config" "${arms_asked[@]/%/.yaml}"; do
  [[ -f $file || -f $changes/$file ]] ||
    fail "there is no config $file; the arms in $changes are: $(cd "$changes" && echo *.yaml)"
done
if [[ $table =~ ^(positives|clusters|noisy_labels)$ ]]; then
  [ -n "$from" ] || fail "--table $table needs --from, a finished run: --from exp/mini_csc_SEED, say"
  for seed in "${seeds_asked[@]}"; do
    [ -f "${from//SEED/$seed}/embeddings/train.scp" ] ||
      fail "${from//SEED/$seed} has no embeddings/train.scp: run 'bash egs/voxceleb/run.sh --stop-stage 4' for it first"
  done
elif [ -n "$from" ]; then
  fail "--from is for the tables positives, clusters and noisy_labels"
fi
for set in train noise test test_adverse; do
  [ -d "$data/$set" ] || fail "there is no $data/$set: run 'bash egs/voxceleb/run.sh --stop-stage 2' first"
done
. ./path.sh
export OMP_NUM_THREADS=1
shares "$data"

# ARM_SEED: labels if it needs some, training, embeddings and scores, in $exp/ARM_SEED.
run_arm() {
  local arm=${1%_*} seed=${1##*_} folder=$exp/$1 set list
  local change=$changes/$arm.yaml origin=${from//SEED/$seed}
  local configs=(--config "$config") labels=() clustering=()
  [ "$table" = clusters ] || configs+=(--config "$change")
  [ "$table" != starts ] || configs=(--config "$change")
  case $table/$arm in
    csc/supervised) labels=(--labels "$data/train/speakers.tsv") ;;
    clusters/* | noisy_labels/* | positives/cluster) labels=(--labels "$folder/pseudo_labels.tsv") ;;
  esac
  case $table/$arm in
    clusters/*) clustering=(--config "$change") ;;
    noisy_labels/posterior) clustering=(--min-posterior 0.9) ;;
    positives/*) configs+=(--start-from "$origin/checkpoints/final.pt") ;;
  esac
  keep_markers_in "$folder"
  if stage 1 "train arm $arm with seed $seed"; then
    if [ -n "$from" ]; then
      makes "$folder/pseudo_labels.tsv"
      run local/cluster_embeddings.py --embeddings "$origin/embeddings/train.scp" --out "$folder/pseudo_labels.tsv" \
        --seed "$seed" "${clustering[@]}"
      makes "$folder/diagnosis.json"   # for the table; nothing below reads it
      run local/diagnose_clusters.py --labels "$folder/pseudo_labels.tsv" --speakers "$data/train/speakers.tsv" \
        --out "$folder/diagnosis.json"
    fi
    continues "$folder/checkpoints/final.pt"
    run local/train.py "${configs[@]}" --data "$data/train" --noise "$data/noise" \
      --exp "$folder" --seed "$seed" --device "$device" --training.workers 0 \
      ${steps:+--training.steps "$steps"} "${labels[@]}"
  fi
  if stage 2 "extract embeddings"; then
    for set in test test_adverse; do
      continues "$folder/embeddings/$set.scp"
      run local/extract_embeddings.py --checkpoint "$folder/checkpoints/final.pt" --cuts "$data/$set" \
        --out "$folder/embeddings/$set" --device "$device" --workers 1
    done
  fi
  if stage 3 "score"; then
    for list in "$data"/{test,test_adverse}/trials/*.txt; do
      set=$(basename "$(dirname "$(dirname "$list")")")
      makes "$folder/scores/${arm}_$(basename "$list" .txt)_cosine.json"
      run local/score_trials.py --system "$arm" --embeddings "$folder/embeddings/$set.scp" --trials "$list" \
        --speakers "$data/$set/speakers.tsv" --scoring cosine --out "$folder/scores"
    done
    reads "$folder/scores"
    continues "$folder"/{results.json,det.png}
    run local/make_results.py --exp "$folder" --recipe voxceleb --corpus "$(basename "$data")" --method "$arm" \
      --seed "$seed"
  fi
  end_stages
}

runs=()
for seed in "${seeds_asked[@]}"; do runs+=("${arms_asked[@]/%/_$seed}"); done
in_parallel "$jobs" "$exp" run_arm "${runs[@]}"
printf -v folders ',%s' "${runs[@]/#/"$exp/"}"
python local/tabulate_ablations.py --runs "${folders#,}" --out "$exp/table.md"
