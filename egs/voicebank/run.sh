#!/usr/bin/env bash
# Speech enhancement with contrastive regularisation in a label-free feature space: from recordings to a table.
#
#   bash egs/voicebank/run.sh                    on a corpus that is synthesised here: no data, no GPU needed
#   bash egs/voicebank/run.sh --corpus folder --clean-dir A --noisy-dir B --test-clean-dir C --test-noisy-dir D
#   bash egs/voicebank/run.sh --corpus folder --clean-dir A --test-clean-dir B --noise-dir C     mixed here
#   bash egs/voicebank/run.sh --corpus voicebank --voicebank A --space wav2vec2.pth --bundle WAV2VEC2_BASE --gpus 4
#
# Stage         reads                             writes
#   1 data      the corpus folders                data/<corpus>_pairs: train, valid, test; scores of the noisy test set
#   2 space     the clean side of train           exp/<run>/space: the encoder whose features compare speech
#   3 none      train, valid, the config          exp/<run>/none, none_10, ...: networks without a regulariser, and
#                                                 train and valid enhanced by them: the negatives (with --mixing anew
#                                                 the networks themselves are the negatives)
#   4 arms      train, valid, space, negatives    exp/<run>/<arm>: one network per arm
#   5 enhance   the noisy side of test            exp/<run>/<arm>/enhanced/test
#   6 score     the enhanced and the clean test   exp/<run>/scores
#   7 results   scores, logs                      exp/<run>/results.json, spectrograms.png, and the table on the screen
#
# A finished command runs again when something that it reads has changed, and only then. Paths are relative to the
# current folder; the default folders data/ and exp/ lie in the project's root.
set -euo pipefail
{   # bash reads a script while it runs, but a block as a whole: this file may be edited meanwhile
# shellcheck source=utils/recipe.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe.sh"

stage=1          # first stage to run
stop_stage=7     # last stage to run
corpus=mini      # mini (synthesised here), folder (your own recordings) or voicebank
backbone=crn     # the network: crn, mask_gru, tf_conformer or any other config's name
config=          # the config, whose name results use (default: conf/<backbone>.yaml; conf/mini/... for mini, without a GPU)
arms='none positive cr ccr'    # what is trained and compared; fixed, hard_only, cr_matched and literal are controls
negatives='10 35 100'    # networks that make the negatives: the share of the training steps of each, in percent
space=           # feature space: final.pt of an encoder, or logmel (default: an encoder is trained, space.yaml beside the config)
bundle=          # --space holds the weights of this torchaudio model, e.g. WAV2VEC2_BASE, not of an encoder trained here
mixing=once      # mini, and a folder with noise: once: pairs are kept on disk; anew: mixed in training, for every crop
data=            # folder for the prepared corpus (default: data/<corpus>_pairs; <corpus>_anew_pairs with --mixing anew)
exp=             # folder for the run (default: exp/<corpus>_<backbone>; <corpus>_anew_<backbone> with --mixing anew)
seed=1           # random seed of training; the corpus stays the same
nj=$(getconf _NPROCESSORS_ONLN)    # processes that prepare data and score
gpus=$(nvidia-smi -L 2>/dev/null | grep -c -m 1 ^GPU || true)    # GPUs to train on; 0: the CPU
clean_dir=       # folder: clean recordings to learn from, in any tree
noisy_dir=       # folder: the same recordings with noise (default: noise is mixed into the clean ones)
test_clean_dir=  # folder: clean recordings to test on
test_noisy_dir=  # folder: the same recordings with noise (default: noise is mixed into the clean ones)
noise_dir=       # folder: noise to mix with (default: synthetic noise); a third of it is kept for the test
voicebank=       # voicebank: the folder with clean_trainset_28spk_wav, noisy_trainset_28spk_wav, ... of VoiceBank-DEMAND
train_set=       # voicebank: 28spk or 56spk (default: 28spk)
parse_options "$@"

# Everything is checked before anything is made.
corpora folder:clean_dir,test_clean_dir voicebank:voicebank
only_with folder clean_dir noisy_dir test_clean_dir test_noisy_dir noise_dir
only_with voicebank voicebank train_set
existing_folders clean_dir noisy_dir test_clean_dir test_noisy_dir noise_dir voicebank
# shellcheck source=egs/voicebank/steps.sh
. "$root/egs/voicebank/steps.sh"    # check_options, prepare_corpus, train_arm, ...
check_options
common_options voicebank 7
kind=$corpus${anew:+_anew}
data=${data:-data/${kind}_pairs} exp=${exp:-exp/${kind}_$backbone} config=${config:-$conf/$backbone.yaml}
beside=$(dirname "$config")
check_configs
check_run --gpus "$gpus"
cslib_also_needs egs/voicebank/requirements.txt
[[ -n ${negatives// /} || $(answer needs_negatives) != yes ]] || fail "--negatives: ccr and its controls need one or more"
settle    # which folders and options follow from all this

log "data in $data, run in $exp, config $config; to run a command below by hand, first '. ./path.sh' in your shell"
keep_markers_in "$data"
if stage 1 "data ($corpus)"; then prepare_corpus; fi

keep_markers_in "$exp"
if stage 2 "feature space" && [ -z "$space" ] && [ ${#regularised[@]} -gt 0 ]; then
  if [ -d "$data/noise" ]; then train_space --noise "$data/noise"; else train_space; fi
fi
if stage 3 "networks without a regulariser, and the negatives that they make"; then
  # All arms start from the same weights and see the same crops in the same order.
  train_arm "$exp/none" none
  for folder in "${graded[@]}"; do make_negatives "$folder"; done
fi
if stage 4 "arms: ${regularised[*]:-none}" && [ ${#regularised[@]} -gt 0 ]; then
  check_space
  for arm in "${regularised[@]}"; do train_regularised "$arm"; done
fi
if stage 5 "enhance the test set"; then
  for arm in none "${regularised[@]}"; do enhance "$exp/$arm" test; done
fi
if stage 6 "score"; then
  for arm in none "${regularised[@]}"; do score "$exp/$arm/enhanced/test" "$exp/scores/$arm.tsv"; done
fi
if stage 7 "results"; then make_results; fi
end_recipe
exit
}
