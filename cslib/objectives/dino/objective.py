"""DINO on utterances: self-distillation with no labels (Caron et al. 2021, arXiv 2104.14294; Cho et al. 2022, arXiv
2208.05413).

The teacher is a moving average of the student. It sees the global crops of an utterance; the student sees these and a
few shorter local crops, each augmented independently. Both map a crop to a distribution over prototypes. The student
learns to predict, from each crop, the teacher's output for another crop. What all crops of an utterance share is its
speaker (and its channel, which augmentation blurs). There are no negatives. Two properties of the teacher alone prevent
collapse: its outputs are sharp, which keeps them from being uniform, and centred, which keeps one prototype from
winning every time. `targets: sinkhorn` balances them instead: all prototypes are used equally in each batch, as in SDPN
(Chen et al. 2025, arXiv 2308.02774), so no prototype can win every time; sharpness again keeps outputs from being
uniform.

What is minimised is in loss.py, the head in head.py. Shapes: B utterances, M global crops and N crops of each, T
samples, E size of an embedding, D size of the bottleneck, K prototypes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cslib.config import require
from cslib.datasets.augmentation import to_float
from cslib.datasets.views import ViewConfig
from cslib.objectives.base import Losses, Task, gather, gather_with_gradient, num_processes
from cslib.objectives.covariance import frobenius_loss, off_diagonal_loss
from cslib.objectives.crops import SETTLED, CropObjective, augmented, embed_each
from cslib.objectives.dino.head import Head
from cslib.objectives.dino.loss import (
    distillation_loss,
    koleo_loss,
    me_max_loss,
    prototype_cosines,
    sinkhorn_knopp_offsets,
    variance_covariance_loss,
)

WINDOW = 4  # teacher crops per prototype over which live prototypes are counted; uniform use would reach 98 % of them
DIMENSION_LOSSES = {"frobenius": frobenius_loss, "off_diagonal": off_diagonal_loss}


@dataclass
class Config:
    prototypes: int = 65536  # K, their number
    hidden: int = 2048  # width of the two hidden layers of the head
    bottleneck: int = 256  # D, size of what is compared with the prototypes
    head_norm: str = "none"  # none | batch: normalisation after each hidden layer; batch with sgd
    student_temperature: float = 0.1  # of the cosines with the prototypes
    teacher_temperature: tuple[float, float] = (0.04, 0.04)  # first, later; lower is sharper: try 0.02 on collapse
    temperature_warmup: float = 0.0  # share of the training over which the first becomes the later one
    targets: str = "centred"  # centred: logits less their running mean | sinkhorn: balanced over the global batch
    centre_momentum: float = 0.9  # of the running mean of the teacher's logits; nearer to 1 for small batches
    teacher_momentum: tuple[float, float] = (0.996, 1.0)  # of the moving average, first to last; 0.99 on tiny sets
    freeze_last: float = 0.0143  # share of the training during which the student's prototypes are frozen
    # Variance-covariance loss, over one process's share of the batch (so it depends on the number of GPUs); RDINO: 0.2
    variance_covariance_weight: float = 0.0
    # KoLeo: keep neighbours apart, within one process's share of the batch (depends on the number of GPUs); SDPN: 0.1
    koleo_weight: float = 0.0
    # me-max: uniform use of prototypes over the global batch; for a few thousand prototypes at most; SDPN: 1
    me_max_weight: float = 0.0
    dimension_weight: float = 0.0  # dimension regularisation of the embeddings, over the global batch
    dimension_loss: str = "frobenius"  # frobenius: raise the effective rank | off_diagonal: lower covariances
    held_out: int = 0  # utterances held out to monitor progress (`retrieval` in the log), at most one in 20; 0 = none
    held_out_every: int = 100  # steps between measurements of retrieval
    views: ViewConfig = field(default_factory=ViewConfig)  # crops


def build(config: Config, task: Task) -> Dino:
    return Dino(config, task)


class Distilled(NamedTuple):
    """What `Dino.distil` computes: the losses, the student's global crops [B, M, T], their targets [B, M, K]."""

    losses: Losses
    global_crops: Tensor
    targets: Tensor


