"""Classification of (pseudo-)labels with an additive angular margin: AAM-softmax, or ArcFace.

Deng et al. 2019, arXiv 1801.07698; sub-centres against label noise: Deng et al. 2020 (ECCV). It is the
second stage of iterative pseudo-labelling, where the labels are clusters of the embeddings of the model
before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib import config as configuration
from cslib.config import UserError
from cslib.data.augment import degrade, mix, reverberate, to_float
from cslib.data.crops import CropConfig, LabelledCrops
from cslib.objectives import Losses, Objective, Task

SINE_FLOOR = (
    1e-6  # of the squared sine: keeps the gradient of its root finite where an embedding is on its centre
)


@dataclass
class Config:
    scale: float = 30.0  # of the cosines, before the softmax
    margin: float = 0.3  # radians added to the angle with the true class; 0 = plain softmax on cosines
    margin_warmup: float = 0.3  # share of the training over which the margin rises from 0
    sub_centres: int = 1  # centres per class, the nearest counts; 2 or 3 take up wrong labels
    crops: CropConfig = field(default_factory=CropConfig)


def build(config: Config, task: Task) -> Margin:
    return Margin(config, task)


class Margin(Objective):
    """Minimises the cross-entropy of the label of a degraded crop, with a margin on the true class.

    Raises UserError without labels.
    """

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        if task.labels is None:
            raise UserError("objective margin: it needs labels; give the file of pseudo-labels with --labels")
        if config.sub_centres < 1:
            raise UserError(f"objective.sub_centres: {config.sub_centres} will not do; give 1 or more")
        self.config, self.steps = config, task.steps
        self.dataset = LabelledCrops(
            task.utterances, task.labels, task.banks, config.crops, task.augment, task.seed
        )
        self.encoder = configuration.find("models", task.network.name).build(task.network)
        classes = int(self.dataset.labels.max()) + 1
        self.centres = nn.Parameter(torch.empty(classes, config.sub_centres, self.encoder.embedding_size))
        nn.init.xavier_normal_(self.centres.view(-1, self.encoder.embedding_size))

    def embedding_network(self) -> nn.Module:
        return self.encoder

    def forward(self, batch: dict[str, Any]) -> Losses:
        embeddings, labels = self.encoder(degraded(batch)), batch["label"]
        margin = self.margin()
        cosines = class_cosines(embeddings, self.centres)
        total = F.cross_entropy(self.config.scale * with_margin(cosines, labels, margin), labels)
        with torch.no_grad():
            health = {
                "accuracy": (cosines.argmax(1) == labels).float().mean(),
                "true_cosine": cosines.gather(1, labels[:, None]).mean(),
                "embedding_std": spread(embeddings),
                "margin": torch.tensor(margin),
            }
        return Losses(total, {}, health)

    def margin(self) -> float:
        """Radians at this step: linear from 0 over the warm-up, constant after it."""
        warmup = self.config.margin_warmup * self.steps
        return self.config.margin * (min(1.0, self.step / warmup) if warmup else 1.0)


@torch.no_grad()
def degraded(batch: dict[str, Tensor]) -> Tensor:
    """The crops as the network hears them, float [B, T]: interfering talker, channel, room, noise."""
    speech, interferer = to_float(batch["speech"]), to_float(batch["interferer"])
    mixture, _ = mix(torch.stack([speech, interferer], dim=1), batch["sir"][:, None])
    return degrade(reverberate(mixture, batch["channel"]), batch["noise"], batch["snr"], batch["room"])


def class_cosines(embeddings: Tensor, centres: Tensor) -> Tensor:
    """Cosine with the nearest centre of each class, float32: [B, E], [classes, K, E] -> [B, classes]."""
    with torch.autocast(embeddings.device.type, enabled=False):
        embeddings, centres = F.normalize(embeddings.float(), dim=-1), F.normalize(centres.float(), dim=-1)
        cosines = embeddings @ centres.flatten(0, 1).T
        return cosines.unflatten(1, centres.shape[:2]).amax(-1) if centres.shape[1] > 1 else cosines


def with_margin(cosines: Tensor, labels: Tensor, margin: float) -> Tensor:
    """cos(theta + margin) in place of cos(theta) for the true class: [B, classes], labels [B] -> [B,
    classes].

    Where theta + margin would pass pi, and the cosine rise again, it goes on as cos(theta) - margin
    sin(margin).
    """
    true = cosines.gather(1, labels[:, None])
    sine = (1 - true.square()).clamp(min=SINE_FLOOR).sqrt()
    moved = true * math.cos(margin) - sine * math.sin(margin)
    moved = torch.where(true > -math.cos(margin), moved, true - margin * math.sin(margin))
    return cosines.scatter(1, labels[:, None], moved)


def spread(embeddings: Tensor) -> Tensor:
    """Standard deviation of unit-length embeddings over the batch: 1 when evenly spread, 0 when collapsed."""
    unit = F.normalize(embeddings.detach().float(), dim=-1)
    return unit.std(0).mean() * unit.shape[-1] ** 0.5
