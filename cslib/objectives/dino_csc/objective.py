"""DINO with the idea of CSC on the same encoder: name both talkers of a mixture as the teacher names each by itself.

This combination is our own. It is not published anywhere, and nothing is known yet of what it is worth.

From contrastive separative coding (Wang et al. 2021, arXiv 2103.00816; csc.py) it has that what is to be found lies
under interfering speech: an encoder hears two talkers at once and gives an embedding of each, a permutation says which
is whose, and each is compared with all there is to compare with (here the K prototypes), nothing sampled. From DINO
(dino.py) it has the answers: those that the teacher gives to other crops of the two utterances, in which nobody
interferes. No waveform is separated. The first embedding is the plain one of the mixture; the second is pooled from
the same frames through a mask that knows the first. So the plain embedding is asked for one talker while another one
speaks, never for both, and it is the plain embedding that is kept.

Shapes: B mixtures, one for each utterance of the batch, T samples, C = 2 talkers and streams, K prototypes,
embeddings of E numbers, D in the bottleneck of the head, N frames of F features where the encoder pools them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from cslib.config import UserError
from cslib.datasets.augmentation import mix_at_sir
from cslib.datasets.views import Views
from cslib.models.base import FineTunable, FramePooled
from cslib.objectives.base import Losses, Task
from cslib.objectives.csc.objective import best_permutation
from cslib.objectives.dino import objective as dino
from cslib.objectives.dino.objective import Dino, LogPartition


@dataclass
class Config(dino.Config):
    mixture_weight: float = 1.0  # of naming the talkers of mixtures, relative to DINO's own loss
    sir_db: tuple[float, float] = (0.0, 10.0)  # how much louder the first talker of a mixture is, drawn uniformly
    permutation: str = "best"  # whose a stream is. best: by the smaller loss | loudness: the plain one is the louder's
    mask_hidden: int = 128  # width of the layer between the frames and the mask of the second stream


def build(config: Config, task: Task) -> DinoCsc:
    return DinoCsc(config, task)


class DinoCsc(Dino):
    """Minimises DINO's loss + mixture_weight * the cross-entropy of teacher and streams in their better permutation."""

    def __init__(self, config: Config, task: Task) -> None:
        _check(config, task)
        super().__init__(config, task)
        if not isinstance(self.encoder, FramePooled) or not isinstance(self.encoder, FineTunable):
            raise UserError(
                f"network.name: {task.network.name} does not show which frames it pools; dino_csc needs a "
                "network that does, as resnet"
            )
        self.dataset = WithSir(self.dataset, config.sir_db)
        # Every pooling gives a mean and a deviation of each feature.
        self.mask = SecondTalkerMask(
            self.encoder.pooling_layer().output_size // 2, self.encoder.embedding_size, config.mask_hidden
        )
        self._frames: Tensor | None = None
        self.encoder.pooling_layer().register_forward_pre_hook(self._keep_frames)

    def forward(self, batch: dict[str, Any]) -> Losses:
        losses, long, targets = self._distil(batch)
        # As in DINO no crop is its own target: the first is in the mixture, the others tell who it is of.
        alone = targets[:, 1:].mean(1)
        talkers = torch.stack([alone, alone.roll(1, 0)], dim=1)  # [B, C, K]
        points = self.head(self._streams(mixed_with_neighbours(long[:, 0], batch["sir"])))
        prototypes = self.head.prototypes(frozen=self._frozen())
        pairs = pairwise_cross_entropy(points, prototypes, talkers, self.config.student_temperature)
        own, diagnostics = by_talker(pairs, self.config.permutation == "loudness")
        mixture = own.mean()
        return Losses(
            losses.total + self.config.mixture_weight * mixture,
            losses.parts | {"mixture": mixture.detach()},
            losses.diagnostics | diagnostics,
        )

    def _streams(self, mixture: Tensor) -> Tensor:
        """[B, T] -> an embedding of each talker, [B, C, E], in no order."""
        first = self.encoder(mixture)
        # Only the mask is told by the second talker what to do about the first embedding, not that one itself.
        second = self.encoder.pooling_layer()(self.mask(self._frames, first.detach()))
        for layer in self.encoder.embedding_layers():
            second = layer(second)
        self._frames = None
        return torch.stack([first, second], dim=1)

    def _keep_frames(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Called before the encoder pools: what it pools are the frames [B, F, N] of the crops that it hears."""
        self._frames = inputs[0]


class SecondTalkerMask(nn.Module):
    """Frames [B, F, N], embedding [B, E] of the talker who is named already -> what of the frames is another's."""

    def __init__(self, features: int, embedding_size: int, hidden: int) -> None:
        super().__init__()
        self.frames = nn.Conv1d(features, hidden, 1)
        self.named = nn.Linear(embedding_size, hidden, bias=False)
        self.mask = nn.Conv1d(hidden, features, 1)

    def forward(self, frames: Tensor, named: Tensor) -> Tensor:
        return frames * self.mask(F.relu(self.frames(frames) + self.named(named)[..., None])).sigmoid()


class WithSir(Dataset):
    """The items of Views and, in each, how much louder it is than what will be mixed into it: sir, float32, in dB."""

    def __init__(self, views: Views, sir_db: tuple[float, float]) -> None:
        self.views, self.sir_db = views, sir_db

    def __getitem__(self, index: int) -> dict[str, Any]:
        # Not the seed of any item's crops or of a pass: a last number that is not 0 makes another one of it.
        rng = np.random.default_rng([self.views.seed, index, 1])
        return self.views[index] | {"sir": np.float32(rng.uniform(*self.sir_db))}


def mixed_with_neighbours(crops: Tensor, sir_db: Tensor) -> Tensor:
    """Each crop of [B, T] with the one before it in the batch added, sir_db [B] softer than itself -> [B, T]."""
    return mix_at_sir(torch.stack([crops, crops.roll(1, 0)], dim=1), sir_db[:, None])[0]


def pairwise_cross_entropy(points: Tensor, prototypes: Tensor, talkers: Tensor, temperature: float) -> Tensor:
    """-sum_k P_t(k | talker) log P_s(k | stream) of each stream and each talker, [B, stream, talker].

    points      [B, C, D] unit vectors of the streams
    prototypes  [K, D]
    talkers     [B, C, K] the teacher's distributions

    As in dino.cross_entropy a talker's mean prototype is enough, but for the sum in the softmax.
    """
    with torch.autocast(points.device.type, enabled=False):
        points = points / temperature
        log_sums = LogPartition.apply(points.flatten(0, 1), prototypes).unflatten(0, points.shape[:2])
        return log_sums[..., None] - points @ (talkers @ prototypes).transpose(1, 2)


def by_talker(losses: Tensor, in_order: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """losses [B, stream, talker] -> those of the better permutation, [B, talker], and diagnostics.

    in_order  take the streams for the talkers as they come, the plain one for the louder talker

    louder, quieter       the loss of either talker
    permutation_accuracy  share of mixtures in which each talker is named better by the stream of the permutation than
                          by the other one: 0 when the streams say the same, a half when they differ by chance
    first_is_louder       share of mixtures whose plain embedding names rather the louder talker: that is the one
                          whom a trial is about
    """
    everyone = torch.ones_like(losses[:, 0], dtype=torch.bool)
    best = best_permutation(-losses, everyone)  # [B, talker]
    order = torch.arange(2, device=best.device).expand_as(best) if in_order else best
    own, others = (losses.gather(1, streams[:, None])[:, 0] for streams in (order, order.flip(1)))
    told = own.detach()
    return own, {
        "louder": told[:, 0].mean(),
        "quieter": told[:, 1].mean(),
        "permutation_accuracy": (told < others).all(1).float().mean(),
        "first_is_louder": (best[:, 0] == 0).float().mean(),
    }


def _check(config: Config, task: Task) -> None:
    low, high = config.sir_db
    demands = [
        (0 < config.mixture_weight < math.inf, "mixture_weight is more than 0; without mixtures there is dino"),
        (0 <= low <= high < math.inf, "sir_db has the lower bound first, in dB, 0 or more"),
        (config.permutation in ("best", "loudness"), "permutation is best or loudness"),
        (config.mask_hidden >= 1, "mask_hidden is 1 or more"),
        (task.batch_size >= 2, "dino_csc mixes utterances of a batch, and training.batch_size is 1"),
    ]
    for met, demand in demands:
        if not met:
            raise UserError(f"objective.{demand}; change the config")
