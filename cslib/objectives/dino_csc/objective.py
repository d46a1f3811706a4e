"""DINO with the idea of CSC on the same encoder: embed both speakers of a mixture as the teacher embeds each alone.

This combination is our own and unpublished. What it improves is not known yet.

From contrastive separative coding (Wang et al. 2021, arXiv 2103.00816; cslib/objectives/csc) it takes the task: an
encoder hears two speakers at once and gives one embedding of each, a permutation assigns streams to speakers, and each
stream is compared with all candidates (here the K prototypes); no negatives are sampled. From DINO
(cslib/objectives/dino) it takes the targets: the teacher's outputs for other crops of the two utterances, without
interference. No waveform is separated. The first embedding is the plain one of the mixture; the second is pooled from
the same frames through a mask that depends on the first. So the plain embedding, which is the one that is kept, always
represents one speaker in the presence of another.

What is minimised is in loss.py. Shapes: B mixtures, one per utterance of the batch, T samples, C = 2 speakers and
streams, K prototypes, E size of an embedding, D size of the bottleneck, F features and N frames that the encoder pools.
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

from cslib.config import UserError, require
from cslib.datasets.augmentation import mix_at_sir
from cslib.datasets.views import Views
from cslib.models.base import FineTunable, FramePooled
from cslib.objectives.base import Losses, Task, num_processes
from cslib.objectives.dino import objective as dino
from cslib.objectives.dino_csc.loss import loss_by_speaker, pairwise_cross_entropy


@dataclass
class Config(dino.Config):
    mixture_weight: float = 1.0  # of the loss of mixtures, relative to DINO's own
    sir_db: tuple[float, float] = (0.0, 10.0)  # dB, how much louder the first speaker of a mixture is, drawn uniformly
    permutation: str = "best"  # streams to speakers. best: by the smaller loss | loudness: first stream to the louder
    mask_hidden: int = 128  # width of the layer between the frames and the mask of the second stream


def build(config: Config, task: Task) -> DinoCsc:
    return DinoCsc(config, task)


class DinoCsc(dino.Dino):
    """Minimises DINO's loss + mixture_weight * the cross-entropy of teacher and streams in their best permutation.

    It keeps what DINO keeps, and the mask. Whether it is well shows in what DINO watches and in the diagnostics of
    `loss_by_speaker`.

    Raises UserError where DINO does, for a network that does not show the frames that it pools, and when a process
    has fewer than two items of a batch: each mixture is made of two of them.
    """

    config: Config

    def __init__(self, config: Config, task: Task) -> None:
        _check(config, task)
        super().__init__(config, task)
        if not isinstance(self.encoder, FramePooled) or not isinstance(self.encoder, FineTunable):
            raise UserError(
                f"network.name is {task.network.name}, which does not show the frames that it pools; dino_csc needs a "
                "network that does, as resnet"
            )
        assert isinstance(self.dataset, Views)
        self.dataset = WithSir(self.dataset, config.sir_db)
        # Every pooling gives a mean and a standard deviation of each feature.
        self.mask = SecondSpeakerMask(
            self.encoder.pooling_layer().output_size // 2, self.encoder.embedding_size, config.mask_hidden
        )
        self._frames: Tensor | None = None
        self.encoder.pooling_layer().register_forward_pre_hook(self._keep_frames)

    def forward(self, batch: dict[str, Any]) -> Losses:
        losses, crops, targets = self.distil(batch)
        # As in DINO, no crop is its own target: the first is in the mixture, the others represent its speaker.
        alone = targets[:, 1:].mean(1)
        speakers = torch.stack([alone, alone.roll(1, 0)], dim=1)  # [B, C, K]
        points = self.head(self._streams(mixed_with_neighbours(crops[:, 0], batch["sir"])))
        prototypes = self.student_prototypes()
        pairs = pairwise_cross_entropy(points, prototypes, speakers, self.config.student_temperature)
        own, diagnostics = loss_by_speaker(pairs, self.config.permutation == "loudness")
        mixture = own.mean()
        return Losses(
            losses.total + self.config.mixture_weight * mixture,
            losses.parts | {"mixture": mixture.detach()},
            losses.diagnostics | diagnostics,
        )

    def _streams(self, mixture: Tensor) -> Tensor:
        """[B, T] -> an embedding per stream, [B, C, E]; which speaker a stream is of is open."""
        first = self.encoder(mixture)
        # The second speaker's loss trains the mask, not the first embedding.
        second = self.encoder.pooling_layer()(self.mask(self._frames, first.detach()))
        for layer in self.encoder.embedding_layers():
            second = layer(second)
        self._frames = None
        return torch.stack([first, second], dim=1)

    def _keep_frames(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Hook before the pooling of the encoder; its input is the frames [B, F, N] of what the encoder hears."""
        self._frames = inputs[0]


class SecondSpeakerMask(nn.Module):
    """Frames [B, F, N], embedding [B, E] of the first speaker -> the frames' part of another speaker, [B, F, N]."""

    def __init__(self, features: int, embedding_size: int, hidden: int) -> None:
        super().__init__()
        self.frames = nn.Conv1d(features, hidden, 1)
        self.named = nn.Linear(embedding_size, hidden, bias=False)
        self.mask = nn.Conv1d(hidden, features, 1)

    def forward(self, frames: Tensor, first: Tensor) -> Tensor:
        return frames * self.mask(F.relu(self.frames(frames) + self.named(first)[..., None])).sigmoid()


class WithSir(Dataset):
    """The items of `Views` and, in each, `sir`: how much louder it is than what is mixed into it, float32, dB."""

    def __init__(self, views: Views, sir_db: tuple[float, float]) -> None:
        self.views, self.sir_db = views, sir_db

    def __getitem__(self, index: int) -> dict[str, Any]:
        # Not the generator of the item's crops, whose seed has two numbers; a third one of 0 would be the same seed.
        rng = np.random.default_rng([self.views.seed, index, 1])
        return self.views[index] | {"sir": np.float32(rng.uniform(*self.sir_db))}


def mixed_with_neighbours(crops: Tensor, sir_db: Tensor) -> Tensor:
    """Each crop of [B, T] mixed with the one before it in the batch, sir_db [B] softer than itself -> [B, T]."""
    return mix_at_sir(torch.stack([crops, crops.roll(1, 0)], dim=1), sir_db[:, None])[0]


def _check(config: Config, task: Task) -> None:
    low, high = config.sir_db
    good = 0 < config.mixture_weight < math.inf
    require(good, "objective.mixture_weight", config.mixture_weight, "more than 0; without mixtures, use dino")
    require(
        0 <= low <= high < math.inf, "objective.sir_db", list(config.sir_db), "in dB, at least 0, lower bound first"
    )
    good = config.permutation in ("best", "loudness")
    require(good, "objective.permutation", config.permutation, "best or loudness")
    require(config.mask_hidden >= 1, "objective.mask_hidden", config.mask_hidden, "at least 1")
    wanted = f"at least {2 * num_processes()}, two per process: dino_csc mixes the utterances of one process"
    require(task.batch_size >= 2 * num_processes(), "training.batch_size", task.batch_size, wanted)
