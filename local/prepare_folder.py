"""Make data/<corpus>/{train,test} from folders of recordings: any tree to learn from, one folder a speaker
to test on.

    python local/prepare_folder.py --train-dir speech/unlabelled --test-dir speech/test --data data/folder

wav, flac, ogg and mp3 (and, through ffmpeg, m4a) of any sampling rate and number of channels are taken. What
is not 16 kHz mono wav or flac is converted once, into data/<corpus>/<set>/audio/; the source stays.
Recordings that are unreadable, empty, silent or too short are left out and listed in rejected.tsv; more than
5 % unreadable is an error. No label is read from the training folder. The test folder gives speakers.tsv, and
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
    train_dir: Path | None = None  # recordings to learn from, in any tree; nothing but the sound is used
    test_dir: Path | None = None  # one folder per speaker, recordings anywhere below it
    data: Path = Path("data/folder")  # makes train/ and test/ in it
    nj: int = os.cpu_count() or 1  # processes
    seed: int = 1  # of the choice among more than 500,000 trials
    min_seconds: float = 1.0  # shorter recordings are left out
    silence_peak: float = 0.001  # left out when no sample is further from zero (full scale is 1)


def main(options: Options) -> None:
    if options.train_dir is None and options.test_dir is None:
        raise UserError("give --train-dir (to learn from), --test-dir (one folder per speaker), or both")
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
    """The recordings `paths` below `corpus` (sorted), in the order of their ids.

    With `by_speaker` the first folder is the speaker.
    """
    sources = []
    for name, path in zip(unique_ids(paths), paths, strict=True):
        # Named by the whole file name: a.mp3 and a.wav in one folder are two recordings.
        target = str(audio / f"{path}.flac")
        speaker = path.partition("/")[0] if by_speaker else None
        sources.append(Source(name, str(corpus / path), target, speaker))
    return sorted(sources)


def write_all_pairs(folder: Path, rng: np.random.Generator, limit: int = MAX_TRIALS) -> str:
    """Write trials/clean.txt of a set with speakers: every pair of two utterances once, the earlier id first.

    Above `limit` pairs, all targets (a random `limit` of them if even they are more) and random nontargets to
    fill up the limit, at least half of it. Returns a sentence with the counts.
    Raises UserError when there is no target or no nontarget.
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
    """Target and nontarget pairs, each int64 [n, 2] with the smaller index first: all, or a choice as above.

    speakers  int [n], any order
    Pairs are numbered and decoded from their numbers, so that only those that are wanted ever exist.
    """
    by_speaker = np.argsort(speakers, kind="stable")
    position, count = np.arange(len(speakers)), np.bincount(speakers)
    # In this order, the same speaker's later utterances follow each position up to `end`; then come others.
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
    """Pair number k, counting the partners [first, end) of position 0, then of position 1, ...: [n, 2]."""
    before = np.concatenate([[0], np.cumsum(end - first)])
    left = np.searchsorted(before, numbers, side="right") - 1
    return np.stack([left, first[left] + numbers - before[left]], axis=1)


def _some(population: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` different numbers below `population`, sorted, without making the population."""
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
