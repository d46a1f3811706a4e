"""Trials of a set with speakers: all pairs of utterances, or a random choice of them if there are too many."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cslib.config import UserError
from cslib.data.trials import write_trials

MAX_TRIALS = 500_000


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
