"""Contrastive Separative Coding: learn who speaks by separating talkers (Wang et al. 2021, arXiv 2103.00816).

A separative encoder turns a mixture into streams and one embedding per stream. Each embedding asks every
identity's bank of embeddings, made under other interference, for its global vector; the loss is the
cross-entropy of picking the right identity among all of them: nothing is sampled as a negative. With uniform
identities, log N minus that loss bounds the mutual information between embedding and identity from below.

The paper's equations were not available: egs/voxceleb/README.md, "Differences from the paper", says what is
reconstructed.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib.config import UserError, find
from cslib.datasets.augmentation import augment, mix_at_sir, reverberate, to_float
from cslib.datasets.mixtures import MixtureConfig, Mixtures
from cslib.models.base import Separative
from cslib.models.layers.levels import at_level
from cslib.objectives.base import Losses, Objective, Task, gather, global_mean
from cslib.objectives.csc.identity_attention import IdentityAttention
from cslib.objectives.csc.identity_bank import IdentityBank

LEVEL = -25.0  # dBFS that sources and mixtures are brought to: loudness shall not tell recordings apart
MAX_ALPHA = 50.0  # two identities 0.1 apart in cosine then differ by a factor of e^10


@dataclass
class Config:
    identity: str = "utterance"  # utterance (no labels) | cluster (pseudo-labels) | speaker (true)
    global_vector: str = "attention"  # attention | mean (bank, no attention) | table (trainable, no bank)
    bank: str = "swap"  # swap: last pass over the cell; batch: this batch; fifo: the newest
    entries: int = 2  # R, bank entries of each identity and its crops per pass; fifo: one crop
    cell: int = 65536  # swap only: identities compared with each other, or all if there are fewer
    passes: int = 4  # swap only: passes over a cell before the next one, if more than one
    alpha: float = 10.0  # start of the learnt inverse temperature, at most 50; logits are 2 alpha cos
    separation_weight: float = 1.0  # weight of the separation loss, -SI-SNR in dB
    contrast_weight: tuple[float, float] = (1.0, 10.0)  # lambda, first to second over half the training
    table_margin: float = 0.0  # angular margin on the true identity; table + margin = AAM-softmax
    permutation: str = "separation"  # what matches streams to talkers: separation | contrast (no bound)
    mixtures: MixtureConfig = field(default_factory=MixtureConfig)


def build(config: Config, task: Task) -> Csc:
    return Csc(config, task)


class Csc(Objective):
    """Minimises  separation_weight * L_sep + lambda(t) * L_csl  over separative encoder and attention."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        _check(config, task)
        self.config, self.steps, self.batch_size = config, task.steps, task.batch_size
        self.dataset = _mixtures(config, task)
        if config.bank == "swap" and config.global_vector != "table":
            _check_steps(task, self.dataset.per_pass // task.batch_size)
        self.encoder = find("models", task.network.name).build(task.network)
        size, identities = self.encoder.embedding_size, self.dataset.identities
        counts = None if task.labels is None else torch.from_numpy(_counts(task.labels))
        self.register_buffer("label_counts", counts, persistent=False)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(config.alpha)))
        if config.global_vector == "table":
            self.table = nn.Parameter(F.normalize(torch.randn(identities, size), dim=-1))
        else:
            self.attention = IdentityAttention(size, attention=config.global_vector == "attention")
            self.bank = IdentityBank(identities, config.entries, size, config.bank)

    @staticmethod
    def label_column(config: Config) -> str:
        return "speaker" if config.identity == "speaker" else "label"

    def embedding_network(self) -> nn.Module:
        return self.encoder

    def forward(self, batch: dict[str, Tensor]) -> Losses:
        mixture, targets = self._mix(batch)
        streams, embeddings = self.encoder(mixture)
        if streams.requires_grad:
            streams.register_hook(without_outliers)
        si_snr = pairwise_si_snr(streams.float(), targets)  # [B, C, C]
        identity, origin = batch["identity"], batch["origin"]
        active = batch["active"] & (targets != 0).any(-1)  # digital silence has no SI-SNR and no talker
        if self.config.bank == "swap" and self.config.global_vector != "table":
            number = self.step * self.batch_size // self.dataset.per_pass
            self.bank.start_pass(number, fresh=self.dataset.first_pass_of_cell(number))
        agreement = si_snr
        if self.config.permutation == "contrast":
            agreement = self._agreement(si_snr, embeddings.detach(), identity, origin, active)
        order = best_permutation(agreement, active)  # [B, C] stream of talker c
        si_snr = si_snr.gather(1, order[:, None])[:, 0]
        embeddings = embeddings.gather(1, order[..., None].expand_as(embeddings))
        self._last = embeddings.detach(), identity, origin, batch["view"], active & (identity >= 0)
        separation = -global_mean(si_snr, active)
        contrast, diagnostics = self._contrast(embeddings, identity, origin, active)
        with torch.no_grad():
            before = pairwise_si_snr(mixture[:, None], targets)[:, 0]
            spread = embeddings[active].float().std(0, correction=0).mean() * embeddings.shape[-1] ** 0.5
            diagnostics |= {
                "si_snr": -separation,
                "si_snr_improvement": global_mean(si_snr - before, active),
                "embedding_std": spread,
            }
        total = self.config.separation_weight * separation + self.contrast_weight() * contrast
        return Losses(total, {"separation": separation.detach(), "contrast": contrast.detach()}, diagnostics)

    @torch.no_grad()
    def after_step(self) -> None:
        """Put the step's embeddings of all processes into the bank, and keep alpha in its range."""
        # Here, not where it is used: beyond a clamp the gradient is zero, and alpha could not come back.
        self.log_alpha.clamp_(max=math.log(MAX_ALPHA))
        if self.config.global_vector != "table" and self.config.bank != "batch":
            self._push_last()

    def contrast_weight(self) -> float:
        """lambda(t): linear from its first to its second value over the first half of the training."""
        first, second = self.config.contrast_weight
        return first + (second - first) * min(1.0, 2 * self.step / max(1, self.steps))

    @property
    def scale(self) -> Tensor:
        """2 alpha: what cosines are multiplied by."""
        return 2 * self.log_alpha.exp()

    @torch.no_grad()
    def _mix(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Degrade each source by itself, then mix: mixture [B, T] and the dry sources [B, C, T] in it."""
        dry = at_level(reverberate(to_float(batch["sources"]), batch["channel"]), LEVEL)
        wet = augment(dry, batch)
        mixture, _ = mix_at_sir(wet * batch["active"][..., None], batch["sir"])
        return at_level(mixture, LEVEL), dry

    def _agreement(
        self, si_snr: Tensor, embeddings: Tensor, identity: Tensor, origin: Tensor, active: Tensor
    ) -> Tensor:
        """Cosine of every stream's embedding with every talker's global vector [B, stream, talker].

        Where a talker has no global vector yet, the SI-SNR of the whole mixture decides.
        """
        streams = embeddings.shape[1]
        columns = [
            self._true_cosine(
                embeddings.flatten(0, 1),
                identity[:, c].repeat_interleave(streams),
                origin[:, c].repeat_interleave(streams),
            )
            for c in range(streams)
        ]
        cosines, _, present = (
            torch.stack(column, dim=-1).unflatten(0, (-1, streams)) for column in zip(*columns, strict=True)
        )
        known = (present[:, 0] & (identity >= 0) | ~active).all(1)
        return torch.where(known[:, None, None], cosines, si_snr)

    def _contrast(self, embeddings: Tensor, identity: Tensor, origin: Tensor, active: Tensor):
        """L_csl over the talkers that speak and whose identity was met before, and its diagnostics."""
        queries, identity, origin = embeddings.flatten(0, 1), identity.flatten(), origin.flatten()
        counted = active.flatten() & (identity >= 0)
        if self.config.bank == "batch" and self.config.global_vector != "table":
            self._fill_from_batch()
        true, entropy, present = self._true_cosine(queries, identity, origin)
        counted = counted & present
        log_sum, largest, rivals = self._partition(queries, identity, origin)
        losses = log_sum - self.scale * true
        if self.config.table_margin:
            losses = _with_margin(true, log_sum, self.scale, self.config.table_margin)
        contrast = global_mean(losses, counted)
        with torch.no_grad():
            diagnostics = {
                "mi_bound": global_mean(self._surprise(rivals) - losses, counted),
                "nearest_identity": global_mean((true >= largest - 1e-6).float(), counted),
                "true_cosine": global_mean(true, counted),
                "attention_entropy": global_mean(entropy, counted),
                "alpha": self.scale / 2,
                "counted": counted.float().mean(),
            }
        return contrast, diagnostics

    def _true_cosine(self, queries: Tensor, identity: Tensor, origin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cosine [n] of each query to its own global vector, attention entropy, whether there is one."""
        own = identity.clamp(min=0)
        if self.config.global_vector == "table":
            cosines = (queries.float() * F.normalize(self.table, dim=-1)[own]).sum(-1)
            return cosines, torch.zeros_like(cosines), torch.ones_like(identity, dtype=torch.bool)
        allowed = self.bank.allowed(origin, own)
        cosines, entropy = self.attention.cosines_to(queries, self.bank.keys[own], allowed)
        return cosines, entropy, allowed.any(-1) & self.bank.ready

    def _partition(self, queries: Tensor, identity: Tensor, origin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log sum_j exp(2 alpha cos) [n] over all identities, the largest cosine, how many there are."""
        if self.config.global_vector == "table":
            with torch.autocast(queries.device.type, enabled=False):
                cosines = queries.float() @ F.normalize(self.table, dim=-1).T
            return (
                torch.logsumexp(self.scale * cosines, dim=1),
                cosines.detach().amax(1),
                torch.full_like(cosines[:, 0], cosines.shape[1]),
            )
        hidden = self.bank.hidden(origin, identity.clamp(min=0))
        return self.attention.log_partition(
            queries, self.scale, self.bank.keys, lambda part: self.bank.allowed_all(origin, hidden, part)
        )

    def _surprise(self, rivals: Tensor) -> Tensor:
        """log N, N = `rivals` [n] that could be picked; of labels, which are not uniform, the entropy of those."""
        if self.label_counts is None:
            return rivals.log()
        counts = self.label_counts
        if self.config.global_vector != "table":
            counts = counts * self.bank.enough()
        return torch.special.entr(counts / counts.sum().clamp(min=1)).sum().float()

    def _fill_from_batch(self) -> None:
        self.bank.clear()
        self._push_last()
        self.bank.ready = True

    def _push_last(self) -> None:
        gathered = [gather(values).flatten(0, 1) for values in self._last]
        known = gathered.pop()
        self.bank.push(*(values[known] for values in gathered))


def pairwise_si_snr(estimates: Tensor, sources: Tensor) -> Tensor:
    """Scale-invariant SNR in dB [B, C', C] of every estimate [B, C', T] of every source [B, C, T].

    A silent source or estimate gives a finite, very low value. In float64, also under autocast: the residual is a
    difference of nearly equal sums, which in float32 is off by several dB at 60 dB, and by how many depends on the
    processor; in bfloat16 the dot products alone would leave about 20 dB at best.
    """
    estimates, sources = estimates.double(), sources.double()
    estimates = estimates - estimates.mean(-1, keepdim=True)
    sources = sources - sources.mean(-1, keepdim=True)
    with torch.autocast(estimates.device.type, enabled=False):
        dot = estimates @ sources.transpose(1, 2)
    power = sources.square().sum(-1)[:, None] + 1e-8
    projected = dot.square() / power
    residual = (estimates.square().sum(-1)[..., None] - projected).clamp(min=0)
    return (10 * torch.log10((projected + 1e-8) / (residual + 1e-8))).float()


def without_outliers(gradient: Tensor) -> Tensor:
    """Gradient of the streams [B, C, T], none of them longer than ten times the median stream's.

    The SI-SNR of a faint stream has a gradient of one over its amplitude: where the whole gradient is clipped to
    a norm, a single such stream would take it all, step after step.
    """
    norms = gradient.norm(dim=-1, keepdim=True)
    present = norms[norms > 0]
    return gradient * (10 * present.median() / norms.clamp(min=1e-20)).clamp(max=1) if len(present) else gradient


def best_permutation(agreement: Tensor, active: Tensor) -> Tensor:
    """agreement [B, stream, talker], active bool [B, C] -> the stream of each talker [B, C], best in total.

    Silent talkers take what is left.
    """
    streams = agreement.shape[1]
    orders = torch.tensor(list(itertools.permutations(range(streams))), device=agreement.device)
    chosen = agreement.detach()[:, orders, torch.arange(streams, device=agreement.device)]
    # orders [C!, talker] hold streams; chosen [B, C!, talker]
    return orders[(chosen * active[:, None]).sum(-1).argmax(1)]


def _with_margin(true: Tensor, log_sum: Tensor, scale: Tensor, margin: float) -> Tensor:
    """Cross-entropy [n] when the angle to the true identity is widened by `margin` radians (AAM-softmax)."""
    clamped = true.clamp(-1 + 1e-6, 1 - 1e-6)
    widened = torch.cos(torch.acos(clamped) + margin)
    # log(sum - exp(true) + exp(widened)) without leaving the logarithm.
    others = log_sum + torch.log1p(-torch.exp(scale * true - log_sum).clamp(max=1 - 1e-6))
    return torch.logaddexp(others, scale * widened) - scale * widened


def _counts(labels: np.ndarray) -> np.ndarray:
    """Utterances of each identity, float64 [N]; 0 in place of 1, as a lone utterance meets no key of its own."""
    counts = np.bincount(labels[labels >= 0])
    return np.where(counts > 1, counts, 0.0)


def _mixtures(config: Config, task: Task) -> Mixtures:
    """The data; those are drawn together that are compared with each other."""
    views = 1 if config.bank == "fifo" else config.entries
    cell, passes = config.cell, config.passes
    if config.global_vector == "table" or config.bank == "fifo":
        cell = len(task.utterances)  # a row of the table or bank stays one identity's
    elif config.bank == "batch":
        cell, passes = task.batch_size * config.mixtures.streams // views, 1
    return Mixtures(
        task.utterances,
        task.banks,
        config.mixtures,
        task.augment,
        task.batch_size,
        task.seed,
        views=views,
        cell=cell,
        passes=passes,
        labels=task.labels,
    )


def _check(config: Config, task: Task) -> None:
    choices = {
        "identity": ("utterance", "cluster", "speaker"),
        "global_vector": ("attention", "mean", "table"),
        "bank": ("swap", "batch", "fifo"),
        "permutation": ("separation", "contrast"),
    }
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise UserError(f"objective.{name} is one of {', '.join(allowed)}, not {getattr(config, name)!r}")
    if (config.identity == "utterance") != (task.labels is None):
        remedy = "give the file of labels with --labels" if task.labels is None else "leave --labels out"
        raise UserError(f"objective.identity is {config.identity!r}: {remedy}")
    if config.identity != "utterance" and config.bank != "fifo" and config.global_vector != "table":
        raise UserError(f"objective.bank: identity {config.identity!r} needs bank: fifo")
    _check_numbers(config, task)


def _check_numbers(config: Config, task: Task) -> None:
    if not isinstance(task.network, Separative):
        raise UserError(f"network.name: {task.network.name} separates nothing; csc needs galr")
    kind = None if config.global_vector == "table" else config.bank
    mixtures, batch, swap = config.mixtures, kind == "batch", kind == "swap"
    demands = [
        (0 < config.alpha <= MAX_ALPHA, f"alpha is more than 0 and at most {MAX_ALPHA:g}"),
        (config.entries >= (2 if batch else 1), f"entries is {2 if batch else 1} or more"),
        (
            not batch or task.batch_size % config.entries == 0,
            f"entries divides training.batch_size {task.batch_size} when bank is batch",
        ),
        (
            task.network.streams == mixtures.streams,
            f"mixtures.streams {mixtures.streams} equals network.streams {task.network.streams}",
        ),
        (
            not batch or config.permutation == "separation",
            "permutation is separation when bank is batch: the batch's own keys are not there yet",
        ),
        (
            not swap or config.cell >= mixtures.streams,
            f"cell holds the {mixtures.streams} talkers of a mixture at least",
        ),
        (
            not swap or config.passes > 1 or config.cell >= len(task.utterances),
            "passes is 2 or more when bank is swap: the first pass over a cell only fills it",
        ),
    ]
    for met, demand in demands:
        if not met:
            raise UserError(f"objective.{demand}; change the config")


def _check_steps(task: Task, filling: int) -> None:
    if task.steps <= filling:
        raise UserError(
            f"training.steps: {task.steps} will not do, as the first {filling} contrast nothing and only "
            f"fill the bank; give {filling + 1} or more, or a smaller objective.cell"
        )
