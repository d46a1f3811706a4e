"""What objectives on crops of single utterances share: their data, the held-out monitor, the diagnostics.

Shapes: B utterances, M global crops of each, T samples, E size of an embedding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib.config import UserError, find, require
from cslib.datasets.augmentation import augment, reverberate, to_float
from cslib.datasets.views import Views
from cslib.models.base import Separative
from cslib.objectives.base import Objective, Task
from cslib.objectives.retrieval import Retrieval

MAX_HELD_OUT = 0.05  # of the utterances
SETTLED = 0.2  # share of the training after which a loss at the level of chance is no longer the usual start


class CropObjective(Objective):
    """An objective that learns from `Views`, the crops of single utterances, with one encoder and a held-out monitor.

    config  its options `views`, `held_out` and `held_out_every` are used here

    Raises UserError for a network without one embedding per crop, and for labels that do not fit `views.positives`.
    """

    retrieval: Retrieval | None

    def __init__(self, config: Any, task: Task) -> None:
        super().__init__()
        _check(config, task)
        self.config, self.steps = config, task.steps
        held_out = min(config.held_out, int(MAX_HELD_OUT * len(task.utterances)))
        self.retrieval = Retrieval(task.utterances, held_out, task.seed) if held_out > 1 else None
        held_out_rows = self.retrieval.rows if self.retrieval else None
        self.views = Views(
            task.utterances, task.banks, config.views, task.augment, task.seed, task.labels, held_out_rows
        )
        self.dataset = self.views
        self.encoder = find("models", task.network.name).build(task.network)

    def after_step(self) -> None:
        """Measure retrieval, every `held_out_every` steps."""
        if self.retrieval and (self.step + 1) % self.config.held_out_every == 0:
            self.retrieval.measure(self.embedding_network())

    def progress(self, embeddings: Tensor) -> dict[str, Tensor]:
        """`embedding_diagnostics` of [B, M, E], and retrieval as last measured."""
        found = embedding_diagnostics(embeddings.detach().float())
        return found | ({"retrieval": self.retrieval.share.clone()} if self.retrieval else {})


@torch.no_grad()
def augmented(batch: dict[str, Tensor], kind: str) -> Tensor:
    """The "global" or "local" crops as the networks hear them, float [B, n, T]: with channel, RIR and noise."""
    speech = reverberate(to_float(batch[kind]), batch[f"{kind}_channel"])
    return augment(speech, batch, f"{kind}_")


def embed_each(encoder: nn.Module, audio: Tensor) -> Tensor:
    """[B, n, T] -> [B, n, E]"""
    return encoder(audio.flatten(0, 1)).unflatten(0, audio.shape[:2])


@torch.no_grad()
def embedding_diagnostics(embeddings: Tensor) -> dict[str, Tensor]:
    """Diagnostics of the embeddings [B, M, E] of global crops, from this process's batch.

    embedding_std   standard deviation of embeddings scaled to length 1, times sqrt(E): 1 = isotropic, 0 = collapsed
    effective_rank  (sum of the covariance's eigenvalues)^2 / sum of their squares; at most B - 1 and E
    agreement       share of first crops whose nearest second crop is of the same item: label-free progress
    """
    first, second = F.normalize(embeddings, dim=-1)[:, :2].unbind(1)
    centred = embeddings[:, 0] - embeddings[:, 0].mean(0)
    with torch.autocast(embeddings.device.type, enabled=False):
        products = centred @ centred.T  # has the eigenvalues of the covariance, up to a factor
        nearest = (first @ second.T).argmax(1)
    return {
        "embedding_std": first.std(0, correction=0).mean() * first.shape[-1] ** 0.5,
        "effective_rank": products.trace().square() / products.square().sum().clamp(min=1e-20),
        "agreement": (nearest == torch.arange(len(first), device=first.device)).float().mean(),
    }


def _check(config: Any, task: Task) -> None:
    name = task.network.name
    if isinstance(task.network, Separative):
        raise UserError(
            f"network.name is {name}, which separates mixtures; the objective needs a network with one embedding per "
            "crop: give resnet, res2net or ecapa"
        )
    if (config.views.positives == "utterance") != (task.labels is None):
        remedy = "give the file of labels with --labels" if task.labels is None else "leave --labels out"
        raise UserError(f"objective.views.positives is {config.views.positives!r}: {remedy}")
    require(config.held_out >= 0, "objective.held_out", config.held_out, "at least 0")
    require(config.held_out_every >= 1, "objective.held_out_every", config.held_out_every, "at least 1")
