"""Which pseudo-labels to believe: those with a small loss, as a network learns right labels before wrong ones.

fixed    labels whose cross-entropy is at most a given number (loss-gated learning: Tao et al. 2022, ICASSP,
         arXiv 2110.03869)
dynamic  the number is found anew after every pass over the data: a mixture of two Gaussians is fitted to the
         logarithms of its losses (dynamic loss gate and label correction: Han et al. 2022, Interspeech,
         arXiv 2208.01928)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor, nn

from cslib.config import UserError
from cslib.objectives.base import Task, gather

OPEN = 1000.0  # a gate that rejects nothing, as no loss is so large; finite, so that it can be logged
FEWEST = 30  # losses that a mixture is fitted to
MOST = 100_000  # more of them would not move the gate
LEAST_RIGHT = 0.1  # weight of the lower mode: a few oddly easy utterances are not "the right labels"
SMALLEST = 1e-30  # loss, before its logarithm is taken


@dataclass
class GateConfig:
    gate: str = "none"  # none: believe all labels; fixed: those of small loss; dynamic: those of the smaller mode
    gate_loss: float = 3.0  # for fixed: cross-entropy in nats, margin included; 1 for poor labels to 6 for good ones
    gate_start: float = 0.3  # share of the training before it, not less than margin_warmup: losses have to settle
    gate_valley: float = 0.55  # for dynamic: all labels are believed unless the mixture falls, between its modes, below
    # this share of the lower peak; 1 = any two modes will do, as published
    correction: bool = False  # learn rejected utterances from the network's own view of them, where it has one
    correction_start: float = 0.5  # share of the training before it
    correction_confidence: float = 0.5  # probability that the network must give to one class
    correction_temperature: float = 0.1  # of its probabilities, before they serve as labels; 1 = as they are

    def __post_init__(self) -> None:
        if self.gate not in ("none", "fixed", "dynamic"):
            raise UserError(f"objective.gate is none, fixed or dynamic, not {self.gate!r}")
        if self.correction and self.gate == "none":
            raise UserError("objective.correction is for labels that a gate rejects; set objective.gate")
        if not 0 < self.gate_valley <= 1:
            raise UserError("objective.gate_valley is more than 0, and at most 1")
        if self.correction_temperature <= 0:
            raise UserError("objective.correction_temperature is more than 0")


class LabelGate(nn.Module):
    """The gate, and the last loss of every utterance, from which the dynamic one is found after each pass.

    labelled  utterances in a pass
    losses    float32 [utterances of the set], not a number until an utterance is met; only for the dynamic gate
    limit     float32, the largest loss of a label that is believed
    """

    def __init__(self, config: GateConfig, task: Task, labelled: int) -> None:
        super().__init__()
        self.config, self.steps = config, task.steps
        self.batch_size, self.labelled = task.batch_size, labelled
        count = len(task.utterances) if config.gate == "dynamic" else 0
        self.register_buffer("losses", torch.full((count,), torch.nan))
        self.register_buffer("limit", torch.tensor(config.gate_loss if config.gate == "fixed" else OPEN))

    def believed(self, losses: Tensor, step: int) -> Tensor:
        """bool [B]: the labels to train on, by their losses [B] in this step."""
        # Not `losses <= limit`: one that is no number has to reach the loop, which stops there.
        return ~(losses > self.limit) | (step < self.config.gate_start * self.steps)

    def corrects(self, step: int) -> bool:
        return self.config.correction and step >= self.config.correction_start * self.steps

    def own_labels(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The network's sharpened view of utterances [n, classes], and of which it is sure, bool [n].

        It is sure by its probabilities as they are: sharpened, those of cosines times 30 nearly always pass.
        """
        sure = logits.softmax(1).amax(1) > self.config.correction_confidence
        return (logits / self.config.correction_temperature).softmax(1), sure

    @torch.no_grad()
    def after_step(self, step: int, rows: Tensor, losses: Tensor) -> None:
        """Keep the losses [B] of utterances `rows` [B], of all processes; after a pass, move the gate."""
        if self.config.gate != "dynamic":
            return
        # Of two crops of one utterance the worse counts: a maximum does not depend on their order.
        self.losses.scatter_reduce_(0, gather(rows), gather(losses), "amax", include_self=False)
        if self._passes(step + 1) > self._passes(step):
            known = self.losses[self.losses.isfinite()].cpu().numpy()
            self.limit.fill_(find_gate(known[:: 1 + len(known) // MOST], self.config.gate_valley))

    def _passes(self, steps: int) -> int:
        return steps * self.batch_size // self.labelled


def find_gate(losses: np.ndarray, valley: float = GateConfig.gate_valley) -> float:
    """The loss at which a label is as likely right as wrong: there the weighted densities of two Gaussians,
    fitted to log losses [n], cross between their modes.

    OPEN where the losses are too few, or do not fall in two: a mixture of two fits a single mode as well, and
    its crossing then rejects good labels by the half. The logarithm skews losses: between the modes, those of a single
    Gaussian of logits fall to 0.6 of the lower peak by themselves, those of right and wrong labels to 0.1 to 0.5.
    """
    if len(losses) < FEWEST:
        return OPEN
    weights, means, deviations = two_gaussians(np.log(np.maximum(losses, SMALLEST, dtype=float)))
    between = np.linspace(*means, 1000)
    right, wrong = np.exp(_log_densities(between, weights, means, deviations))
    both = right + wrong
    crosses = right[0] > wrong[0] and right[-1] < wrong[-1]
    if not crosses or both.min() > valley * min(both[0], both[-1]) or weights[0] < LEAST_RIGHT:
        return OPEN
    return float(np.exp(between[np.argmax(right <= wrong)]))


def two_gaussians(values: np.ndarray, rounds: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and standard deviations [2] of the mixture that values [n] come from, lower mean first.

    Expectation maximisation, from the values below and above the middle of their range.
    """
    spread = 1e-3 * values.std() + 1e-12  # else one of the two could shrink to a single value
    upper = values > np.quantile(values, [0.01, 0.99]).mean()
    shares = np.stack([~upper, upper]).astype(float)  # [2, n]
    for _ in range(rounds):
        totals = shares.sum(1) + 1e-12
        means = shares @ values / totals
        variances = (shares * (values - means[:, None]) ** 2).sum(1) / totals
        fitted = totals / len(values), means, np.sqrt(variances) + spread
        shares = softmax(_log_densities(values, *fitted), axis=0)
    order = np.argsort(means)
    return tuple(part[order] for part in fitted)


def _log_densities(values: np.ndarray, weights: np.ndarray, means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """log(weight * density) [2, n] of both Gaussians at values [n]."""
    weights, means, deviations = weights[:, None], means[:, None], deviations[:, None]
    distances = (values - means) / deviations
    return np.log(weights / deviations) - distances**2 / 2 - math.log(2 * math.pi) / 2
