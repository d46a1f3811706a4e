"""Contrastive regulariser: pull enhanced speech to clean speech, push it from noisy and from worse enhanced speech.

    L = sum over groups g of  omega_g d_g(enhanced, clean) / (sum over negatives n of w_n d_g(enhanced, n) + epsilon)

d_g is the mean absolute difference of the features of group g over a batch. The ratio is that of AECR-Net (Wu et al.
2021, arXiv 2104.09367), the weights w that follow a curriculum are those of C2PNet (Zheng et al. 2023, arXiv
2303.14218), and features of a speech network are Xu et al.'s (ICASSP 2024), whose equations were not available: this is
a reconstruction. Shapes: B items, T samples, G groups, K negatives besides the noisy speech, the first of 1 + K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cslib.config import UserError, require
from cslib.feature_spaces.base import FeatureSpace, FeatureSpaceConfig, distances
from cslib.objectives.base import gather

AVERAGED = 10  # measurements that the factor of cr_matched is averaged over
EPSILON = 1e-7  # of the denominator: finite where enhanced speech still equals the noisy speech

# Mode -> whether it needs negatives besides the noisy speech. Comments say what divides the distance to clean speech.
MODES = {
    "none": False,  # no regulariser
    "positive": False,  # by one: a perceptual loss
    "cr": False,  # by the distance to the noisy speech
    "ccr": True,  # by the distances to the noisy speech and to all negatives, weighted by the curriculum
    "hard_only": True,  # as ccr, without the noisy speech
    "literal": False,  # by the distance between clean and noisy speech: no push, as the released CRC-Net computes
    "cr_matched": True,  # as cr, scaled to the gradient norm that ccr would have
}


@dataclass
class RegulariserConfig:
    mode: str = "ccr"  # none | positive | cr | ccr, or a control: hard_only | literal | cr_matched
    weight: float = 0.1  # lambda; 0.1 makes the term of cr a fiftieth of the native loss in the end
    # An untrained network returns the noisy speech, and near it the push from it outweighs everything else by far.
    delay_steps: int = 500  # steps with weight 0
    warmup_steps: int = 500  # steps over which the weight then rises
    gamma: float = 0.25  # a negative weighs 1 - gamma until the network beats it, 1 + gamma then; 0 = fixed weights
    group_weights: list[float] = field(default_factory=list)  # omega, one per group; none: those of the feature space
    measure_every: int = 50  # steps between comparisons of the gradients of both losses; costs a backward pass each
    feature_space: FeatureSpaceConfig = field(default_factory=FeatureSpaceConfig)  # which features are compared

    def __post_init__(self) -> None:
        demands = [
            (self.mode in MODES, "mode", f"one of {', '.join(MODES)}"),
            (0 < self.weight < math.inf or self.mode == "none", "weight", "more than 0; or give mode: none"),
            (self.delay_steps >= 0, "delay_steps", "at least 0"),
            (self.warmup_steps >= 0, "warmup_steps", "at least 0"),
            (0 <= self.gamma < 1, "gamma", "at least 0 and less than 1"),
            (
                all(0 <= weight < math.inf for weight in self.group_weights)
                and (not self.group_weights or any(self.group_weights)),
                "group_weights",
                "at least 0 each, and not all 0",
            ),
            (self.measure_every >= 1, "measure_every", "at least 1"),
        ]
        for good, name, wanted in demands:
            require(good, f"objective.regulariser.{name}", getattr(self, name), wanted)

    @property
    def unused(self) -> list[str]:
        """Names of options without effect; trainings that differ only in these are the same."""
        return [option.name for option in fields(self) if option.name != "mode"] if self.mode == "none" else []

    @property
    def needs_negatives(self) -> bool:
        return MODES[self.mode]


def curriculum_weights(beaten: Tensor, gamma: float, with_noisy: bool = True) -> Tensor:
    """Weights [1 + K] of the noisy speech and of the negatives, of sum 1 (C2PNet; the noisy speech has weight K).

    beaten      bool [K], which negatives the network is better than; with K = 0, the noisy speech has all the weight
    with_noisy  whether the noisy speech counts
    """
    hard = torch.where(beaten, 1 + gamma, 1 - gamma)
    easy = hard.new_full((1,), float(with_noisy) * len(hard) if len(hard) else 1.0)
    raw = torch.cat([easy, hard])
    return raw / raw.sum()


class Curriculum(nn.Module):
    """Which negatives the network beats, by the best quality that it has reached so far.

    A negative that is beaten stays beaten. None is until `qualities` are known, and before the first `update`.

    qualities  float32 [K], of the negatives
    best       float32 scalar, of the network
    """

    qualities: Tensor
    best: Tensor

    def __init__(self, negatives: int) -> None:
        super().__init__()
        self.register_buffer("qualities", torch.full((negatives,), math.inf))
        self.register_buffer("best", torch.tensor(-math.inf))

    @property
    def beaten(self) -> Tensor:
        """bool [K]"""
        return self.best > self.qualities

    def update(self, quality: float | Tensor) -> None:
        """Report the present quality of the network, on the scale of `qualities`; higher is better."""
        self.best.copy_(torch.maximum(self.best, torch.as_tensor(quality).to(self.best)))


class Distances(NamedTuple):
    """Mean distances over the batch, per group: from enhanced to clean speech [G], and to N negatives [N, G]."""

    positive: Tensor
    negative: Tensor


class ContrastiveRegulariser(nn.Module):
    """The regulariser in any of its modes, with its curriculum.

    Raises UserError when the number of group weights is not that of groups.
    """

    group_weights: Tensor  # [G]
    factor: Tensor  # scalar, of cr_matched; 0 until it has been measured
    averaged: Tensor  # scalar, measurements that it is averaged over

    def __init__(self, config: RegulariserConfig, feature_space: FeatureSpace, negatives: int) -> None:
        super().__init__()
        self.config, self.feature_space, self.curriculum = config, feature_space, Curriculum(negatives)
        if config.group_weights and len(config.group_weights) != feature_space.groups:
            raise UserError(
                f"objective.regulariser.group_weights: {len(config.group_weights)} values, but the feature space has "
                f"{feature_space.groups} groups; give one for each"
            )
        omega = config.group_weights or feature_space.group_weights
        self.register_buffer("group_weights", torch.tensor(omega), persistent=False)
        self.register_buffer("factor", torch.tensor(0.0))
        self.register_buffer("averaged", torch.tensor(0))

    def weights(self) -> Tensor:
        """Weights of the noisy speech and of the negatives in the denominator, [1 + K]."""
        if self.config.needs_negatives:
            return curriculum_weights(self.curriculum.beaten, self.config.gamma, self.config.mode != "hard_only")
        return torch.eye(1, 1 + len(self.curriculum.qualities), device=self.group_weights.device)[0]

    def hears_negatives(self, measure: bool) -> bool:
        """Whether a step uses the negatives besides the noisy speech."""
        return self.config.needs_negatives and (measure or self.config.mode != "cr_matched")

    def forward(
        self,
        enhanced: Tensor,
        clean: Tensor,
        noisy: Tensor,
        negatives: Sequence[Tensor] = (),
        measure: bool = False,
        warming: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """All [B, T], K negatives -> the loss, without its weight lambda, and diagnostics.

        measure  for cr_matched: compare the gradients, which updates the factor of this and the following steps
        warming  whether lambda is still rising; gradients near the noisy speech are of another size, so the average of
                 the factor starts afterwards
        """
        mode = self.config.mode
        others = negatives if self.hears_negatives(measure) else ()
        with torch.autocast(enhanced.device.type, enabled=False):
            found = self.compare(enhanced, clean, (noisy, *others))
            denominator = self._denominator(found, clean, noisy)
            loss = self.ratio(found.positive, denominator)
            if mode == "cr_matched":
                if measure:
                    self._match(loss, self.ratio(found.positive, self.weights() @ found.negative), enhanced, warming)
                loss = loss * self.factor
        return loss, self._diagnostics(found, denominator)

    def compare(self, enhanced: Tensor, clean: Tensor, others: tuple[Tensor, ...]) -> Distances:
        """Distances from the enhanced speech, with gradient, to the clean speech and to others, all [B, T]."""
        ours = self.feature_space.features(enhanced)
        with torch.no_grad():
            theirs = [self.feature_space.features(audio) for audio in (clean, *others)]
        means = over_processes(torch.stack([distances(ours, features).mean(0) for features in theirs]))
        return Distances(means[0], means[1:])

    def ratio(self, positive: Tensor, denominator: Tensor) -> Tensor:
        """Weighted sum over groups of positive [G] / (denominator [G] + epsilon), both means over the batch."""
        return (self.group_weights * positive / (denominator + EPSILON)).sum()

    def _denominator(self, found: Distances, clean: Tensor, noisy: Tensor) -> Tensor:
        """[G]"""
        if self.config.mode == "positive":
            return torch.ones_like(found.positive)
        if self.config.mode == "literal":
            with torch.no_grad():
                apart = distances(self.feature_space.features(clean), self.feature_space.features(noisy))
            return over_processes(apart.mean(0))
        if self.config.mode in ("cr", "cr_matched"):
            return found.negative[0]
        return self.weights() @ found.negative

    def _match(self, plain: Tensor, curricular: Tensor, enhanced: Tensor, warming: bool) -> None:
        """Average the ratio of the gradient norms of both losses, which varies a lot between batches.

        A geometric mean over about ten measurements, which starts again while lambda rises.
        """
        ratio = gradient_norm(curricular, enhanced) / gradient_norm(plain, enhanced).clamp(min=1e-20)
        self.averaged.copy_(torch.zeros_like(self.averaged) if warming else (self.averaged + 1).clamp(max=AVERAGED))
        share = 1 / max(1, int(self.averaged))
        self.factor.copy_(ratio if share == 1 else self.factor ** (1 - share) * ratio**share)

    @torch.no_grad()
    def _diagnostics(self, found: Distances, denominator: Tensor) -> dict[str, Tensor]:
        """Distances and ratio of every group, and the weights of the curriculum, detached."""
        diagnostics = {
            "d_positive": found.positive,
            "denominator": denominator,
            "ratio": found.positive / (denominator + EPSILON),
            "d_noisy": found.negative[0],
        }
        if self.config.mode in ("ccr", "hard_only"):
            diagnostics["d_hard"] = found.negative[1:].mean(0)
        flat = {
            f"{name}_{group + 1}": value for name, values in diagnostics.items() for group, value in enumerate(values)
        }
        if self.config.needs_negatives:
            names = ["weight_noisy", *(f"weight_{k + 1}" for k in range(len(self.curriculum.qualities)))]
            flat |= dict(zip(names, self.weights(), strict=True)) | {"beaten": self.curriculum.beaten.sum()}
        if self.config.mode == "cr_matched":
            flat["matching_factor"] = self.factor.clone()
        return flat


def gradient_norm(loss: Tensor, enhanced: Tensor) -> Tensor:
    """Norm of the gradient of a loss with respect to the enhanced speech [B, T] of all processes together."""
    norms = gather(torch.autograd.grad(loss, enhanced, retain_graph=True)[0].norm()[None])
    return norms.norm() / len(norms)  # each process's loss is a mean over its own share


def over_processes(means: Tensor) -> Tensor:
    """The mean of `means` over processes. Its gradient through a ratio, averaged over processes, is the global one."""
    return means + (gather(means[None]).mean(0) - means).detach()
