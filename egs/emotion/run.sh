#!/usr/bin/env bash
# Emotion recognition from embeddings that were learnt without labels: from recordings to micro-F1, macro-F1 and UAR.
#
#   bash egs/emotion/run.sh                      on a corpus that is synthesised here, after egs/voxceleb/run.sh
#   bash egs/emotion/run.sh --corpus iemocap --iemocap A --dino B/checkpoints/final.pt     likewise cremad, msp_podcast
#   bash egs/emotion/run.sh --corpus folder --class-dir A                 recordings of your own, a folder for each class
#
# Stage          reads                          writes
#   1 data       the corpus folder              data/<corpus>_emotion/all: manifests; emotions.tsv: classes and folds
#   2 extract    all, final.pt of encoders      exp/<run>/floor, csc, dino: embeddings; of the floor no network's
#   3 finetune   all, classes of training folds exp/<run>/finetuned/<fold>: the encoder of dino, learnt on; embeddings
#   4 classify   embeddings, emotions.tsv       exp/<run>/scores: every answer
#   5 results    scores                         exp/<run>/results.json, confusion.png, and the table on the screen
#
# A stage that is done is skipped; it runs again when its config or its inputs have changed. Paths that you give are
# relative to where you are; the default folders data/ and exp/ lie in the project's root.
set -euo pipefail
{   # bash reads a script while it runs; a block it reads whole, so that this file may be edited meanwhile
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/utils/parse_options.sh"
. "$root/utils/stage.sh"

stage=1          # first stage to run
stop_stage=5     # last stage to run
corpus=mini      # mini (synthesised here), iemocap, cremad, msp_podcast or folder (recordings of your own)
csc=             # final.pt of an encoder (default, where neither it nor --dino is given: exp/mini_csc/checkpoints/final.pt)
dino=            # final.pt of another, which is fine-tuned too (default likewise: exp/mini_dino/checkpoints/final.pt)
finetune=yes     # yes: fine-tune the encoder of --dino, once for each fold; or no
config=          # of the fine-tuning (default: conf/mini/finetune.yaml for mini and without a GPU, else conf/finetune.yaml)
folds=5          # mini, cremad, folder: how many folds the speakers are dealt into; of the others they are published
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

# All that was given is checked before anything is made.
case $corpus in
  mini) ;;
  iemocap | cremad | msp_podcast) required "$corpus" ;;
  folder) [[ -n $class_dir || -n $table ]] || required class_dir ;;
  *) fail "--corpus is mini, iemocap, cremad, msp_podcast or folder, not '$corpus'" ;;
esac
only_with iemocap iemocap merge_excited
only_with cremad cremad
only_with msp_podcast msp_podcast
only_with folder class_dir table
[ -z "${class_dir:+$table}" ] || fail "--class-dir and --table: give one of them"
[[ $folds == 5 || $corpus == mini || $corpus == cremad || $corpus == folder ]] ||
  fail "--folds $folds: the folds of $corpus are published; leave the option out"
[ "$folds" -ge 2 ] || fail "--folds $folds: give 2 or more"
[[ $finetune == yes || $finetune == no ]] || fail "--finetune is yes or no, not '$finetune'"
[[ ${merge_excited:-yes} == yes || $merge_excited == no ]] || fail "--merge-excited is yes or no, not '$merge_excited'"
existing_folders iemocap cremad msp_podcast class_dir
((1 <= stage && stage <= stop_stage && stop_stage <= 5)) ||
  fail "--stage $stage --stop-stage $stop_stage: the stages are 1 to 5, and the first comes before the last"
absolute_paths csc dino config data exp table
[ -z "$table" ] || [ -f "$table" ] || fail "--table: there is no file $table"
cd "$root"
missing=()
if [ -z "$csc$dino" ]; then   # both of egs/voxceleb; of one alone it is said that the other is left out
  for method in csc dino; do
    file=exp/mini_$method/checkpoints/final.pt
    if [ -f "$file" ]; then printf -v "$method" %s "$root/$file"; else missing+=("$method"); fi
  done
fi
make_csc='bash egs/voxceleb/run.sh --stop-stage 3' make_dino='bash egs/voxceleb/run.sh --method dino --stop-stage 3'
[ -n "$csc$dino" ] || fail "there is no encoder yet: '$make_dino' makes exp/mini_dino/checkpoints/final.pt and" \
  "'$make_csc' makes exp/mini_csc/checkpoints/final.pt; or name one with --dino or --csc"
for method in csc dino; do
  [ -z "${!method}" ] || [ -f "${!method}" ] || fail "--$method: there is no file ${!method}"
done
data=${data:-data/${corpus}_emotion} exp=${exp:-exp/${corpus}_emotion}
conf=egs/emotion/conf device=cuda launcher=()
[ "$gpus" -gt 0 ] || device=cpu
[ "$gpus" -lt 2 ] || launcher=(torchrun --standalone --nproc-per-node "$gpus")
if [ "$corpus" = mini ] || [ "$device" = cpu ]; then conf=$conf/mini; fi
given_config=$config
config=${config:-$conf/finetune.yaml}
[ -f "$config" ] || fail "there is no config $config; in $conf there are: $(cd "$conf" && echo *.yaml)"
. ./path.sh
if [ "$gpus" -gt 0 ]; then
  found=$(python -c 'import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)')
  [ "$gpus" -le "$found" ] || fail "--gpus $gpus: torch can use $found GPUs here; --gpus 0 takes the CPU"
