"""Classification of (pseudo-)labels with an additive angular margin: AAM-softmax, or ArcFace.

Deng et al. 2019, arXiv 1801.07698; sub-centres against label noise: Deng et al. 2020 (ECCV). In iterative
pseudo-labelling the labels are clusters of the embeddings of the previous model; label_gates.py decides which of them
to trust. What is minimised is in loss.py. Shapes: B crops, T samples, E size of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib.config import UserError, find, require
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
    top_k_margin: float = 0.0  # radians subtracted from the angles with the 5 nearest wrong classes; 0.1 is usual
    margin_warmup: float = 0.3  # share of the training over which both margins rise from 0
    sub_centres: int = 1  # centres per class, of which the nearest counts; 2 or 3 absorb wrong labels
    centre_rate: float = 1.0  # learning rate of the centres relative to the network's; higher if only they are new
    freeze_encoder: float = 0.0  # share of the training in which only centres and embedding layers learn; 0.1 to 0.3
    crops: CropConfig = field(default_factory=CropConfig)  # crops


def build(config: Config, task: Task) -> Margin:
    return Margin(config, task)


class Margin(Objective):
    """Minimises the cross-entropy of the label of an augmented crop, with a margin on the true class.

    It keeps the centres of the classes and the gate with the last loss of each utterance. Whether it is well shows in
    accuracy and true_cosine (both without margin), embedding_std (0 = collapsed), and with a gate in kept and corrected
    (shares of the batch) and gate (nats).

    Raises UserError without labels, with a single class, and when a network without named embedding layers is to be
    frozen.
    """

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        if task.labels is None:
            raise UserError("objective margin: it needs labels; give the file of pseudo-labels with --labels")
        require(config.sub_centres >= 1, "objective.sub_centres", config.sub_centres, "at least 1")
        self.config, self.steps = config, task.steps
        self.dataset = LabelledCrops(task.utterances, task.labels, task.banks, config.crops, task.augment, task.seed)
        if self.dataset.labels.max() < 1:
            raise UserError("--labels: all utterances have the same label; classification needs two or more")
        self.encoder = find("models", task.network.name).build(task.network)
        if config.freeze_encoder and not isinstance(self.encoder, FineTunable):
            raise UserError(f"objective.freeze_encoder: network {task.network.name} names no embedding layers; give 0")
        self.centres = nn.Parameter(torch.empty(self.dataset.classes, config.sub_centres, self.encoder.embedding_size))
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
            frozen = self.step < self.config.freeze_encoder * self.steps
            freeze(self.encoder, self.encoder.embedding_layers(), frozen)
        embeddings, labels = self.encoder(augmented(batch)), batch["label"]
        cosines = class_cosines(embeddings, self.centres)
        harder = with_top_k_margin(cosines, labels, self.config.top_k_margin * self.ramp())
        losses = cross_entropies(self.config.scale * with_margin(harder, labels, self.margin()), labels)
        self._last = batch["row"], losses.detach()
        trusted = self.gate.trusted(losses.detach(), self.step)
        losses, corrected = self._correct(losses, cosines, batch["speech"], ~trusted)
        total = global_mean(losses, trusted | corrected)
        with torch.no_grad():
            diagnostics = {
                "accuracy": (cosines.argmax(1) == labels).float().mean(),
                "true_cosine": cosines.gather(1, labels[:, None]).mean(),
                "embedding_std": embedding_std(embeddings),
                "margin": torch.tensor(self.margin()),
            }
            if self.config.gate != "none":
                diagnostics["kept"], diagnostics["corrected"] = trusted.float().mean(), corrected.float().mean()
                diagnostics["gate"] = self.gate.limit.clone()
        return Losses(total, {}, diagnostics)

    def after_step(self) -> None:
        self.gate.after_step(self.step, *self._last)

    def warning(self, means: dict[str, float]) -> str | None:
        if means.get("kept", 1.0) >= 0.5:
            return None
        return (
            f"the gate keeps only {means['kept']:.0%} of the labels: raise objective.gate_start, so that the network "
            "has learnt more by then, or objective.gate_loss; with correction the network may be teaching itself"
        )

    def ramp(self) -> float:
        """Factor of the margins at this step: linear from 0 to 1 over the warm-up."""
        warmup = self.config.margin_warmup * self.steps
        return min(1.0, self.step / warmup) if warmup else 1.0

    def margin(self) -> float:
        """Radians at this step."""
        return self.config.margin * self.ramp()

    def _correct(self, losses: Tensor, cosines: Tensor, speech: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [B] with the network's own labels where the given ones are rejected [B] and it is sure of its own.

        Returns also where that is, bool [B].
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
        """Logits [n, classes] of crops without augmentation; in eval mode, which leaves batch norms unchanged."""
        training = self.encoder.training
        embeddings = self.encoder.eval()(to_float(speech))
        self.encoder.train(training)
        return self.config.scale * class_cosines(embeddings, self.centres)


def freeze(network: nn.Module, kept: list[nn.Module], frozen: bool) -> None:
    """Freeze or unfreeze weights and batch-norm statistics of a network, except those of its layers `kept`.

    Frozen weights have no gradient, rather than one of zero: optimisers then leave them and their moments unchanged.
    """
    network.train(not frozen).requires_grad_(not frozen)
    for layer in kept:
        layer.train().requires_grad_()


@torch.no_grad()
def augmented(batch: dict[str, Tensor]) -> Tensor:
    """The crops as the network hears them, float [B, T]: with interfering speaker, channel, RIR and noise."""
    speech, interferer = to_float(batch["speech"]), to_float(batch["interferer"])
    mixture, _ = mix_at_sir(torch.stack([speech, interferer], dim=1), batch["sir"][:, None])
    return augment(reverberate(mixture, batch["channel"]), batch)


def embedding_std(embeddings: Tensor) -> Tensor:
    """Standard deviation of embeddings [B, E] scaled to length 1, times sqrt(E): 1 = isotropic, 0 = collapsed."""
    unit = F.normalize(embeddings.detach().float(), dim=-1)
    return unit.std(0).mean() * unit.shape[-1] ** 0.5
