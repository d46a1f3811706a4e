#!/usr/bin/env bash
# Emotion recognition from embeddings learnt without labels: from recordings to micro-F1, macro-F1 and UAR.
#
#   bash egs/emotion/run.sh                      on a corpus that is synthesised here, after egs/voxceleb/run.sh
#   bash egs/emotion/run.sh --corpus iemocap --iemocap A --dino B/checkpoints/final.pt     likewise cremad, msp_podcast
#   bash egs/emotion/run.sh --corpus folder --class-dir A                 your own recordings, one folder per class
#
# Stage          reads                          writes
#   1 data       the corpus folder              data/<corpus>_emotion/all: manifests; emotions.tsv: classes and folds
#   2 extract    all, final.pt of encoders      exp/<run>/floor, csc, dino: embeddings; floor: the training-free baseline
#   3 finetune   all, classes of training folds exp/<run>/finetuned/<fold>: the encoder of dino, fine-tuned; embeddings
#   4 classify   embeddings, emotions.tsv       exp/<run>/scores: every answer
#   5 results    scores                         exp/<run>/results.json, confusion.png, and the table on the screen
#
# A finished command runs again when something that it reads has changed, and only then. Paths are relative to the
# current folder; the default folders data/ and exp/ lie in the project's root.
set -euo pipefail
{   # bash reads a script while it runs, but a block as a whole: this file may be edited meanwhile
# shellcheck source=utils/recipe.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe.sh"

stage=1          # first stage to run
stop_stage=5     # last stage to run
corpus=mini      # mini (synthesised here), iemocap, cremad, msp_podcast or folder (your own recordings)
csc=             # final.pt of an encoder (default, without it and --dino: exp/mini_csc/checkpoints/final.pt)
dino=            # final.pt of another one, which is fine-tuned too (default likewise: exp/mini_dino/checkpoints/final.pt)
finetune=yes     # yes: fine-tune the encoder of --dino, once for each fold; or no
config=          # config of the fine-tuning (default: conf/finetune.yaml; conf/mini/finetune.yaml for mini, without a GPU)
folds=5          # mini, cremad, folder: number of speaker folds; the other corpora use their published folds
data=            # folder for the prepared corpus (default: data/<corpus>_emotion)
exp=             # folder for the run (default: exp/<corpus>_emotion)
seed=1           # random seed of the fine-tuning; the corpus stays the same
nj=$(getconf _NPROCESSORS_ONLN)    # processes that prepare data
gpus=$(nvidia-smi -L 2>/dev/null | grep -c -m 1 ^GPU || true)    # GPUs to train on; 0: the CPU
iemocap=         # iemocap: IEMOCAP_full_release
merge_excited=   # iemocap: yes: excited counts as happy, 5,531 utterances; no: it is left out, 4,490 (default: yes)
cremad=          # cremad: folder with AudioWAV of CREMA-D
msp_podcast=     # msp_podcast: folder with Labels and Audios of MSP-Podcast
class_dir=       # folder: <class>/<speaker>/recordings, or <class>/recordings where speakers are not known
table=           # folder: in place of it a table with the columns path, label and speaker
parse_options "$@"

# Everything is checked before anything is made.
corpora iemocap:iemocap cremad:cremad msp_podcast:msp_podcast folder
[[ $corpus != folder || -n $class_dir$table ]] || required class_dir
only_with iemocap iemocap merge_excited
only_with cremad cremad
only_with msp_podcast msp_podcast
only_with folder class_dir table
[ -z "${class_dir:+$table}" ] || fail "--class-dir and --table: give one of them"
[[ $folds == 5 || $corpus == mini || $corpus == cremad || $corpus == folder ]] ||
  fail "--folds $folds: $corpus has published folds; leave the option out"
[ "$folds" -ge 2 ] || fail "--folds is $folds; it must be at least 2"
merge_excited=${merge_excited:-yes}
yes_or_no finetune merge_excited
existing_folders iemocap cremad msp_podcast class_dir
absolute_paths csc dino table
[ -z "$table" ] || [ -f "$table" ] || fail "--table: there is no file $table"
given_config=$config
common_options emotion 5
. egs/emotion/steps.sh    # prepare_corpus, classify, ...
missing=()
find_encoders
data=${data:-data/${corpus}_emotion} exp=${exp:-exp/${corpus}_emotion} config=${config:-$conf/finetune.yaml}
existing_configs "$config"
check_training --config "$config" --network.name resnet
check_run --gpus "$gpus"
for sentence in "${missing[@]}"; do log "$sentence"; done
[[ -z $given_config || $finetune == yes ]] || log "--config has no effect without fine-tuning"

log "data in $data, run in $exp; to run a command below by hand, first '. ./path.sh' in your shell"
emotions=$data/all/emotions.tsv systems=(floor)
keep_markers_in "$data"
if stage 1 "data ($corpus)"; then prepare_corpus; fi

keep_markers_in "$exp"
if stage 2 "extract embeddings"; then
  # The floor: mean and standard deviation of log-mel frames. No network is trained.
  continues "$exp/floor/embeddings/all.scp"
  run local/extract_floor.py --cuts "$data/all" --out "$exp/floor/embeddings/all" --device "$device"
  for method in csc dino; do
    [ -z "${!method}" ] || extract "${!method}" "$data/all" "$exp/$method/embeddings/all"
  done
fi
for method in csc dino; do [ -z "${!method}" ] || systems+=("$method"); done
if stage 3 "fine-tune: $finetune" && [ "$finetune" = yes ]; then
  makes "$exp/finetuned"
  run local/split_folds.py --table "$emotions" --checkpoint "$dino" --out "$exp/finetuned"
  for labels in "$exp"/finetuned/*/labels.tsv; do fine_tune "$(dirname "$labels")"; done
fi
if stage 4 "classify"; then
  for system in "${systems[@]}"; do
    classify "$system" --embeddings "$exp/$system/embeddings/all.scp"
  done
  if [ "$finetune" = yes ]; then
    # Regularisation strengths of the frozen encoder: the encoder of a fold has seen the classes of the speakers on
    # whom they would be chosen.
    reads "$exp"/finetuned/*/embeddings/all.scp
    classify finetuned --embeddings "$exp/finetuned/{fold}/embeddings/all.scp" --strengths "$exp/scores/dino.json"
  fi
fi
[ "$finetune" = no ] || systems+=(finetuned)
if stage 5 "results"; then
  write_history "$exp"
  reads "$exp/scores"
  continues "$exp"/{results.json,confusion.png}
  run local/make_emotion_results.py --exp "$exp" --corpus "$corpus" --seed "$seed" \
    --systems "$(IFS=, && echo "${systems[*]}")" --seconds "$exp/seconds.json" --commits "$exp/commits.json"
fi
end_recipe
exit
}
