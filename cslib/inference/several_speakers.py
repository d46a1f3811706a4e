"""Which recordings of a set look as if several people speak? No label and no trained network is used.

The floor (whitened mean and deviation of log-mel frames) is computed of stretches of up to 4 s of speech, and the
stretches of a recording are split into the two groups that differ most. The score of the recording is

    (cosine of neighbouring stretches - cosine across the two groups)
    / (cosine of neighbouring stretches - cosine of stretches of different recordings)

The first and the last cosine are means over the set. So 0 means that the groups are as alike as neighbouring stretches,
and 1 that they are as unlike as different recordings. What changes within a recording besides the speaker (the
microphone, the room, music, shouting) raises the score too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from cslib.data.utterances import Utterances
from cslib.files import progress
from cslib.inference.floor import LogMelStatistics, whitening_matrix
from cslib.inference.stretches import StretchConfig, speech_of, stretches
from cslib.models.layers.features import FRAME_SHIFT
from cslib.parallel import in_order

STRETCHES = StretchConfig(pause=0.2, shortest=1.0, longest=4.0)
SUSPICIOUS = 0.7  # score from which a recording looks as if several people speak
FEWEST = 4  # stretches that a recording needs to be judged
MOST = 40  # stretches of a recording that are compared
FEWEST_RECORDINGS = 10  # with a stretch, in the set; the two means are meaningless with fewer
NUM_MELS = 80


@dataclass(frozen=True)
class Judgement:
    """Score and number of stretches of each recording that could be judged, and why others could not.

    scores     {id: score}, in the order of the set
    too_short  number of recordings with fewer than four stretches of speech, or all if none can be judged
    """

    scores: dict[str, float]
    too_short: int

    @property
    def suspicious(self) -> list[str]:
        """Ids of the recordings that look as if several people speak, the clearest first."""
        found = [name for name, score in self.scores.items() if score >= SUSPICIOUS]
        return sorted(found, key=lambda name: -self.scores[name])


def judge(utterances: Utterances, nj: int) -> Judgement:
    """Score every recording that has enough speech. With fewer than ten recordings with speech none is judged.

    nj  number of processes
    """
    rows = range(len(utterances))
    results = in_order(partial(_statistics, utterances), rows, nj)
    found = list(progress(results, "looking for several speakers", total=len(rows)))
    scores = score([values for _, values in found], [places for places, _ in found])
    judged = {utterances.id(row): value for row, value in zip(rows, scores, strict=True) if value is not None}
    return Judgement(judged, len(rows) - len(judged))


def score(statistics: list[np.ndarray], places: list[np.ndarray]) -> list[float | None]:
    """Score of each recording, None where it has fewer than four stretches.

    statistics  [stretches, D] of each recording, not whitened
    places      int [stretches], ascending: neighbours differ by 1
    """
    if sum(map(bool, map(len, places))) < FEWEST_RECORDINGS:
        return [None] * len(places)
    pooled = np.concatenate(statistics)
    mean, matrix = pooled.mean(0), whitening_matrix(np.cov(pooled.T))
    vectors = [_unit((values - mean) @ matrix) for values in statistics]
    neighbours = [
        (of[1:] * of[:-1]).sum(1)[np.diff(at) == 1] for of, at in zip(vectors, places, strict=True) if len(at) > 1
    ]
    near, different = np.concatenate([*neighbours, np.zeros(0)]), between_recordings(vectors)
    if not len(near) or near.mean() <= different:
        return [None] * len(places)
    scale = near.mean() - different
    return [float((near.mean() - across_two_groups(of)) / scale) if len(of) >= FEWEST else None for of in vectors]


def between_recordings(vectors: list[np.ndarray]) -> float:
    """Mean cosine of two stretches of different recordings; vectors [stretches, D] of length 1."""
    sums, counts = np.stack([of.sum(0) for of in vectors]), np.array([len(of) for of in vectors])
    pairs = counts.sum() ** 2 - (counts**2).sum()
    return float(((sums.sum(0) ** 2).sum() - (sums**2).sum()) / max(pairs, 1))


def across_two_groups(vectors: np.ndarray) -> float:
    """Mean cosine across the two groups that differ most; vectors [stretches, D] of length 1.

    The groups begin as the two sides of the first principal direction and are refined by spherical 2-means.
    """
    centred = vectors - vectors.mean(0)
    first = np.linalg.eigh(centred @ centred.T)[1][:, -1] > 0
    for _ in range(5):
        if first.all() or not first.any():
            return 1.0
        means = _unit(np.stack([vectors[first].mean(0), vectors[~first].mean(0)]))
        first = vectors @ means[0] > vectors @ means[1]
    if first.all() or not first.any():
        return 1.0
    return float(vectors[first].mean(0) @ vectors[~first].mean(0))


@torch.inference_mode()
def _statistics(utterances: Utterances, row: int) -> tuple[np.ndarray, np.ndarray]:
    """(places int [k], values float [k, 2 NUM_MELS]) of up to 40 stretches of a recording, in neighbouring pairs."""
    read = partial(utterances.read, row)
    speech = speech_of(read, int(utterances.num_samples[row]))
    found = stretches(speech, STRETCHES)[0]
    places = np.arange(len(found))
    if len(found) > MOST:
        places = np.unique(np.linspace(0, len(found) - 2, MOST // 2).astype(int)[:, None] + [0, 1])
    network, values = LogMelStatistics(NUM_MELS), np.zeros((len(places), 2 * NUM_MELS))
    for number, (first, last) in enumerate(found[place] for place in places):
        end = min(last * FRAME_SHIFT, int(utterances.num_samples[row]))
        samples = read(first * FRAME_SHIFT, end - first * FRAME_SHIFT)
        audio, lengths = torch.from_numpy(samples)[None] / 32768, torch.tensor([len(samples)])
        values[number] = network(audio, lengths, torch.from_numpy(speech[first:last])[None])[0].numpy()
    return places, values


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
