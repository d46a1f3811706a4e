"""What the methods on pairs of crops share: options, encoder, projector, checks.

Two crops of an utterance, augmented independently, are a positive pair. One encoder embeds both, and a projector maps
embeddings to the points that are compared. The projector is discarded after training.

Shapes: B utterances, 2 crops of each, E size of an embedding, D size of a point.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from cslib.config import require
from cslib.datasets.views import ViewConfig
from cslib.objectives.base import Task
from cslib.objectives.crops import SETTLED, CropObjective

COLLAPSED = 0.05  # embedding_std below which all embeddings are practically the same


@dataclass
class PairViews(ViewConfig):
    global_seconds: float = 2.0  # length of both crops; a shorter utterance is repeated
    local_crops: int = 0  # none: both crops of a pair are global crops


@dataclass
class SiameseConfig:
    projector: list[int] = field(default_factory=list)  # widths of its layers; []: embeddings themselves are compared
    held_out: int = 0  # utterances held out to monitor progress (`retrieval` in the log), at most one in 20; 0 = none
    held_out_every: int = 100  # steps between measurements of retrieval
    views: PairViews = field(default_factory=PairViews)  # crops


class Siamese(CropObjective):
    """An objective on pairs of crops, with a projector after the encoder.

    Raises UserError where `CropObjective` does, for crops that are not pairs, and for a projector without width.
    """

    def __init__(self, config: Any, task: Task) -> None:
        _check(config, task)
        super().__init__(config, task)
        self.projector = projector(self.encoder.embedding_size, config.projector)

    def embedding_network(self) -> nn.Module:
        return self.encoder

    def settled(self) -> bool:
        """Whether a loss at the level of chance is a bad sign by now."""
        return self.step > SETTLED * self.steps

    def collapse(self, means: dict[str, float], remedy: str) -> str | None:
        """The warning of a complete collapse, which every method on pairs can suffer."""
        if means["embedding_std"] >= COLLAPSED:
            return None
        return f"all crops have nearly the same embedding (embedding_std {means['embedding_std']:.3f}): {remedy}"


def projector(size: int, widths: list[int]) -> nn.Sequential:
    """Linear layers with batch normalisation and ReLU between them, [n, E] -> [n, D]; without widths, the identity."""
    layers: list[nn.Module] = []
    for width in widths:
        if layers:
            layers += [nn.BatchNorm1d(size), nn.ReLU()]
        layers.append(nn.Linear(size, width))
        size = width
    return nn.Sequential(*layers)


def project_each(projector: nn.Module, embeddings: Tensor) -> Tensor:
    """[B, n, E] -> [B, n, D] in float32"""
    return projector(embeddings.flatten(0, 1)).unflatten(0, embeddings.shape[:2]).float()


def _check(config: Any, task: Task) -> None:
    views = config.views
    for name, wanted in (("global_crops", 2), ("local_crops", 0)):
        value = getattr(views, name)
        require(value == wanted, f"objective.views.{name}", value, f"{wanted}: crops are compared in pairs")
    good = not views.clean_teacher
    require(good, "objective.views.clean_teacher", views.clean_teacher, "false: both crops of a pair are augmented")
    good = all(width >= 1 for width in config.projector)
    require(good, "objective.projector", config.projector, "widths of at least 1")
    require(task.batch_size >= 2, "training.batch_size", task.batch_size, "at least 2: utterances are compared")
