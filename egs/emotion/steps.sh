# shellcheck shell=bash disable=SC2154   # the variables are set by run.sh
# The steps of the stages of run.sh, which sources this file and sets the variables used here.

# Without --csc and --dino: the encoders that egs/voxceleb made on mini, both or one of them.
find_encoders() {
  local method file make
  local make_csc='bash egs/voxceleb/run.sh --stop-stage 3' make_dino='bash egs/voxceleb/run.sh --method dino --stop-stage 3'
  if [ -z "$csc$dino" ]; then
    for method in csc dino; do
      file=exp/mini_$method/checkpoints/final.pt make=make_$method
      if [ -f "$file" ]; then
        printf -v "$method" %s "$root/$file"
      else
        missing+=("$method is left out: there is no $file; '${!make}' makes it")
      fi
    done
  fi
  [ -n "$csc$dino" ] || fail "there is no encoder yet: '$make_dino' makes exp/mini_dino/checkpoints/final.pt and" \
    "'$make_csc' makes exp/mini_csc/checkpoints/final.pt; or name one with --dino or --csc"
  for method in csc dino; do
    [ -z "${!method}" ] || [ -f "${!method}" ] || fail "--$method: there is no file ${!method}"
  done
  if [ -z "$dino" ] && [ "$finetune" = yes ]; then
    missing+=("fine-tuning is left out: it starts from --dino")
    finetune=no
  fi
}

prepare_corpus() {
  local merge=true labelled=(--class-dir "$class_dir")
  continues "$data"/all/{cuts.jsonl.gz,emotions.tsv}
  case $corpus in
    mini)   # 480 utterances of 40 speakers, 120 in each of four styles
      run local/prepare_mini_emotion.py --out "$data" --folds "$folds" --nj "$nj" ;;
    iemocap)   # 5,531 utterances of 10 speakers: 1,103 angry, 1,636 happy or excited, 1,708 neutral, 1,084 sad
      [ "$merge_excited" = yes ] || merge=false
      run local/prepare_iemocap.py --corpus "$iemocap" --merge-excited "$merge" --data "$data" --nj "$nj" ;;
    cremad)   # 4,899 utterances of 91 actors: 1,271 angry, 1,271 happy, 1,087 neutral, 1,270 sad; one more is silent
      run local/prepare_cremad.py --corpus "$cremad" --folds "$folds" --data "$data" --nj "$nj" ;;
    msp_podcast)   # the number of utterances depends on the release
      run local/prepare_msp_podcast.py --corpus "$msp_podcast" --data "$data" --nj "$nj" ;;
    folder)
      [ -n "$class_dir" ] || labelled=(--table "$table")
      run local/prepare_emotion_folder.py "${labelled[@]}" --folds "$folds" --data "$data" --nj "$nj" ;;
  esac
  validate "$data/all"
}

# FOLDER: fine-tunes the encoder on the classes of the training folds. The labels hold no utterance of the held-out
# fold: nothing is learnt from its speakers.
fine_tune() {
  train "$1" --config "$config" --config "$exp/finetuned/network.yaml" --data "$data/all" --labels "$1/labels.tsv" \
    --start-from "$dino"
  extract "$1/checkpoints/final.pt" "$data/all" "$1/embeddings/all"
}

# SYSTEM OPTION...
classify() {
  makes "$exp/scores/$1".{json,tsv}
  run local/classify_emotions.py --system "$1" --corpus "$corpus" --table "$emotions" --out "$exp/scores" "${@:2}"
}