fi
problem=$(python local/train.py --config "$config" --network.name resnet --data "$data/all" --exp "$exp" \
  --print_config 2>&1 >/dev/null) || fail "$config: ${problem#error: }"

log "data in $data, run in $exp; '. ./path.sh' in your shell, and the commands below can be copied"
for method in "${missing[@]}"; do
  make=make_$method
  log "there is no exp/mini_$method/checkpoints/final.pt: $method is left out; '${!make}' makes it"
done
if [ -z "$dino" ] && [ "$finetune" = yes ]; then
  log "fine-tuning is left out: it starts from --dino"
  finetune=no
fi
[[ -z $given_config || $finetune == yes ]] || log "--config does nothing here: it is of the fine-tuning"
table_of=$data/all/emotions.tsv

keep_markers_in "$data"
if stage 1 "data ($corpus)"; then
  continues "$data"/all/{cuts.jsonl.gz,emotions.tsv}
  case $corpus in
    mini)   # 480 utterances of 40 speakers, 120 in each of four styles
      run local/prepare_mini_emotion.py --out "$data" --folds "$folds" --nj "$nj" ;;
    iemocap)   # 5,531 utterances of 10 speakers: 1,103 angry, 1,636 happy or excited, 1,708 neutral, 1,084 sad
      reads "$iemocap"
      merge=true
      [ "$merge_excited" != no ] || merge=false
      run local/prepare_iemocap.py --corpus "$iemocap" --merge_excited "$merge" --data "$data" --nj "$nj" ;;
    cremad)   # 4,899 utterances of 91 actors: 1,271 angry, 1,271 happy, 1,087 neutral, 1,270 sad; one more is silent
      reads "$cremad"
      run local/prepare_cremad.py --corpus "$cremad" --folds "$folds" --data "$data" --nj "$nj" ;;
    msp_podcast)   # how many depends on the release
      reads "$msp_podcast"
      run local/prepare_msp_podcast.py --corpus "$msp_podcast" --data "$data" --nj "$nj" ;;
    folder)
      if [ -n "$class_dir" ]; then labelled=(--class-dir "$class_dir"); else labelled=(--table "$table"); fi
      reads "${class_dir:-$table}"
      run local/prepare_emotion_folder.py "${labelled[@]}" --folds "$folds" --data "$data" --nj "$nj" ;;
  esac
  run utils/validate_data.py "$data/all"
fi

# CHECKPOINT FOLDER: what a network makes of every utterance.
extract() {
  reads "$1"
  # Not `continues`: the script asks for what is newer than the checkpoint, and another checkpoint may be an older file.
  makes "$2/embeddings"
  run local/extract_embeddings.py --checkpoint "$1" --cuts "$data/all" --out "$2/embeddings/all" --device "$device"
}

keep_markers_in "$exp"
systems=(floor)
if stage 2 "extract embeddings"; then
  # The floor: mean and standard deviation of log-mel frames. What has learnt has to beat it.
  continues "$exp/floor/embeddings/all.scp"
  run local/extract_floor.py --cuts "$data/all" --out "$exp/floor/embeddings/all" --device "$device"
  for method in csc dino; do
    [ -z "${!method}" ] || extract "${!method}" "$exp/$method"
  done
fi
for method in csc dino; do [ -z "${!method}" ] || systems+=("$method"); done

if stage 3 "fine-tune: $finetune" && [ "$finetune" = yes ]; then
  reads "$dino"
  makes "$exp/finetuned"
  run local/split_folds.py --table "$table_of" --checkpoint "$dino" --out "$exp/finetuned"
  for labels in "$exp"/finetuned/*/labels.tsv; do
    # The held-out fold is not in the labels: of its speakers nothing is learnt. An interrupted training is continued.
    fold=$(dirname "$labels")
    continues "$fold/checkpoints"
    run "${launcher[@]}" local/train.py --config "$config" --config "$exp/finetuned/network.yaml" --data "$data/all" \
      --labels "$labels" --start-from "$dino" --exp "$fold" --seed "$seed" --device "$device"
    extract "$fold/checkpoints/final.pt" "$fold"
  done
fi

if stage 4 "classify"; then
  makes "$exp/scores"
  for system in "${systems[@]}"; do
    run local/classify_emotions.py --embeddings "$exp/$system/embeddings/all.scp" --table "$table_of" \
      --system "$system" --corpus "$corpus" --out "$exp/scores"
  done
  if [ "$finetune" = yes ]; then
    # Strengths of the frozen encoder: that of a fold has learnt the classes of those whom they are chosen on.
    run local/classify_emotions.py --embeddings "$exp/finetuned/{fold}/embeddings/all.scp" --table "$table_of" \
      --strengths "$exp/scores/dino.json" --system finetuned --corpus "$corpus" --out "$exp/scores"
  fi
fi

if stage 5 "results"; then
  write_seconds "$exp/seconds.json"
  continues "$exp/results.json" "$exp/confusion.png"
  run local/make_emotion_results.py --exp "$exp" --corpus "$corpus" --seed "$seed" --seconds "$exp/seconds.json"
fi
end_stages
exit
}
