"""MoCo on utterances: a crop finds the other crop of its utterance among the keys of the last batches (He et al. 2020,
arXiv 1911.05722, and MoCo v2, arXiv 2003.04297; for speakers Xia et al., ICASSP 2021, arXiv 2012.07178).

The queue makes the number of negatives independent of the batch. Its keys come from a momentum encoder, a moving
average of the encoder, which changes so slowly that keys of earlier steps are still comparable.

Batch normalisation can leak which key is the positive: query and key are normalised over the same utterances, and the
keys of the queue over others. MoCo shuffles the keys among GPUs so that no GPU normalises a query together with its
key. That does nothing on one GPU, or where GPUs share their batch statistics, as in this library. `key_norm: running`
closes the leak instead: the momentum encoder normalises with moving averages of the encoder's running statistics (EMAN:
Cai et al. 2021, arXiv 2101.08482), so that a key depends on its own crop alone.

Keys of the query's own utterance, from an earlier pass over the set, may still be in the queue. If the queue is longer
than the set, they always are. They are no negatives and are left out; `same_utterance` in the log counts them. With
`positives: cluster`, all keys of the query's cluster are left out.

The loss is in loss.py, the queue in queue.py, what methods on pairs of crops share in cslib/objectives/siamese.py.
Shapes: B utterances in this process, V = 2 directions (1 if not symmetric), D size of a point, K length of the queue.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from cslib.config import require
from cslib.datasets.views import Views
from cslib.objectives.base import Losses, Task, gather
from cslib.objectives.crops import augmented, embed_each
from cslib.objectives.moco.loss import info_nce_loss
from cslib.objectives.moco.queue import KeyQueue
from cslib.objectives.siamese import Siamese, SiameseConfig, project_each


@dataclass
class Config(SiameseConfig):
    temperature: float = 0.03  # of the cosines; lower weighs the most similar negatives more
    queue: int = 32768  # K, keys of either crop; at least the batch
    momentum: float = 0.999  # of the moving average that makes the keys; lower for short trainings
    symmetric: bool = True  # both crops are queries in turn; false: the first only, as in the paper, at half the cost
    key_norm: str = "running"  # batch statistics of the keys. running: moving averages | batch: of the batch (may leak)


def build(config: Config, task: Task) -> MoCo:
    return MoCo(config, task)


class MoCo(Siamese):
    """Minimises InfoNCE of each crop, with the momentum encoder's key of the other crop and the queue.

    It keeps the momentum encoder and projector, and the queue. Whether it is well shows in the loss against
    ln(negatives + 1), a guess, in retrieval and in `embedding_diagnostics`.

    With several processes, every queue is filled with the keys of all of them. Keys have no gradient, so two processes
    compute what one computes (except that on CPUs each has its own batch statistics).

    Raises UserError where `Siamese` does, and for options out of range.
    """

    config: Config

    def __init__(self, config: Config, task: Task) -> None:
        _check(config, task)
        super().__init__(config, task)
        self.dataset = WithOwner(self.views)
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)
        size = config.projector[-1] if config.projector else self.encoder.embedding_size
        self.queue = KeyQueue(2 if config.symmetric else 1, config.queue, size)

    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.key_encoder]

    def train(self, mode: bool = True) -> MoCo:
        super().train(mode)
        for network in (self.key_encoder, self.key_projector):
            network.train(mode and self.config.key_norm == "batch")
        return self

    def forward(self, batch: dict[str, Any]) -> Losses:
        if self.step == 0:
            # A training that starts from another one's encoder has it in the encoder alone.
            self.key_encoder.load_state_dict(self.encoder.state_dict())
        crops, directions = augmented(batch, "global"), len(self.queue.keys)
        embeddings = embed_each(self.encoder, crops[:, :directions])
        queries = F.normalize(project_each(self.projector, embeddings), dim=-1)  # [B, V, D]
        key_embeddings, keys = self._keys(crops.flip(1)[:, :directions])  # of the other crop
        self._last = keys, batch["owner"]
        allowed, same = self.queue.negatives(batch["owner"])
        losses = [
            info_nce_loss(query, key, negatives, allowed, self.config.temperature)
            for query, key, negatives in zip(queries.unbind(1), keys.unbind(1), self.queue.keys, strict=True)
        ]
        pairs = torch.stack([embeddings[:, 0], key_embeddings[:, 0]], dim=1)
        diagnostics = self.progress(pairs) | {
            "positive_cosine": (queries * keys).sum(-1).mean().detach(),
            "negatives": allowed.sum(1).float().mean(),
            "same_utterance": same.sum(1).float().mean(),
        }
        return Losses(torch.stack(losses).mean(), {}, diagnostics)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the momentum encoder towards the encoder, and the keys of all processes into the queue."""
        for average, value in self._averages():
            if average.is_floating_point():
                average.lerp_(value, 1 - self.momentum())
            else:
                average.copy_(value)
        self.queue.push(*map(gather, self._last))
        super().after_step()

    def momentum(self) -> float:
        """m of this step: 0, 1/2, 2/3, ..., which is the plain mean of all steps so far, until `objective.momentum`.

        The first running statistics are far from those of the data; a slow average would keep them for long.
        """
        return min(self.config.momentum, self.step / (self.step + 1))

    def warning(self, means: dict[str, float]) -> str | None:
        """All embeddings the same, or a loss that does not leave the level of a guess."""
        guess = math.log(means["negatives"] + 1)
        if self.settled() and means["loss"] > 0.99 * guess:
            return (
                f"the loss is {means['loss']:.2f}, and guessing among the keys gives {guess:.2f}: lower "
                "training.learning_rate, change objective.momentum or objective.temperature, or augment less"
            )
        return self.collapse(means, "lower training.learning_rate, or raise objective.momentum")

    @torch.no_grad()
    def _keys(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Crops [B, V, T] -> the momentum encoder's embeddings [B, V, E] and keys [B, V, D]."""
        embeddings = embed_each(self.key_encoder, audio)
        return embeddings, F.normalize(project_each(self.key_projector, embeddings), dim=-1)

    def _averages(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each moving average with what it follows: parameters and, unless keys have batch statistics, buffers."""
        for average, network in ((self.key_encoder, self.encoder), (self.key_projector, self.projector)):
            yield from zip(average.parameters(), network.parameters(), strict=True)
            if self.config.key_norm == "running":
                yield from zip(average.buffers(), network.buffers(), strict=True)


class WithOwner(Dataset):
    """The items of `Views` and, in each, `owner`: int64, different for every utterance, or for every cluster if crops
    come from two utterances of one cluster.
    """

    def __init__(self, views: Views) -> None:
        self.views = views
        rows = np.arange(len(views.utterances))
        labels = np.full(len(rows), -1) if views.labels is None else views.labels
        self.owners = np.where(labels >= 0, labels, labels.max() + 1 + rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.views[index] | {"owner": self.owners[self.views.order.row(index)]}


def _check(config: Config, task: Task) -> None:
    require(0 < config.temperature < math.inf, "objective.temperature", config.temperature, "more than 0")
    require(0 <= config.momentum <= 1, "objective.momentum", config.momentum, "between 0 and 1")
    require(config.key_norm in ("running", "batch"), "objective.key_norm", config.key_norm, "running or batch")
    wanted = f"at least training.batch_size, {task.batch_size}: the keys of a batch are stored together"
    require(config.queue >= task.batch_size, "objective.queue", config.queue, wanted)
