"""DINO on utterances: self-distillation with no labels (Caron et al. 2021, arXiv 2104.14294; Cho et al. 2022, arXiv
2208.05413).

A teacher, the moving average of its student, sees two long crops of an utterance; the student sees those and a few
short ones, each degraded by itself. Both tell how much a crop resembles each of many prototypes, and the student
learns to say of every crop what the teacher says of another one: what all crops of an utterance share is its speaker
(and its channel, which the degradations blur). Nothing is pushed apart. That not all crops get the same answer is due
to two habits of the teacher alone: its answers are sharp, which keeps them from being uniform, and centred, which
keeps one prototype from winning every time. `targets: sinkhorn` balances instead: all prototypes are used evenly over
each batch, as in SDPN (Chen et al. 2025, arXiv 2308.02774). No prototype can win every time then; what keeps the
answers from being uniform is again that they are sharp.

Shapes: B utterances in a batch, M long crops of each and N crops in all, embeddings of E numbers, D in the bottleneck
of the head, K prototypes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cslib.config import UserError, find
from cslib.datasets.augmentation import augment, reverberate, to_float
from cslib.datasets.views import ViewConfig, Views
from cslib.models.base import Separative
from cslib.objectives.base import Losses, Objective, Task, gather
from cslib.objectives.retrieval import Retrieval

WINDOW = 4  # teacher crops per prototype over which prototypes are counted as live; even use would reach 98 % of them
ROUNDS = 3  # of Sinkhorn-Knopp, as in SwAV (Caron et al. 2020) and SDPN
MOST_HELD_OUT = 0.05  # of the utterances
SETTLED = 0.2  # share of the training after which a loss of ln K is no longer the usual start


@dataclass
class Config:
    prototypes: int = 65536  # K
    hidden: int = 2048  # width of the two hidden layers of the head
    bottleneck: int = 256  # D, what is compared with the prototypes
    head_norm: str = "none"  # none | batch: normalisation after each hidden layer; batch with sgd
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.04)  # first, later; lower is sharper: try 0.02 on collapse
    temperature_warmup: float = 0.0  # share of the training over which the first becomes the later one
    targets: str = "centred"  # centred: logits less their running mean | sinkhorn: balanced over the global batch
    centre_momentum: float = 0.9  # of that mean of the teacher's logits; nearer to 1 for small batches
    teacher_momentum: tuple[float, float] = (0.996, 1.0)  # of its moving average, first to last; 0.99 on tiny sets
    freeze_last: float = 0.0143  # share of the training in which the student's prototypes stay as they are
    variance_covariance_weight: float = 0.0  # of variance and covariance of the student's embeddings; RDINO has 0.2
    koleo_weight: float = 0.0  # of keeping neighbours in the batch apart; SDPN has 0.1
    me_max_weight: float = 0.0  # of the student's using all prototypes evenly; SDPN has 1; a few thousand at most
    held_out: int = 0  # utterances, at most one in 20, that are not trained on and tell how far it is: `retrieval` in
    # the log; 0 = none
    held_out_every: int = 100  # steps between two measurements of that
    views: ViewConfig = field(default_factory=ViewConfig)


def build(config: Config, task: Task) -> Dino:
    return Dino(config, task)


class Dino(Objective):
    """Minimises the cross-entropy of teacher and student over all pairs of different crops; keeps the teacher."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        _check(config, task)
        self.config, self.steps = config, task.steps
        held_out = min(config.held_out, int(MOST_HELD_OUT * len(task.utterances)))
        self.retrieval = Retrieval(task.utterances, held_out, task.seed) if held_out > 1 else None
        self.dataset = Views(
            task.utterances,
            task.banks,
            config.views,
            task.augment,
            task.seed,
            task.labels,
            self.retrieval.rows if self.retrieval else None,
        )
        self.encoder = find("models", task.network.name).build(task.network)
        self.head = Head(self.encoder.embedding_size, config)
        self.teacher_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self.register_buffer("wins", torch.zeros(config.prototypes))

    def embedding_network(self) -> nn.Module:
        return self.teacher_encoder

    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.teacher_encoder]

    def forward(self, batch: dict[str, Tensor]) -> Losses:
        return self._distil(batch)[0]

    def _distil(self, batch: dict[str, Tensor]) -> tuple[Losses, Tensor, Tensor]:
        """The losses; the long crops [B, M, T] as the student heard them and the targets [B, M, K] made of them."""
        if self.step == 0:
            # A training that starts from another one's encoder finds it in the embedding network, the teacher.
            self.encoder.load_state_dict(self.teacher_encoder.state_dict())
        crops = [heard(batch, kind) for kind in ("global", "local") if kind in batch]
        clean = self.config.views.clean_teacher
        targets, entropy, diagnostics = self._teach(to_float(batch["global"]) if clean else crops[0])
        # Crops of each length go through the encoder by themselves: that is also what its batch norms see.
        embeddings = torch.cat([_each(self.encoder, audio) for audio in crops], dim=1)  # [B, N, E]
        points, prototypes = self.head(embeddings), self.head.prototypes(frozen=self._frozen())
        distillation = cross_entropy(points, prototypes, targets, self.config.student_temperature)
        total, parts = self._regularised(distillation, embeddings[:, : targets.shape[1]], points, prototypes)
        # Each target stands in equally many pairs, so its mean entropy is that of the pairs.
        diagnostics |= {"teacher_entropy": entropy, "kl": distillation.detach() - entropy}
        return Losses(total, parts, diagnostics), crops[0], targets

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the teacher towards the student, the centre towards the mean of the last logits."""
        for mine, its in self._pairs():
            mine.lerp_(its, 1 - self.momentum())
        mean, winners = (gather(value) for value in self._last)
        self.centre.lerp_(mean.mean(0), 1 - self.config.centre_momentum)
        self.wins *= math.exp(-len(winners) / (WINDOW * len(self.wins)))
        self.wins += torch.bincount(winners, minlength=len(self.wins))
        if self.retrieval and (self.step + 1) % self.config.held_out_every == 0:
            self.retrieval.measure(self.teacher_encoder)

    def momentum(self) -> float:
        """m(t) of the teacher: a half cosine from its first to its last value over the whole training."""
        first, last = self.config.teacher_momentum
        return last - (last - first) * (1 + math.cos(math.pi * self.step / self.steps)) / 2

    def teacher_temperature(self) -> float:
        first, later = self.config.teacher_temperature
        warmup = self.config.temperature_warmup * self.steps
        return first + (later - first) * (min(1.0, self.step / warmup) if warmup else 1.0)

    def warning(self, means: dict[str, float]) -> str | None:
        """The two ways to collapse: one prototype for all crops, and all prototypes alike for every crop."""
        most, entropy, loss = math.log(self.config.prototypes), means["teacher_entropy"], means["distillation"]
        # With even use a single prototype is each crop's own: nothing has collapsed.
        if entropy < 0.01 * most and self.config.targets == "centred":
            return (
                f"the teacher's entropy is {entropy:.3f} nats, a single prototype for each crop: raise "
                "objective.teacher_temperature, or lower training.learning_rate or objective.centre_momentum"
            )
        if entropy > 0.95 * most or (loss > 0.99 * most and self.step > SETTLED * self.steps):
            return (
                f"the loss is {loss:.2f} and the teacher's entropy {entropy:.2f}, near a mere guess among all "
                f"prototypes (ln K = {most:.2f}): lower objective.teacher_temperature (to half) or "
                "training.learning_rate, degrade less, or raise objective.freeze_last"
            )
        return None

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Parameters of the teacher beside the student's; running statistics are each one's own."""
        for mine, its in ((self.teacher_encoder, self.encoder), (self.teacher_head, self.head)):
            yield from zip(mine.parameters(), its.parameters(), strict=True)

    def _frozen(self) -> bool:
        return self.step < self.config.freeze_last * self.steps

    @torch.no_grad()
    def _teach(self, audio: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Long crops [B, M, T] -> the teacher's distributions [B, M, K], their mean entropy, its diagnostics."""
        embeddings = _each(self.teacher_encoder, audio)
        logits = cosines(self.teacher_head(embeddings), self.teacher_head.prototypes())
        centred = (logits - self._middle(logits)) / self.teacher_temperature()
        targets = centred.softmax(-1)
        self._last = logits.flatten(0, 1).mean(0, keepdim=True), targets.argmax(-1).flatten()
        entropy = (centred.logsumexp(-1) - (targets * centred).sum(-1)).mean()
        diagnostics = embedding_diagnostics(embeddings.float())
        diagnostics |= {
            "live_prototypes": (self.wins > math.exp(-1)).float().mean(),  # won once within the window
            "centre_norm": self.centre.norm(),
            "teacher_momentum": torch.tensor(self.momentum()),
        }
        if self.retrieval:
            diagnostics["retrieval"] = self.retrieval.share.clone()
        return targets, entropy, diagnostics

    def _middle(self, logits: Tensor) -> Tensor:
        """What is taken from the teacher's logits [B, M, K] lest prototypes win too often, [K]."""
        if self.config.targets == "centred":
            return self.centre
        temperature = self.teacher_temperature()
        return temperature * balance(gather(logits.flatten(0, 1)) / temperature)

    def _regularised(
        self, distillation: Tensor, embeddings: Tensor, points: Tensor, prototypes: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with what is to be added to it, and its parts; embeddings [B, M, E] of the student's long crops."""
        total, parts = distillation, {"distillation": distillation.detach()}
        for name, weight, term in (
            ("variance_covariance", self.config.variance_covariance_weight, variance_covariance),
            ("koleo", self.config.koleo_weight, koleo),
        ):
            if weight:
                value = torch.stack([term(crops.float()) for crops in embeddings.unbind(1)]).mean()
                total, parts[name] = total + weight * value, value.detach()
        if self.config.me_max_weight:
            value = me_max(points.flatten(0, 1), prototypes, self.config.student_temperature)
            total, parts["me_max"] = total + self.config.me_max_weight * value, value.detach()
        return total, parts


class Head(nn.Module):
    """Embeddings [..., E] -> unit vectors [..., D] in float32, to be compared with K prototypes of length 1.

    Three linear layers with GELU between them (Caron et al. 2021, appendix C).
    """

    def __init__(self, inputs: int, config: Config) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (config.hidden, config.hidden):
            layers.append(nn.Linear(inputs, width))
            if config.head_norm == "batch":
                layers.append(nn.BatchNorm1d(width))
            layers.append(nn.GELU())
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, config.bottleneck))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        # Weight normalisation whose magnitude is 1 and stays it: directions matter alone.
        self.directions = nn.Linear(config.bottleneck, config.prototypes, bias=False).weight

    def forward(self, embeddings: Tensor) -> Tensor:
        points = self.layers(embeddings.flatten(0, -2)).unflatten(0, embeddings.shape[:-1])
        return F.normalize(points.float(), dim=-1)

    def prototypes(self, frozen: bool = False) -> Tensor:
        """float32 [K, D], of length 1; without gradient when frozen."""
        return F.normalize(self.directions.detach() if frozen else self.directions, dim=-1)


