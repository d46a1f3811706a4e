"""Check, before a training and without labels, whether a feature space separates noisy from clean speech.

A group of features in which noisier speech is not further from clean speech cannot teach a network anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from cslib.data.manifests import SAMPLE_RATE
from cslib.data.pairs import PairedUtterances
from cslib.datasets.augmentation import to_float
from cslib.feature_spaces.base import FeatureSpace, distances
from cslib.models.layers.levels import at_level_of_first

MAX_CORRELATION, MIN_CLOSER = -0.3, 0.95  # of snr_correlation and closer in a usable group
MAX_SAMPLES = 10 * SAMPLE_RATE  # of a recording; of longer ones the beginning is used


class GroupCheck(NamedTuple):
    """Distances of one group of features over some recordings.

    distance         mean of d(noisy, clean)
    snr_correlation  rank correlation of d(noisy, clean) with the SNR: at most -0.3 in a usable group
    closer           [K] share of recordings in which d(negative, clean) < d(noisy, clean): should be at least 0.95
    gain_change      mean change of the noisy features when the amplitude is tripled, relative to their size
    """

    distance: float
    snr_correlation: float
    closer: list[float]
    gain_change: float


@torch.no_grad()
def check_feature_space(
    space: FeatureSpace, pairs: PairedUtterances, rows: Iterable[int], device: torch.device | str = "cpu"
) -> list[GroupCheck]:
    """Check each group on recordings `rows`; a hundred of different SNRs are enough."""
    found = [_measure(space, pairs, int(row), device) for row in rows]
    snr = np.array([ratio for ratio, _, _ in found])
    apart = np.stack([distance for _, distance, _ in found])  # [n, 1 + K, G] to the clean speech
    change = np.stack([relative for _, _, relative in found])  # [n, G]
    return [
        GroupCheck(
            float(apart[:, 0, group].mean()),
            float(spearmanr(snr, apart[:, 0, group]).statistic),
            (apart[:, 1:, group] < apart[:, :1, group]).mean(0).tolist(),
            float(change[:, group].mean()),
        )
        for group in range(space.groups)
    ]


def table(checks: list[GroupCheck]) -> str:
    """The checks as text, one line per group."""
    lines = ["group  d(noisy, clean)  rank correlation with SNR  negatives closer to clean  change under x3 gain"]
    for group, check in enumerate(checks, start=1):
        closer = " ".join(f"{share:.0%}" for share in check.closer) or "-"
        lines.append(
            f"{group:5d}  {check.distance:15.4g}  {check.snr_correlation:25.2f}  {closer:>25}  "
            f"{check.gain_change:20.1%}"
        )
    return "\n".join(lines)


def doubts(checks: list[GroupCheck]) -> list[str]:
    """Problems of the feature space and of the negatives, one sentence each."""
    if any(math.isnan(check.snr_correlation) for check in checks):
        return ["there are too few recordings, or all have the same SNR: the feature space cannot be checked"]
    found = [
        f"group {group} hardly separates noisier from less noisy speech (rank correlation "
        f"{check.snr_correlation:.2f}): give it weight 0 in objective.regulariser.group_weights"
        for group, check in enumerate(checks, start=1)
        if check.snr_correlation > MAX_CORRELATION
    ]
    for negative, shares in enumerate(zip(*(check.closer for check in checks), strict=True), start=1):
        if min(shares) < MIN_CLOSER:
            found.append(
                f"negative {negative} is closer to the clean speech than the noisy speech is in only "
                f"{min(shares):.0%} to {max(shares):.0%} of the recordings instead of {MIN_CLOSER:.0%}: train its "
                "network for longer"
            )
    return found


def _measure(
    space: FeatureSpace, pairs: PairedUtterances, row: int, device: torch.device | str
) -> tuple[float, np.ndarray, np.ndarray]:
    """SNR in dB, distances [1 + K, G] of noisy speech and negatives to the clean speech, change under gain [G]."""
    frames = min(int(pairs.num_samples[row]), MAX_SAMPLES)
    signals = at_level_of_first(to_float(torch.from_numpy(pairs.read(row, 0, frames)))[None])[0].to(device)
    noisy, clean, *negatives = (space.features(audio[None]) for audio in signals)
    louder = distances(space.features(3 * signals[:1]), noisy)[0]
    size = torch.stack([group.abs().mean() for group in noisy])
    apart = torch.cat([distances(others, clean) for others in (noisy, *negatives)])
    return _snr(signals), apart.cpu().numpy(), (louder / size).cpu().numpy()


def _snr(signals: Tensor) -> float:
    noise = (signals[0] - signals[1]).square().sum()
    return float(10 * torch.log10(signals[1].square().sum().clamp(min=1e-12) / noise.clamp(min=1e-12)))
