"""Make data/<corpus>/{train,test} from folders of recordings: any tree for training, a folder per speaker for the test.

    python local/prepare_folder.py --train-dir speech/unlabelled --test-dir speech/test --data data/folder

Recordings may be wav, flac, ogg or mp3 files (or m4a, with ffmpeg) of any sampling rate and number of channels. What is
not a 16 kHz mono wav or flac file is converted once, into data/<corpus>/<set>/audio/; the source is left as it is.
Recordings that are unreadable, empty, silent or too short are left out and listed in rejected.tsv; more than 5 %
unreadable ones are an error. No label is read from the training folder. The test folder gives speakers.tsv, and
trials/clean.txt with all pairs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cslib.config import UserError, run
from cslib.corpora.audio_files import AUDIO_SUFFIXES, Checks
from cslib.corpora.folders import refuse_overlap, relative_audio_paths, remove_set, unique_ids
from cslib.corpora.preparation import Source, prepare_set
from cslib.data.trials import write_trials

MAX_TRIALS = 500_000


@dataclass
class Options:
    train_dir: Path | None = None  # training recordings, in any tree; only their audio is used
    test_dir: Path | None = None  # test recordings, one folder per speaker, with recordings anywhere below it
    data: Path = Path("data/folder")  # makes train/ and test/ in it
    nj: int = os.cpu_count() or 1  # number of processes
    seed: int = 1  # of the choice of trials, when there are more than 500,000
    min_seconds: float = 1.0  # shorter recordings are left out, in seconds
    silence_peak: float = 0.001  # recordings whose largest magnitude is below it are left out; full scale is 1


def main(options: Options) -> None:
    if options.train_dir is None and options.test_dir is None:
        raise UserError("give --train-dir (for training), --test-dir (one folder per speaker), or both")
    for folder in filter(None, (options.train_dir, options.test_dir)):
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder")
    if options.train_dir:
        _prepare(options.data / "train", options.train_dir, options, by_speaker=False)
    if options.test_dir:
        _prepare(options.data / "test", options.test_dir, options, by_speaker=True)


def _prepare(folder: Path, corpus: Path, options: Options, by_speaker: bool) -> None:
    refuse_overlap(folder.resolve(), corpus.resolve())
    paths = sorted(relative_audio_paths(corpus))
    loose = [path for path in paths if by_speaker and "/" not in path]
    sources = list_sources(corpus.absolute(), sorted(set(paths) - set(loose)), folder.absolute() / "audio", by_speaker)
    if not sources:
        raise UserError(
            f"{corpus}: there is no recording ({', '.join(sorted(AUDIO_SUFFIXES))}) "
            f"{'in folders named after speakers' if by_speaker else 'below it'}"
        )
    checks = Checks(min_seconds=options.min_seconds, silence_peak=options.silence_peak)
    new = not (folder / "cuts.jsonl.gz").exists()
    try:
        print(
            prepare_set(
                folder,
                sources,
                checks,
                options.nj,
                total=len(sources),
                left_out=[(str(corpus / path), "not in a speaker's folder") for path in loose],
            )
        )
        if by_speaker:
            print(write_all_pairs(folder, np.random.default_rng(options.seed)))
    except UserError:
        if new:
            remove_set(folder)
        raise


def list_sources(corpus: Path, paths: list[str], audio: Path, by_speaker: bool) -> list[Source]:
    """The recordings at the sorted `paths` below `corpus`, in the order of their ids.

    by_speaker  the first folder of a path is the speaker
    """
    sources = []
    for name, path in zip(unique_ids(paths), paths, strict=True):
        # The suffix stays in the name, since a.mp3 and a.wav in one folder are two recordings.
        target = str(audio / f"{path}.flac")
        speaker = path.partition("/")[0] if by_speaker else None
        sources.append(Source(name, str(corpus / path), target, speaker))
    return sorted(sources)


def write_all_pairs(folder: Path, rng: np.random.Generator, limit: int = MAX_TRIALS) -> str:
    """Write trials/clean.txt of a set with speakers: every pair of utterances once, the smaller id first.

    When there are more than `limit` pairs: all targets (`limit` random ones if there are more), and random non-targets
    to fill up the limit, at least half of it. Returns a sentence with the counts.
    Raises UserError when there is no target or no non-target.
    """
    with open(folder / "speakers.tsv", encoding="utf-8") as lines:
        ids, speakers = zip(*(line.rstrip("\n").split("\t")[:2] for line in list(lines)[1:]), strict=True)
    targets, nontargets = choose_pairs(np.unique(speakers, return_inverse=True)[1], rng, limit)
    for kind, pairs in (("target", targets), ("nontarget", nontargets)):
        if not len(pairs):
            raise UserError(
                f"{folder}: no {kind} pair; give two or more speakers with two or more usable recordings each"
            )
    pairs = np.concatenate([targets, nontargets])
    is_target = np.arange(len(pairs)) < len(targets)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs, names = pairs[order], np.array(ids)
    path = folder / "trials" / "clean.txt"
    write_trials(path, names[pairs[:, 0]], names[pairs[:, 1]], is_target[order])
    return f"{path}: {len(pairs):,} trials, {len(targets):,} of them targets"


def choose_pairs(speakers: np.ndarray, rng: np.random.Generator, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Target and non-target pairs, each int64 [n, 2] with the smaller index first, as `write_all_pairs` describes.

    speakers  int [n], in any order
    Pairs are chosen by number and decoded, so only the chosen ones are held in memory.
    """
    by_speaker = np.argsort(speakers, kind="stable")
    position, count = np.arange(len(speakers)), np.bincount(speakers)
    # In this order, later utterances of the same speaker follow each position up to `end`, and other speakers after.
    end = np.cumsum(count)[speakers[by_speaker]]
    num_targets, num_nontargets = int((end - position - 1).sum()), int((len(speakers) - end).sum())
    if num_targets + num_nontargets > limit:
        wanted = min(num_targets, limit)
        target_numbers = _some(num_targets, wanted, rng)
        nontarget_numbers = _some(num_nontargets, min(num_nontargets, max(limit - wanted, limit // 2)), rng)
    else:
        target_numbers, nontarget_numbers = np.arange(num_targets), np.arange(num_nontargets)
    targets = _decode(target_numbers, position + 1, end)
    nontargets = _decode(nontarget_numbers, end, np.full_like(end, len(speakers)))
    return np.sort(by_speaker[targets], axis=1), np.sort(by_speaker[nontargets], axis=1)


def _decode(numbers: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Pairs by their numbers, [n, 2]: the partners [first, end) of position 0 count first, then those of 1, ..."""
    before = np.concatenate([[0], np.cumsum(end - first)])
    left = np.searchsorted(before, numbers, side="right") - 1
    return np.stack([left, first[left] + numbers - before[left]], axis=1)


def _some(population: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` distinct numbers below `population`, sorted, without holding the population."""
    if count == population:
        return np.arange(population)
    if 2 * count > population:
        return np.sort(rng.permutation(population)[:count])
    chosen = np.zeros(0, np.int64)
    while len(chosen) < count:
        chosen = np.unique(np.concatenate([chosen, rng.integers(population, size=2 * (count - len(chosen)))]))
    return np.sort(rng.permutation(chosen)[:count])


if __name__ == "__main__":
    run(main, Options)
