"""Pull enhanced speech to the clean one, and push it from noisy and from worse enhanced speech, in a feature space.

    L = sum over groups g of  omega_g d_g(enhanced, clean) / (sum over negatives n of w_n d_g(enhanced, n) + epsilon)

d_g is the mean absolute difference of the features of group g over a batch. The ratio is that of AECR-Net (Wu et al.
2021, arXiv 2104.09367), the weights w that follow a curriculum are C2PNet's (Zheng et al. 2023, arXiv 2303.14218), and
speech representations as the space are Xu et al.'s (ICASSP 2024), of whose equations this is a reconstruction.
Shapes: B items, T samples, G groups, K negatives besides the noisy speech, which is the first of 1 + K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cslib.config import UserError
from cslib.feature_spaces.base import FeatureSpace, FeatureSpaceConfig, distances
from cslib.objectives.base import gather

FOLLOWED = 10  # measurements that the strength of cr_matched is a mean of
EPSILON = 1e-7  # of the denominator: finite where enhanced speech is still the noisy one

# What divides the distance to the clean speech, in words, and whether that needs negatives beside the noisy speech.
MODES = {
    "none": False,  # nothing is added
    "positive": False,  # one: a perceptual loss
    "cr": False,  # the distance to the noisy speech
    "ccr": True,  # the distances to the noisy speech and to all negatives, weighted by the curriculum
    "hard_only": True,  # the same without the noisy speech
    "literal": False,  # the distance between clean and noisy speech: no push, as the released CRC-Net computes
    "cr_matched": True,
}  # as cr, scaled to the gradient that ccr would have


@dataclass
class RegulariserConfig:
    mode: str = "ccr"  # none | positive | cr | ccr, or a control: hard_only | literal | cr_matched
    weight: float = 0.1  # lambda; on mini 0.1 makes the term of cr a fiftieth of the native loss in the end
    # Learning starts at the noisy speech. As long as it is near that, being pushed from it outweighs all else by far.
    delay_steps: int = 500  # for so long the weight is 0
    warmup_steps: int = 500  # over which it then rises
    gamma: float = 0.25  # a negative weighs 1 - gamma until it is beaten, 1 + gamma then; 0 = fixed weights
    group_weights: list[float] = field(default_factory=list)  # omega, one for each group; none: the space's
    measure_every: int = 50  # steps; how often the gradients of both losses are compared, a backward pass more
    feature_space: FeatureSpaceConfig = field(default_factory=FeatureSpaceConfig)  # what features are compared

    def __post_init__(self) -> None:
        demands = [
            (self.mode in MODES, "mode", f"one of {', '.join(MODES)}"),
            (0 < self.weight < math.inf or self.mode == "none", "weight", "more than 0, or mode: none"),
            (self.delay_steps >= 0, "delay_steps", "0 or more"),
            (self.warmup_steps >= 0, "warmup_steps", "0 or more"),
            (0 <= self.gamma < 1, "gamma", "0 or more and less than 1"),
            (
                all(0 <= weight < math.inf for weight in self.group_weights)
                and (not self.group_weights or any(self.group_weights)),
                "group_weights",
                "numbers of 0 or more, one of them more",
            ),
            (self.measure_every >= 1, "measure_every", "1 or more"),
        ]
        for met, name, wanted in demands:
            if not met:
                raise UserError(f"objective.regulariser.{name}: {getattr(self, name)} will not do; give {wanted}")

    @property
    def unused(self) -> list[str]:
        """Options without effect: trainings that differ in nothing else are the same."""
        return [option.name for option in fields(self) if option.name != "mode"] if self.mode == "none" else []

    @property
    def needs_negatives(self) -> bool:
        return MODES[self.mode]


def curriculum_weights(beaten: Tensor, gamma: float, with_noisy: bool = True) -> Tensor:
    """Weights [1 + K] of the noisy speech and of the negatives, of sum 1 (C2PNet; the noisy speech weighs K).

    beaten      bool [K], which negatives the network has left behind. None at all: the noisy speech has all weight
    with_noisy  whether the noisy speech counts
    """
    hard = torch.where(beaten, 1 + gamma, 1 - gamma)
    easy = hard.new_full((1,), float(with_noisy) * len(hard) if len(hard) else 1.0)
    raw = torch.cat([easy, hard])
    return raw / raw.sum()


class Curriculum(nn.Module):
    """Which negatives the network has left behind, by the best quality that it has shown so far.

    A negative that is beaten stays so. Until `qualities` are known, and before the first `update`, none is.
    """

    def __init__(self, negatives: int) -> None:
        super().__init__()
        self.register_buffer("qualities", torch.full((negatives,), math.inf))
        self.register_buffer("best", torch.tensor(-math.inf))

    @property
    def beaten(self) -> Tensor:
        """bool [K]"""
        return self.best > self.qualities

    def update(self, quality: float | Tensor) -> None:
        """The quality of the network as it is now, on the scale of `qualities`: higher is better."""
        self.best.copy_(torch.maximum(self.best, torch.as_tensor(quality).to(self.best)))


class Distances(NamedTuple):
    """Means over the batch in each group: of the enhanced speech to the clean one [G] and to the negatives [N, G]."""

    positive: Tensor
    negative: Tensor


class ContrastiveRegulariser(nn.Module):
    """The regulariser in any of its modes, with its curriculum."""

    def __init__(self, config: RegulariserConfig, feature_space: FeatureSpace, negatives: int) -> None:
        super().__init__()
        self.config, self.feature_space, self.curriculum = config, feature_space, Curriculum(negatives)
        if config.group_weights and len(config.group_weights) != feature_space.groups:
            raise UserError(
                f"objective.regulariser.group_weights: there are {len(config.group_weights)}, and the "
                f"space has {feature_space.groups} groups; give one for each"
            )
        omega = config.group_weights or feature_space.group_weights
        self.register_buffer("group_weights", torch.tensor(omega), persistent=False)
        self.register_buffer("factor", torch.tensor(0.0))  # of cr_matched; 0 until it has been measured
        self.register_buffer("followed", torch.tensor(0))  # measurements that it is a mean of

    def weights(self) -> Tensor:
        """Of the noisy speech and of the negatives in the denominator, [1 + K]."""
        if self.config.needs_negatives:
            return curriculum_weights(self.curriculum.beaten, self.config.gamma, self.config.mode != "hard_only")
        return torch.eye(1, 1 + len(self.curriculum.qualities), device=self.group_weights.device)[0]

    def hears_negatives(self, measure: bool) -> bool:
        """Whether a step makes use of the negatives beside the noisy speech."""
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

        measure  of cr_matched: compare the gradients anew, for the factor of this step and of those after it
        warming  whether lambda is still rising: near the noisy speech gradients are of another size, and none of that
                 is kept
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
        """Distances of the enhanced speech, through which gradients go, to the clean one and to others, all [B, T]."""
        ours = self.feature_space.features(enhanced)
        with torch.no_grad():
            theirs = [self.feature_space.features(audio) for audio in (clean, *others)]
        means = over_processes(torch.stack([distances(ours, features).mean(0) for features in theirs]))
        return Distances(means[0], means[1:])

    def ratio(self, positive: Tensor, denominator: Tensor) -> Tensor:
        """Weighted sum over the groups of batch means [G] divided by batch means [G]."""
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
        """Follow the ratio of the gradient norms of both losses, which differs a lot between batches: a geometric mean
        over about ten measurements, which begins anew while lambda rises.
        """
        ratio = gradient_norm(curricular, enhanced) / gradient_norm(plain, enhanced).clamp(min=1e-20)
        self.followed.copy_(torch.zeros_like(self.followed) if warming else (self.followed + 1).clamp(max=FOLLOWED))
        share = 1 / max(1, int(self.followed))
        self.factor.copy_(ratio if share == 1 else self.factor ** (1 - share) * ratio**share)

    @torch.no_grad()
    def _diagnostics(self, found: Distances, denominator: Tensor) -> dict[str, Tensor]:
        """Distances and ratio in every group, and what the curriculum makes of the negatives."""
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
    """Length of the gradient of a loss with respect to the enhanced speech [B, T] of all processes together."""
    norms = gather(torch.autograd.grad(loss, enhanced, retain_graph=True)[0].norm()[None])
    return norms.norm() / len(norms)  # each process's loss is the mean over its own share


def over_processes(means: Tensor) -> Tensor:
    """The mean over processes of `means`, with a gradient that stays right, averaged over them, through a ratio."""
    return means + (gather(means[None]).mean(0) - means).detach()
