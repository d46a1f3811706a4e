"""Make data/<corpus>/{train,valid,test} of pairs, noisy and clean, from folders of recordings.

    python local/prepare_pairs.py --clean-dir a/clean --noisy-dir a/noisy \\
        --test-clean-dir b/clean --test-noisy-dir b/noisy --data data/pairs
    python local/prepare_noise.py --noise-dir noises --out data/mixed
    python local/prepare_pairs.py --clean-dir a/clean --noise data/mixed/noise \\
        --test-clean-dir b/clean --noise-test data/mixed/noise_test --data data/mixed

The first form takes existing pairs: files of equal names and lengths, in any tree. The second form mixes clean speech
with noise, once, and keeps the clean speech in <set>/speech. With --mix-train false, the training set has clean speech
only, for training that mixes every crop. Training noise and test noise must differ.

Recordings may have any sampling rate and number of channels; what is not 16 kHz mono is converted once. A share of the
training recordings is held out for validation; when there are four folders or more, whole folders are held out.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cslib.config import UserError, require, run
from cslib.corpora.audio_files import Checks
from cslib.corpora.folders import refuse_overlap
from cslib.corpora.pair_mixing import TEST_SNRS, TRAIN_SNRS, mix_set
from cslib.corpora.pair_preparation import Pair, find_pairs, find_recordings, prepare_pairs, refuse_unequal
from cslib.corpora.preparation import Source, prepare_set
from cslib.data.banks import open_banks
from cslib.files import claim

FEW_FOLDERS = 4  # with fewer folders, single recordings are held out


@dataclass
class Options:
    clean_dir: Path  # clean training speech, in any tree
    noisy_dir: Path | None = None  # the same recordings with noise; or give --noise
    noise: Path | None = None  # data/<corpus>/noise from prepare_noise.py, to mix the clean speech with
    test_clean_dir: Path | None = None  # clean test speech; without it there is no test set
    test_noisy_dir: Path | None = None  # the same recordings with noise; or give --noise-test
    noise_test: Path | None = None  # data/<corpus>/noise_test from prepare_noise.py, to mix the clean test speech with
    data: Path = Path("data/pairs")  # makes train/, valid/ and test/ in it, each with clean/ and noisy/
    valid_share: float = 0.05  # share of the training recordings that is held out for validation
    snrs: tuple[float, ...] = TRAIN_SNRS  # signal-to-noise ratios in dB that training and validation are mixed at
    test_snrs: tuple[float, ...] = TEST_SNRS  # signal-to-noise ratios in dB that the test is mixed at
    mix_train: bool = True  # false: training recordings stay clean, for training that mixes every crop
    seed: int = 0  # of the held-out recordings, and of the mixing
    min_seconds: float = 0.5  # shorter recordings, which PESQ cannot measure, are left out; in seconds
    nj: int = os.cpu_count() or 1  # number of processes; the result does not depend on it


def main(options: Options) -> None:
    _check(options)
    pairs = split(_find(options.clean_dir, options.noisy_dir), options.clean_dir, options.valid_share, options.seed)
    sets = dict(zip(("valid", "train"), pairs, strict=True))
    print(f"held out for validation: {_listed([pair.id for pair in sets['valid']])}")
    if options.test_clean_dir:
        sets["test"] = _find(options.test_clean_dir, options.test_noisy_dir)
    refuse_unequal([pair for pairs in sets.values() for pair in pairs if pair.noisy != pair.clean], options.nj)
    # `mix_set` checks the noise, by its content.
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
            names = [f"--{name.replace('_', '-')}" for name in (f"{part}clean_dir", noisy, noise)]
            raise UserError(
                f"{names[0]} needs one of {names[1]} (the same recordings with noise) and {names[2]} (to mix it "
                f"with); {len(given)} are given{'' if wanted else f' without {names[0]}'}"
            )
    if options.noisy_dir and not options.mix_train:
        raise UserError("--mix-train false needs --noise; what --noisy-dir holds is mixed already")
    for clean_dir, noisy_dir in (
        (options.clean_dir, options.noisy_dir),
        (options.test_clean_dir, options.test_noisy_dir),
    ):
        if noisy_dir and clean_dir and noisy_dir.resolve() == clean_dir.resolve():
            raise UserError(f"{noisy_dir}: is given as clean and as noisy folder; give the noisy recordings")
    if options.noise and options.noise_test and options.noise.resolve() == options.noise_test.resolve():
        raise UserError(f"--noise-test: {options.noise_test} is the training noise, too; give other noise")
    require(0 < options.valid_share < 1, "--valid-share", options.valid_share, "between 0 and 1")
    for folder in filter(None, (options.clean_dir, options.noisy_dir, options.test_clean_dir, options.test_noisy_dir)):
        refuse_overlap(options.data.resolve(), folder.resolve())
    for mine, its in ((options.clean_dir, options.test_clean_dir), (options.noisy_dir, options.test_noisy_dir)):
        if mine and its and _overlap(mine.resolve(), its.resolve()):
            raise UserError(f"{its}: contains the training folder {mine}, or lies in it; test on other recordings")
    for folder in filter(None, (options.noise, options.noise_test)):
        open_banks(folder)


def _listed(names: list[str], shown: int = 5) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown:,} more" if len(names) > shown else "")


def _overlap(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents


def _find(clean: Path, noisy: Path | None) -> list[Pair]:
    """The pairs; where clean speech is yet to be mixed, both sides are the clean recording."""
    return (
        find_pairs(clean, noisy) if noisy else [Pair(name, path, path) for name, path in find_recordings(clean).items()]
    )


def split(pairs: list[Pair], root: Path, share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Divide pairs into (validation, training), each with at least one, in the order of their ids.

    Folders directly below `root`, which often are speakers, are held out as a whole when there are enough of them.
    Raises UserError when there is one recording only.
    """
    if len(pairs) < 2:
        raise UserError(f"{root}: one recording is too few to hold some out for validation; add more")
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
    """Prepare the clean speech, before it is mixed, as a set of its own; return its folder."""
    audio = folder.absolute() / "audio"
    sources = [Source(pair.id, pair.clean, str(audio / f"{pair.id}.flac")) for pair in pairs]
    print(prepare_set(folder, sources, checks, nj, total=len(sources)))
    return folder


if __name__ == "__main__":
    run(main, Options)
