"""Make data/voicebank/{train,valid,test} from VoiceBank-DEMAND as it is published (Edinburgh DataShare 10283/2791).

    python local/prepare_voicebank.py --corpus corpora/voicebank --data data/voicebank

Layout: <corpus>/{clean,noisy}_trainset_28spk_wav/p226_001.wav and <corpus>/{clean,noisy}_testset_wav/p232_001.wav; with
--train-set 56spk, the larger training set. The 48 kHz recordings are resampled once, to 16 kHz FLAC in
data/voicebank/<set>/<side>/audio/; a killed run continues where it was. There is no published validation set; as in
most papers, it consists of all recordings of p226 and p287. SNRs and noises are read from log_trainset_28spk.txt and
log_testset.txt (logfiles.zip), if present.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cslib.config import UserError, run
from cslib.corpora.audio_files import Checks
from cslib.corpora.pair_preparation import Pair, find_pairs, prepare_pairs, refuse_unequal
from cslib.data.pairs import Condition
from cslib.files import claim, warn

PUBLISHED_AT = "https://datashare.ed.ac.uk/handle/10283/2791"


class Published(NamedTuple):
    """A published training or test set.

    name         in the names of its folders
    pairs        number of pairs
    speakers     number of speakers
    valid        speakers held out for validation
    valid_pairs  number of their pairs
    """

    name: str
    pairs: int
    speakers: int
    valid: tuple[str, ...] = ()
    valid_pairs: int = 0


# The larger set is documented with 56 speakers, but its folders hold 58, without p226 and p287. Its first woman and its
# first man are held out.
TRAIN_SETS = {
    "28spk": Published("trainset_28spk", 11_572, 28, ("p226", "p287"), 770),
    "56spk": Published("trainset_56spk", 23_075, 58, ("p234", "p237"), 696),
}
TEST_SET = Published("testset", 824, 2)


@dataclass
class Options:
    corpus: Path  # folder with clean_trainset_28spk_wav, noisy_trainset_28spk_wav and so on
    train_set: str = "28spk"  # 28spk (as in most papers) | 56spk
    data: Path = Path("data/voicebank")  # makes train/, valid/ and test/ in it, each with clean/ and noisy/
    nj: int = os.cpu_count() or 1  # number of processes


def main(options: Options) -> None:
    if options.train_set not in TRAIN_SETS:
        raise UserError(f"--train-set is {options.train_set}; it must be {' or '.join(TRAIN_SETS)}")
    published = TRAIN_SETS[options.train_set]
    sets = dict(zip(("valid", "train"), split(published, list_pairs(options.corpus, published)), strict=True))
    sets["test"] = list_pairs(options.corpus, TEST_SET)
    conditions = read_log(options.corpus, published) | read_log(options.corpus, TEST_SET)
    refuse_unequal([pair for pairs in sets.values() for pair in pairs], options.nj)
    claim(options.data, {"corpus": str(options.corpus.resolve()), "train_set": options.train_set})
    for name in ("train", "valid", "test"):
        # Headers of the conversions suffice: all published files are complete, and none is silent or short.
        checks = Checks(decode=False, min_seconds=0.0, silence_peak=0.0)
        utterances = prepare_pairs(options.data / name, sets[name], checks, options.nj, conditions)
        expected = {
            "train": published.pairs - published.valid_pairs,
            "valid": published.valid_pairs,
            "test": TEST_SET.pairs,
        }[name]
        if len(utterances) != expected:
            warn(f"{options.data / name}: {len(utterances):,} pairs instead of the published {expected:,}")
    print(f"{options.data / 'valid'}: holds out {' and '.join(published.valid)}")


def list_pairs(corpus: Path, published: Published) -> list[Pair]:
    """The pairs of a published set, with their speakers; warns when their number is not the published one.

    Raises UserError when a folder is missing or holds other recordings.
    """
    folders = [corpus / f"{side}_{published.name}_wav" for side in ("clean", "noisy")]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder; unpack {folder.name}.zip there, from {PUBLISHED_AT}")
    pairs = find_pairs(*folders)
    foreign = [pair.noisy for pair in pairs if not re.fullmatch(r"p\d{3}_\d{3}", pair.id)]
    if foreign:
        raise UserError(f"{foreign[0]}: is not named like p226_001.wav; remove what is not VoiceBank-DEMAND")
    pairs = [pair._replace(speaker=pair.id.partition("_")[0]) for pair in pairs]
    speakers = len({pair.speaker for pair in pairs})
    if (len(pairs), speakers) != (published.pairs, published.speakers):
        warn(
            f"{published.name} has {len(pairs):,} pairs of {speakers} speakers here, instead of the published "
            f"{published.pairs:,} of {published.speakers}"
        )
    return pairs


def split(published: Published, pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """(pairs of the validation speakers, the others). Raises UserError when either is empty."""
    valid = [pair for pair in pairs if pair.speaker in published.valid]
    train = [pair for pair in pairs if pair.speaker not in published.valid]
    if not valid or not train:
        raise UserError(
            f"{published.name}: must hold recordings of {' or '.join(published.valid)}, who are held out for "
            "validation, and of others; unpack all of it"
        )
    return valid, train


def read_log(corpus: Path, published: Published) -> dict[str, Condition]:
    """SNR and noise of each recording, from the published log; empty, with a warning, when there is no log."""
    name = f"log_{published.name}.txt"
    path = next((path for path in (corpus / name, corpus / "logfiles" / name) if path.is_file()), None)
    if path is None:
        warn(f"{corpus}: no {name}, so SNRs and noises are unknown; it is in logfiles.zip, from {PUBLISHED_AT}")
        return {}
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {name: Condition(float(snr), noise) for name, noise, snr in rows}
    except ValueError:
        raise UserError(f"{path}: a line is not `p226_001 noise SNR`; download it from {PUBLISHED_AT}") from None


if __name__ == "__main__":
    run(main, Options)
