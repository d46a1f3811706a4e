"""Classification of (pseudo-)labels with an additive angular margin: AAM-softmax, or ArcFace.

Deng et al. 2019, arXiv 1801.07698; sub-centres against label noise: Deng et al. 2020 (ECCV). It is the
second stage of iterative pseudo-labelling, where the labels are clusters of the embeddings of the model
before; which of them to believe is decided in label_gates.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib import config as configuration
from cslib.config import UserError
from cslib.datasets.augmentation import augment, mix_at_sir, reverberate, to_float
from cslib.datasets.crops import CropConfig, LabelledCrops
from cslib.models.base import FineTunable
from cslib.objectives.base import Losses, Objective, Task, global_mean
from cslib.objectives.margin.label_gates import GateConfig, LabelGate
from cslib.objectives.margin.loss import class_cosines, cross_entropies, with_margin, with_top_k_margin


@dataclass
class Config(GateConfig):
    scale: float = 30.0  # of the cosines, before the softmax
    margin: float = 0.3  # radians added to the angle with the true class; 0 = plain softmax on cosines
    top_k_margin: float = 0.0  # radians taken from the angles with the nearest wrong classes; 0.1 is usual
    top_k: int = 5  # how many wrong classes that are
    margin_warmup: float = 0.3  # share of the training over which both margins rise from 0
    sub_centres: int = 1  # centres per class, the nearest counts; 2 or 3 take up wrong labels
    centre_rate: float = 1.0  # their learning rate, relative to the network's; more where only they are new
    freeze_encoder: float = 0.0  # share of the training in which only centres and embedding layer learn; 0.1 to 0.3
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
        self.dataset = LabelledCrops(task.utterances, task.labels, task.banks, config.crops, task.augment, task.seed)
        classes = int(self.dataset.labels.max()) + 1
        if classes < 2:
            raise UserError("--labels: all utterances have the same label; there is nothing to tell apart")
        self.encoder = configuration.find("models", task.network.name).build(task.network)
        if config.freeze_encoder and not isinstance(self.encoder, FineTunable):
            raise UserError(f"objective.freeze_encoder: network {task.network.name} names no embedding layers; give 0")
        self.centres = nn.Parameter(torch.empty(classes, config.sub_centres, self.encoder.embedding_size))
        nn.init.xavier_normal_(self.centres.view(-1, self.encoder.embedding_size))
        self.gate = LabelGate(config, task, len(self.dataset.rows))

    def embedding_network(self) -> nn.Module:
        return self.encoder

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The centres have a learning rate of their own."""
        groups = super().parameter_groups()
        groups[0]["params"] = [p for p in groups[0]["params"] if p is not self.centres]
        return [*groups, {"params": [self.centres], "rate_scale": self.config.centre_rate}]

    def forward(self, batch: dict[str, Any]) -> Losses:
        if self.config.freeze_encoder:
            freeze(self.encoder, self.step < self.config.freeze_encoder * self.steps)
        embeddings, labels = self.encoder(degraded(batch)), batch["label"]
        cosines = class_cosines(embeddings, self.centres)
        harder = with_top_k_margin(cosines, labels, self.config.top_k_margin * self.ramp(), self.config.top_k)
        losses = cross_entropies(self.config.scale * with_margin(harder, labels, self.margin()), labels)
        self._last = batch["row"], losses.detach()
        believed = self.gate.believed(losses.detach(), self.step)
        losses, corrected = self._correct(losses, cosines, batch["speech"], ~believed)
        total = global_mean(losses, believed | corrected)
        with torch.no_grad():
            diagnostics = {
                "accuracy": (cosines.argmax(1) == labels).float().mean(),
                "true_cosine": cosines.gather(1, labels[:, None]).mean(),
                "embedding_std": spread(embeddings),
                "margin": torch.tensor(self.margin()),
            }
            if self.config.gate != "none":
                diagnostics["kept"], diagnostics["corrected"] = believed.float().mean(), corrected.float().mean()
                diagnostics["gate"] = self.gate.limit.clone()
        return Losses(total, {}, diagnostics)

    def after_step(self) -> None:
        self.gate.after_step(self.step, *self._last)

    def warning(self, means: dict[str, float]) -> str | None:
        if means.get("kept", 1.0) >= 0.5:
            return None
        return (
            f"the gate believes only {means['kept']:.0%} of the labels: raise objective.gate_start, so that the "
            "network knows more by then, or objective.gate_loss; with correction it may be teaching itself"
        )

    def ramp(self) -> float:
        """Share of the margins at this step: linear from 0 over the warm-up, 1 after it."""
        warmup = self.config.margin_warmup * self.steps
        return min(1.0, self.step / warmup) if warmup else 1.0

    def margin(self) -> float:
        """Radians at this step."""
        return self.config.margin * self.ramp()

    def _correct(self, losses: Tensor, cosines: Tensor, speech: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [B], against the network's own labels where it has some and the given one is rejected [B].

        Also which those are, bool [B].
        """
        corrected = torch.zeros_like(rejected)
        if not self.gate.corrects(self.step) or not rejected.any():
            return losses, corrected
        own, sure = self.gate.own_labels(self._clean_logits(speech[rejected]))
        corrected[rejected] = sure
        towards_own = -(own[sure] * (self.config.scale * cosines[corrected]).log_softmax(1)).sum(1)
        return losses.masked_scatter(corrected, towards_own), corrected

    @torch.no_grad()
    def _clean_logits(self, speech: Tensor) -> Tensor:
        """[n, classes] of crops as they were recorded; in eval mode, so that no batch norm notices."""
        training = self.encoder.training
        embeddings = self.encoder.eval()(to_float(speech))
        self.encoder.train(training)
        return self.config.scale * class_cosines(embeddings, self.centres)


def freeze(network: nn.Module, frozen: bool) -> None:
    """Hold all of a network but its embedding layers, weights and batch-norm statistics, or let it go again.

    What is held gets no gradient, not one of zero: optimisers then leave it and its moments alone.
    """
    network.train(not frozen).requires_grad_(not frozen)
    for layer in network.embedding_layers():
        layer.train().requires_grad_()


@torch.no_grad()
def degraded(batch: dict[str, Tensor]) -> Tensor:
    """The crops as the network hears them, float [B, T]: interfering talker, channel, room, noise."""
    speech, interferer = to_float(batch["speech"]), to_float(batch["interferer"])
    mixture, _ = mix_at_sir(torch.stack([speech, interferer], dim=1), batch["sir"][:, None])
    return augment(reverberate(mixture, batch["channel"]), batch)


def spread(embeddings: Tensor) -> Tensor:
    """Standard deviation of unit-length embeddings over the batch: 1 when evenly spread, 0 when collapsed."""
    unit = F.normalize(embeddings.detach().float(), dim=-1)
    return unit.std(0).mean() * unit.shape[-1] ** 0.5