class Dino(CropObjective):
    """Minimises the cross-entropy of teacher and student over all pairs of different crops.

    It keeps the teacher, the centre of its logits and how often each prototype wins. Whether it is well shows in
    teacher_entropy (0 nats or ln K: collapse), kl, live_prototypes, retrieval and `embedding_diagnostics`.

    With several processes, Sinkhorn-Knopp, me-max and the dimension regularisation act on the global batch; KoLeo and
    the variance-covariance loss act on the share of each process. The same config on more GPUs therefore finds
    neighbours further apart and noisier covariances; training.batch_size in proportion to the number of GPUs keeps both
    as they are.

    Raises UserError for options that contradict each other, and for a network without one embedding per crop.
    """

    centre: Tensor  # [K]
    wins: Tensor  # [K], decayed counts

    def __init__(self, config: Config, task: Task) -> None:
        _check(config, task)
        super().__init__(config, task)
        size, batch_norm = self.encoder.embedding_size, config.head_norm == "batch"
        self.head = Head(size, config.hidden, config.bottleneck, config.prototypes, batch_norm)
        self.teacher_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self.register_buffer("wins", torch.zeros(config.prototypes))

    def embedding_network(self) -> nn.Module:
        return self.teacher_encoder

    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.teacher_encoder]

    def forward(self, batch: dict[str, Tensor]) -> Losses:
        return self.distil(batch).losses

    def distil(self, batch: dict[str, Tensor]) -> Distilled:
        """The losses of a batch of `Views`, with what a method that builds on DINO needs besides."""
        if self.step == 0:
            # A training that starts from another one's encoder finds it in the embedding network, the teacher.
            self.encoder.load_state_dict(self.teacher_encoder.state_dict())
        crops = [augmented(batch, kind) for kind in ("global", "local") if kind in batch]
        clean = self.config.views.clean_teacher
        targets, entropy, diagnostics = self._teach(to_float(batch["global"]) if clean else crops[0])
        # Crops of each length pass through the encoder by themselves, so batch norms see them by themselves too.
        embeddings = torch.cat([embed_each(self.encoder, audio) for audio in crops], dim=1)  # [B, N, E]
        points, prototypes = self.head(embeddings), self.student_prototypes()
        distillation = distillation_loss(points, prototypes, targets, self.config.student_temperature)
        total, parts = self._regularised(distillation, embeddings[:, : targets.shape[1]], points, prototypes)
        # Each target is in equally many pairs, so the mean entropy of targets is that of pairs.
        diagnostics |= {"teacher_entropy": entropy, "kl": distillation.detach() - entropy}
        return Distilled(Losses(total, parts, diagnostics), crops[0], targets)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the teacher towards the student, and the centre towards the mean of the last logits."""
        for teachers, students in self._pairs():
            teachers.lerp_(students, 1 - self.momentum())
        mean, winners = (gather(value) for value in self._last)
        self.centre.lerp_(mean.mean(0), 1 - self.config.centre_momentum)
        self.wins *= math.exp(-len(winners) / (WINDOW * len(self.wins)))
        self.wins += torch.bincount(winners, minlength=len(self.wins))
        super().after_step()

    def momentum(self) -> float:
        """m(t) of the teacher: a half cosine from its first to its last value over the whole training."""
        first, last = self.config.teacher_momentum
        return last - (last - first) * (1 + math.cos(math.pi * self.step / self.steps)) / 2

    def teacher_temperature(self) -> float:
        first, later = self.config.teacher_temperature
        warmup = self.config.temperature_warmup * self.steps
        return first + (later - first) * (min(1.0, self.step / warmup) if warmup else 1.0)

    def student_prototypes(self) -> Tensor:
        """[K, D]; without gradient in the first `freeze_last` of the training."""
        return self.head.prototypes(frozen=self.step < self.config.freeze_last * self.steps)

    def warning(self, means: dict[str, float]) -> str | None:
        """The two ways to collapse: one prototype for all crops, and a uniform distribution for every crop."""
        most, entropy, loss = math.log(self.config.prototypes), means["teacher_entropy"], means["distillation"]
        # With balanced targets, an entropy of 0 means that each crop has a prototype of its own: no collapse.
        if entropy < 0.01 * most and self.config.targets == "centred":
            return (
                f"the teacher's entropy is {entropy:.3f} nats, a single prototype for each crop: raise "
                "objective.teacher_temperature, or lower training.learning_rate or objective.centre_momentum"
            )
        if entropy > 0.95 * most or (loss > 0.99 * most and self.step > SETTLED * self.steps):
            return (
                f"the loss is {loss:.2f} and the teacher's entropy {entropy:.2f} nats, and guessing among all "
                f"prototypes gives {most:.2f} (ln K): lower objective.teacher_temperature (to half) or "
                "training.learning_rate, augment less, or raise objective.freeze_last"
            )
        return None

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each parameter of the teacher with the student's; each keeps running statistics of its own."""
        for teacher, student in ((self.teacher_encoder, self.encoder), (self.teacher_head, self.head)):
            yield from zip(teacher.parameters(), student.parameters(), strict=True)

    @torch.no_grad()
    def _teach(self, audio: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Global crops [B, M, T] -> the teacher's distributions [B, M, K], their mean entropy (nats), diagnostics."""
        embeddings = embed_each(self.teacher_encoder, audio)
        logits = prototype_cosines(self.teacher_head(embeddings), self.teacher_head.prototypes())
        centred = (logits - self._offsets(logits)) / self.teacher_temperature()
        targets = centred.softmax(-1)
        self._last = logits.flatten(0, 1).mean(0, keepdim=True), targets.argmax(-1).flatten()
        entropy = (centred.logsumexp(-1) - (targets * centred).sum(-1)).mean()
        diagnostics = self.progress(embeddings) | {
            "live_prototypes": (self.wins > math.exp(-1)).float().mean(),  # won once within the window
            "centre_norm": self.centre.norm(),
            "teacher_momentum": torch.tensor(self.momentum()),
        }
        return targets, entropy, diagnostics

    def _offsets(self, logits: Tensor) -> Tensor:
        """[K], what is subtracted from the teacher's logits [B, M, K] so that no prototype wins too often."""
        if self.config.targets == "centred":
            return self.centre
        temperature = self.teacher_temperature()
        return temperature * sinkhorn_knopp_offsets(gather(logits.flatten(0, 1)) / temperature)

    def _regularised(
        self, distillation: Tensor, embeddings: Tensor, points: Tensor, prototypes: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with its regularisers, and its parts; embeddings [B, M, E] of the student's global crops."""
        total, parts = distillation, {"distillation": distillation.detach()}
        for name, weight, loss in (
            ("variance_covariance", self.config.variance_covariance_weight, variance_covariance_loss),
            ("koleo", self.config.koleo_weight, koleo_loss),
            ("dimension", self.config.dimension_weight, self._dimension_loss),
        ):
            if weight:
                value = torch.stack([loss(crops.float()) for crops in embeddings.unbind(1)]).mean()
                total, parts[name] = total + weight * value, value.detach()
        if self.config.me_max_weight:
            value = me_max_loss(points.flatten(0, 1), prototypes, self.config.student_temperature)
            total, parts["me_max"] = total + self.config.me_max_weight * value, value.detach()
        return total, parts

    def _dimension_loss(self, embeddings: Tensor) -> Tensor:
        return DIMENSION_LOSSES[self.config.dimension_loss](gather_with_gradient(embeddings))


def _check(config: Config, task: Task) -> None:
    """Raises UserError where a value, or a combination of values, makes no sense."""
    choices = {
        "head_norm": ("none", "batch"),
        "targets": ("centred", "sinkhorn"),
        "dimension_loss": tuple(DIMENSION_LOSSES),
    }
    for name, allowed in choices.items():
        require(getattr(config, name) in allowed, f"objective.{name}", getattr(config, name), " or ".join(allowed))
    for name, least in (
        ("prototypes", 2),
        ("hidden", 1),
        ("bottleneck", 1),
        ("variance_covariance_weight", 0),
        ("koleo_weight", 0),
        ("me_max_weight", 0),
        ("dimension_weight", 0),
    ):
        value = getattr(config, name)
        require(least <= value < math.inf, f"objective.{name}", value, f"at least {least}")
    for name in ("student_temperature", "teacher_temperature"):
        require(min(_values(config, name)) > 0, f"objective.{name}", getattr(config, name), "more than 0")
    for name in ("teacher_momentum", "centre_momentum", "temperature_warmup", "freeze_last"):
        good = all(0 <= value <= 1 for value in _values(config, name))
        require(good, f"objective.{name}", getattr(config, name), "between 0 and 1")
    _check_share(config, task)


def _check_share(config: Config, task: Task) -> None:
    """KoLeo and the variance-covariance loss compare the items of one process, dimension regularisation all items."""
    for name in ("koleo_weight", "variance_covariance_weight"):
        good = not getattr(config, name) or task.batch_size >= 2 * num_processes()
        wanted = f"at least {2 * num_processes()}, two per process: objective.{name} compares the items of one process"
        require(good, "training.batch_size", task.batch_size, wanted)
    good = not config.dimension_weight or task.batch_size >= 2
    require(good, "training.batch_size", task.batch_size, "at least 2 with objective.dimension_weight")


def _values(config: Config, name: str) -> tuple[float, ...]:
    value = getattr(config, name)
    return value if isinstance(value, tuple) else (value,)
