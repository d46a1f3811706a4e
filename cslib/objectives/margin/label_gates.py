"""Which pseudo-labels to trust: those with a small loss, as a network learns right labels before wrong ones.

fixed    labels whose cross-entropy is at most a given value (loss-gated learning: Tao et al. 2022, ICASSP,
         arXiv 2110.03869)
dynamic  the value is found after every pass over the data, from a mixture of two Gaussians fitted to the logarithms of
         its losses (dynamic loss gate and label correction, DLG-LC: Han et al. 2022, Interspeech, arXiv 2208.01928)

Difference from DLG-LC: the gate rejects nothing unless the losses have two modes (gate_valley); `gate_valley: 1.0` is
the published rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor, nn

from cslib.config import UserError, require
from cslib.objectives.base import Task, gather

OPEN = 1000.0  # a gate that rejects nothing, as no loss is this large; finite, so that it can be logged
MIN_LOSSES = 30  # that a mixture is fitted to
MAX_LOSSES = 100_000  # more would not move the gate
MIN_RIGHT = 0.1  # weight of the lower mode: a few unusually easy utterances are not "the right labels"
MIN_LOSS = 1e-30  # before the logarithm


@dataclass
class GateConfig:
    gate: str = "none"  # none: trust all labels | fixed: those of small loss | dynamic: those of the lower mode
    gate_loss: float = 3.0  # for fixed: cross-entropy in nats, margin included; 1 for poor labels to 6 for good ones
    gate_start: float = 0.3  # share of the training before the gate; at least margin_warmup, so that losses settle
    # For dynamic: reject labels only if the density between the modes is below this share of the lower peak; 1 = always
    gate_valley: float = 0.55
    correction: bool = False  # train rejected utterances on the network's own prediction, if it is sure of one
    correction_start: float = 0.5  # share of the training before the correction
    correction_confidence: float = 0.5  # least probability of the predicted class
    correction_temperature: float = 0.1  # of the predicted probabilities that serve as labels; 1 = unchanged

    def __post_init__(self) -> None:
        require(self.gate in ("none", "fixed", "dynamic"), "objective.gate", self.gate, "none, fixed or dynamic")
        if self.correction and self.gate == "none":
            raise UserError("objective.correction is for labels that a gate rejects; set objective.gate")
        require(0 < self.gate_valley <= 1, "objective.gate_valley", self.gate_valley, "more than 0 and at most 1")
        temperature = self.correction_temperature
        require(temperature > 0, "objective.correction_temperature", temperature, "more than 0")


class LabelGate(nn.Module):
    """The gate and, for the dynamic one, the last loss of every utterance, from which it is found after each pass.

    labelled  number of utterances in a pass
    losses    float32 [utterances of the set], NaN until an utterance is met; empty unless the gate is dynamic
    limit     float32 scalar, the largest loss of a label that is trusted
    """

    losses: Tensor
    limit: Tensor

    def __init__(self, config: GateConfig, task: Task, labelled: int) -> None:
        super().__init__()
        self.config, self.steps = config, task.steps
        self.batch_size, self.labelled = task.batch_size, labelled
        count = len(task.utterances) if config.gate == "dynamic" else 0
        self.register_buffer("losses", torch.full((count,), torch.nan))
        self.register_buffer("limit", torch.tensor(config.gate_loss if config.gate == "fixed" else OPEN))

    def trusted(self, losses: Tensor, step: int) -> Tensor:
        """bool [B]: the labels to train on, by their losses [B] in this step."""
        # Not `losses <= limit`: a NaN has to reach the training loop, which stops at it.
        return ~(losses > self.limit) | (step < self.config.gate_start * self.steps)

    def corrects(self, step: int) -> bool:
        return self.config.correction and step >= self.config.correction_start * self.steps

    def own_labels(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The network's sharpened predictions [n, classes], and of which it is sure, bool [n].

        It is sure by its unsharpened probabilities: sharpened, those of cosines times 30 nearly always pass.
        """
        sure = logits.softmax(1).amax(1) > self.config.correction_confidence
        return (logits / self.config.correction_temperature).softmax(1), sure

    @torch.no_grad()
    def after_step(self, step: int, rows: Tensor, losses: Tensor) -> None:
        """Store the losses [B] of utterances `rows` [B], of all processes; after a pass, move the gate."""
        if self.config.gate != "dynamic":
            return
        # Of two crops of one utterance the larger loss counts: a maximum does not depend on their order.
        self.losses.scatter_reduce_(0, gather(rows), gather(losses), "amax", include_self=False)
        if self._passes(step + 1) > self._passes(step):
            known = self.losses[self.losses.isfinite()].cpu().numpy()
            self.limit.fill_(find_gate(known[:: 1 + len(known) // MAX_LOSSES], self.config.gate_valley))

    def _passes(self, steps: int) -> int:
        return steps * self.batch_size // self.labelled


def find_gate(losses: np.ndarray, valley: float = GateConfig.gate_valley) -> float:
    """The loss (nats) at which a label is as likely right as wrong, by two Gaussians fitted to the log losses [n].

    That is where their weighted densities cross between the modes. Returns OPEN for too few losses, and where the
    density between the modes stays above `valley` times the lower peak: two Gaussians also fit a single mode, and their
    crossing then rejects half of the good labels. Losses of a single Gaussian of logits dip to 0.6 of the lower peak,
    because the logarithm skews them; those of right and wrong labels dip to 0.1 to 0.5.
    """
    if len(losses) < MIN_LOSSES:
        return OPEN
    mixture = two_gaussians(np.log(np.maximum(losses, MIN_LOSS, dtype=float)))
    between = np.linspace(mixture.means[0], mixture.means[1], 1000)
    right, wrong = np.exp(_log_densities(between, mixture))
    both = right + wrong
    crosses = right[0] > wrong[0] and right[-1] < wrong[-1]
    if not crosses or both.min() > valley * min(both[0], both[-1]) or mixture.weights[0] < MIN_RIGHT:
        return OPEN
    return float(np.exp(between[np.argmax(right <= wrong)]))


class Mixture(NamedTuple):
    """Two Gaussians, the one of lower mean first: float64 [2] each."""

    weights: np.ndarray
    means: np.ndarray
    deviations: np.ndarray


def two_gaussians(values: np.ndarray, rounds: int = 200) -> Mixture:
    """Fit a mixture of two Gaussians to values [n] by expectation maximisation.

    It starts from the values below and above the middle of their range.
    """
    least = 1e-3 * values.std() + 1e-12  # without it, one of the two could shrink to a single value
    upper = values > np.quantile(values, [0.01, 0.99]).mean()
    shares = np.stack([~upper, upper]).astype(float)  # [2, n]
    for _ in range(rounds):
        totals = shares.sum(1) + 1e-12
        means = shares @ values / totals
        variances = (shares * (values - means[:, None]) ** 2).sum(1) / totals
        fitted = Mixture(totals / len(values), means, np.sqrt(variances) + least)
        shares = softmax(_log_densities(values, fitted), axis=0)
    order = np.argsort(means)
    return Mixture(*(part[order] for part in fitted))


def _log_densities(values: np.ndarray, mixture: Mixture) -> np.ndarray:
    """log(weight * density) [2, n] of both Gaussians at values [n]."""
    weights, means, deviations = (part[:, None] for part in mixture)
    distances = (values - means) / deviations
    return np.log(weights / deviations) - distances**2 / 2 - math.log(2 * math.pi) / 2