@torch.no_grad()
def heard(batch: dict[str, Tensor], kind: str) -> Tensor:
    """The long or the short crops as the networks hear them, float [B, n, T]: channel, room, noise."""
    speech = reverberate(to_float(batch[kind]), batch[f"{kind}_channel"])
    return augment(speech, batch, f"{kind}_")


def _each(encoder: nn.Module, audio: Tensor) -> Tensor:
    """[B, n, T] -> [B, n, E]"""
    return encoder(audio.flatten(0, 1)).unflatten(0, audio.shape[:2])


def cosines(points: Tensor, prototypes: Tensor) -> Tensor:
    """[..., D], [K, D] -> [..., K] in float32: bfloat16 would tell 250 cosines apart, too few to be divided by 0.04."""
    with torch.autocast(points.device.type, enabled=False):
        return points @ prototypes.T


def cross_entropy(points: Tensor, prototypes: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Mean over the pairs of a long crop i and another crop j of  -sum_k P_t(k|i) log P_s(k|j)  (Caron et al., eq. 3).

    points      [B, N, D] student's unit vectors, long crops first; P_s is the softmax of their cosines / temperature
    prototypes  [K, D]
    targets     [B, M, K] P_t of the M long crops

    Cosines are linear in the points, so a target acts on them through its mean prototype alone, and only the sum
    log Z_j = log sum_k exp(cos_jk / temperature) needs all K of them:  -sum_k P_t log P_s = log Z_j - point_j .
    mean_i / temperature.  So the crops' cosines are held once, [B N, K], and nothing of size [pairs, B, K] is.
    """
    long, crops = targets.shape[1], points.shape[1]
    with torch.autocast(points.device.type, enabled=False):
        points = points / temperature
        log_sums = LogPartition.apply(points.flatten(0, 1), prototypes).unflatten(0, points.shape[:2])
        means = targets @ prototypes  # [B, M, D]
        every = means.sum(1, keepdim=True)
        wanted = torch.cat([every - means, every.expand(-1, crops - long, -1)], dim=1)  # the others' of each crop
        answers = torch.tensor([long - 1] * long + [long] * (crops - long), device=points.device)
        return (answers * log_sums - (wanted * points).sum(-1)).sum(1).mean() / (long * (crops - 1))


class LogPartition(torch.autograd.Function):
    """log sum_k exp(point . prototype_k): [n, D], [K, D] -> [n], with the exponentials in one matrix [n, K].

    torch.logsumexp holds four of them at its peak, which is 770 MiB at 768 crops and 65,536 prototypes.
    """

    @staticmethod
    def forward(ctx, points: Tensor, prototypes: Tensor) -> Tensor:
        exponentials = points @ prototypes.T
        largest = exponentials.amax(1, keepdim=True)
        sums = exponentials.sub_(largest).exp_().sum(1)
        ctx.save_for_backward(points, prototypes, exponentials, sums)
        return largest[:, 0] + sums.log()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        points, prototypes, exponentials, sums = ctx.saved_tensors
        weights = (gradient / sums)[:, None]
        of_prototypes = exponentials.T @ (weights * points) if ctx.needs_input_grad[1] else None
        return weights * (exponentials @ prototypes), of_prototypes


@torch.no_grad()
def balance(logits: Tensor, rounds: int = ROUNDS) -> Tensor:
    """What to take from logits [n, K] so that the softmax of every row gives all prototypes the same in total, [K].

    Sinkhorn and Knopp's rounds on the matrix of the rows' distributions: each prototype's column is scaled to n / K,
    then each row to 1. The scale of a column is all that a row has to know of the others. Of fewer rows than prototypes
    each has to take K / n of them: once the columns are even, the mean entropy is ln(K / n) or more.
    """
    logits = logits.float()
    offsets = torch.zeros_like(logits[0])
    for _ in range(rounds):
        offsets = offsets + (logits - offsets).log_softmax(1).logsumexp(0)
    return offsets


def me_max(points: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """ln K - the entropy of the mean distribution over all crops [n, D] of all processes; 0 = evenly used.

    The mean-entropy maximisation (me-max) of Assran et al. 2022 (Masked Siamese Networks), which SDPN has too.
    """
    mine = (cosines(points, prototypes) / temperature).softmax(-1).mean(0)
    # The value is that of all processes; the gradient of each is of its own share, as averaging them wants it.
    mean = mine + (gather(mine[None]).mean(0) - mine.detach())
    return math.log(len(mean)) - torch.special.entr(mean).sum()


@torch.no_grad()
def embedding_diagnostics(embeddings: Tensor) -> dict[str, Tensor]:
    """Signs of what the teacher's embeddings [B, M, E] of the long crops are worth, from this process's batch.

    embedding_std   of vectors of length 1: 1 evenly spread, 0 collapsed
    effective_rank  (sum of the covariance's eigenvalues)^2 / sum of their squares; at most B - 1 and E
    agreement       share of first crops whose nearest second crop is of the same item: label-free progress
    """
    first, second = F.normalize(embeddings, dim=-1)[:, :2].unbind(1)
    centred = embeddings[:, 0] - embeddings[:, 0].mean(0)
    with torch.autocast(embeddings.device.type, enabled=False):
        products = centred @ centred.T  # has the same eigenvalues as the covariance, but for a factor
        nearest = (first @ second.T).argmax(1)
    return {
        "embedding_std": first.std(0, correction=0).mean() * first.shape[-1] ** 0.5,
        "effective_rank": products.trace().square() / products.square().sum().clamp(min=1e-20),
        "agreement": (nearest == torch.arange(len(first), device=first.device)).float().mean(),
    }


def variance_covariance(embeddings: Tensor) -> Tensor:
    """10 x how far standard deviations are below 1, + squared covariances of different dimensions, of [B, E].

    The terms and their ratio are those of RDINO (Chen et al. 2023, arXiv 2211.04168), which has them on an expander of
    8,192 dimensions in the head; here they act on the embedding itself.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        centred = embeddings - embeddings.mean(0)
        covariance = centred.T @ centred / (len(centred) - 1)
    variance = covariance.diagonal()
    deviations = F.relu(1 - (variance + 1e-4).sqrt()).mean()
    return 10 * deviations + (covariance.square().sum() - variance.square().sum()) / len(covariance)


def koleo(embeddings: Tensor) -> Tensor:
    """-mean log distance of each unit vector to the nearest other one in [B, E] (Sablayrolles et al. 2019)."""
    unit = F.normalize(embeddings, dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
    return -((unit - unit[nearest]).square().sum(-1) + 1e-8).log().mean() / 2


def _check(config: Config, task: Task) -> None:
    """Raises UserError where a value, or the values together, will not do."""
    if isinstance(task.network, Separative):
        raise UserError(
            f"network.name: {task.network.name} separates mixtures; dino needs one embedding a crop, as of resnet"
        )
    if (config.views.positives == "utterance") != (task.labels is None):
        remedy = "give the file of labels with --labels" if task.labels is None else "leave --labels out"
        raise UserError(f"objective.views.positives is {config.views.positives!r}: {remedy}")
    shares = [*config.teacher_momentum, config.centre_momentum, config.temperature_warmup, config.freeze_last]
    demands = [
        (config.head_norm in ("none", "batch"), "head_norm is none or batch"),
        (config.targets in ("centred", "sinkhorn"), "targets is centred or sinkhorn"),
        (config.held_out >= 0 and config.held_out_every >= 1, "held_out is 0 or more, and held_out_every 1 or more"),
        (
            config.prototypes >= 2 and config.hidden >= 1 and config.bottleneck >= 1,
            "prototypes are 2 or more, and hidden and bottleneck 1 or more",
        ),
        (min(config.student_temperature, *config.teacher_temperature) > 0, "temperatures are more than 0"),
        (
            all(0 <= share <= 1 for share in shares),
            "teacher_momentum, centre_momentum, temperature_warmup and freeze_last are from 0 to 1",
        ),
        (
            min(config.variance_covariance_weight, config.koleo_weight, config.me_max_weight) >= 0,
            "variance_covariance_weight, me_max_weight and koleo_weight are 0 or more",
        ),
    ]
    for met, demand in demands:
        if not met:
            raise UserError(f"objective.{demand}; change the config")
