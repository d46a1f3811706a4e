"""Make data/<corpus>/{train,valid,test} of pairs, noisy and clean, from folders of recordings.

    python local/prepare_pairs.py --clean-dir a/clean --noisy-dir a/noisy \\
        --test-clean-dir b/clean --test-noisy-dir b/noisy --data data/pairs
    python local/prepare_noise.py --noise-dir noises --out data/mixed
    python local/prepare_pairs.py --clean-dir a/clean --noise data/mixed/noise \\
        --test-clean-dir b/clean --noise-test data/mixed/noise_test --data data/mixed

The first form takes pairs as they are: files of equal names and lengths, in any tree. The second mixes clean speech
with noise, once, and keeps what comes out, and the speech as it was before in <set>/speech (of the training set that
alone with --mix-train false, for a training that mixes every crop anew); nothing of the training noise is in that of
the test. Recordings may have any sampling rate and number of channels: what is not 16 kHz mono is
converted once. A share of the training recordings, whole folders of them where there are four or more, is held out to
validate with.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cslib.config import UserError, run
from cslib.corpora.audio_files import Checks
from cslib.corpora.pair_mixing import TEST_SNRS, TRAIN_SNRS, mix_set
from cslib.corpora.pair_preparation import Pair, find_pairs, find_recordings, prepare_pairs, refuse_unequal
from cslib.corpora.preparation import Source, prepare_set
from cslib.data.banks import open_banks
from cslib.files import claim

FEW_FOLDERS = 4  # with fewer folders than this, single recordings are held out


@dataclass
class Options:
    clean_dir: Path  # clean speech to learn from, in any tree
    noisy_dir: Path | None = None  # the same recordings, noisy; or give --noise
    noise: Path | None = None  # data/<corpus>/noise of prepare_noise.py: the clean speech is mixed with it
    test_clean_dir: Path | None = None  # clean speech to test on; none: no test set
    test_noisy_dir: Path | None = None  # the same recordings, noisy; or give --noise-test
    noise_test: Path | None = None  # data/<corpus>/noise_test, for the test set
    data: Path = Path("data/pairs")  # makes train/, valid/ and test/ in it, each with clean/ and noisy/
    valid_share: float = 0.05  # of the training recordings, held out to validate with
    snrs: tuple[float, ...] = TRAIN_SNRS  # dB, signal-to-noise ratios that training and validation are mixed at
    test_snrs: tuple[float, ...] = TEST_SNRS  # dB, those of the test
    mix_train: bool = True  # false: training recordings stay clean, for a training that mixes every crop
    seed: int = 0  # of what is held out, and of the mixing
    min_seconds: float = 0.5  # shorter recordings are left out; PESQ cannot judge them
    nj: int = os.cpu_count() or 1  # processes; the result does not depend on it


def main(options: Options) -> None:
    _check(options)
    pairs = split(_find(options.clean_dir, options.noisy_dir), options.clean_dir, options.valid_share, options.seed)
    sets = dict(zip(("valid", "train"), pairs, strict=True))
    print(f"held out to validate with: {_listed([pair.id for pair in sets['valid']])}")
    if options.test_clean_dir:
        sets["test"] = _find(options.test_clean_dir, options.test_noisy_dir)
    refuse_unequal([pair for pairs in sets.values() for pair in pairs if pair.noisy != pair.clean], options.nj)
    # The noise is known by what it holds, to `mix_set`.
    settings = {
        name: value
        for name, value in asdict(options).items()
        if name not in ("data", "nj", "noise", "noise_test", "mix_train")
    }
    claim(
        options.data,
        {name: str(value.resolve() if isinstance(value, Path) else value) for name, value in settings.items()},
    )
    checks = Checks(min_seconds=options.min_seconds)
    for number, name in enumerate(("train", "valid", "test")):
        if name not in sets:
            continue
        noise = options.noise_test if name == "test" else options.noise
        if noise:
            snrs = options.test_snrs if name == "test" else options.snrs
            speech = _prepare_speech(options.data / name / "speech", sets[name], checks, options.nj)
            if name != "train" or options.mix_train:
                mix_set(speech, noise, options.data / name, snrs, (options.seed, number), options.nj)
        else:
            prepare_pairs(options.data / name, sets[name], checks, options.nj)


def _check(options: Options) -> None:
    for part, noisy, noise in (("", "noisy_dir", "noise"), ("test_", "test_noisy_dir", "noise_test")):
        given = [name for name in (noisy, noise) if getattr(options, name)]
        wanted = 1 if getattr(options, f"{part}clean_dir") else 0
        if len(given) != wanted:
            raise UserError(
                f"{part}clean_dir: goes with one of {noisy} (the same recordings, noisy) and {noise} (to "
                f"mix with), here are {len(given)}"
            )
    if options.noisy_dir and not options.mix_train:
        raise UserError("mix_train: false is for clean speech and --noise; what --noisy-dir holds is mixed already")
    for clean, noisy in ((options.clean_dir, options.noisy_dir), (options.test_clean_dir, options.test_noisy_dir)):
        if noisy and noisy.resolve() == clean.resolve():
            raise UserError(f"noisy_dir: {noisy} is given as the clean one, too; give the noisy recordings")
    if options.noise and options.noise_test and options.noise.resolve() == options.noise_test.resolve():
        raise UserError(f"noise_test: {options.noise_test} is the training noise too; give noise that it does not hold")
    if not 0 < options.valid_share < 1:
        raise UserError(f"valid_share: {options.valid_share} will not do; give more than 0 and less than 1")
    for folder in filter(None, (options.clean_dir, options.noisy_dir, options.test_clean_dir, options.test_noisy_dir)):
        mine, corpus = options.data.resolve(), folder.resolve()
        if _overlap(mine, corpus):
            raise UserError(f"{options.data}: would lie in the corpus {folder}, or around it; choose another --data")
    for mine, its in ((options.clean_dir, options.test_clean_dir), (options.noisy_dir, options.test_noisy_dir)):
        if mine and its and _overlap(mine.resolve(), its.resolve()):
            raise UserError(f"{its}: holds, or lies in, {mine}, which is learnt from; test on other recordings")
    for folder in filter(None, (options.noise, options.noise_test)):
        open_banks(folder)


def _listed(names: list[str], shown: int = 5) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown:,} more" if len(names) > shown else "")


def _overlap(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents


def _find(clean: Path, noisy: Path | None) -> list[Pair]:
    """Pairs; of recordings that are yet to be mixed, both sides are the clean one."""
    return (
        find_pairs(clean, noisy) if noisy else [Pair(name, path, path) for name, path in find_recordings(clean).items()]
    )


def split(pairs: list[Pair], root: Path, share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(held out to validate with, left to train on), both at least one, in the order of their ids.

    Folders right below `root`, which often are speakers, are held out whole where there are enough of them.
    Raises UserError when there is but one recording.
    """
    if len(pairs) < 2:
        raise UserError(f"{root}: one recording is too few to hold some out to validate with; add more")
    tops = [Path(pair.clean).relative_to(root.absolute()).parts[0] for pair in pairs]
    groups = tops if len(set(tops)) >= FEW_FOLDERS else [pair.id for pair in pairs]
    names = sorted(set(groups))
    count = min(max(1, round(share * len(names))), len(names) - 1)
    chosen = np.random.default_rng([seed, len(names)]).permutation(len(names))[:count]
    held_out = {names[index] for index in chosen}
    return (
        [pair for pair, group in zip(pairs, groups, strict=True) if group in held_out],
        [pair for pair, group in zip(pairs, groups, strict=True) if group not in held_out],
    )


def _prepare_speech(folder: Path, pairs: list[Pair], checks: Checks, nj: int) -> Path:
    """The clean speech as a set of its own, in `folder`, before it is mixed."""
    audio = folder.absolute() / "audio"
    sources = [Source(pair.id, pair.clean, str(audio / f"{pair.id}.flac")) for pair in pairs]
    print(prepare_set(folder, sources, checks, nj, total=len(sources)))
    return folder


if __name__ == "__main__":
    run(main, Options)
