"""Contrastive Separative Coding (CSC): learn who speaks by separating speakers (Wang et al. 2021, arXiv 2103.00816).

A separative encoder turns a mixture into streams and one embedding per stream. Each embedding attends to every
identity's bank of embeddings, made under other interference, and gathers its global vector; the loss is the
cross-entropy of picking the right identity among all of them: no negatives are sampled. With uniform identities, log N
minus that loss is a lower bound of the mutual information between embedding and identity.

The paper's equations were not available: this is a reconstruction. Its abstract is certain about the separation, the
attention with the current embedding as query, and the probabilistic loss without negative sampling. Inferred are the
encoder of GALR blocks, SI-SNR as the separation loss, that every identity is queried, what the bank holds and when it
is read, and the logits 2 alpha cos.

What is minimised is in loss.py, the attention in identity_attention.py, the bank in identity_bank.py. Shapes: B
mixtures, C streams and speakers in each, T samples, n = B C queries, N identities, R bank entries of each, E size of an
embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib.config import UserError, find, require
from cslib.datasets.augmentation import augment, mix_at_sir, reverberate, to_float
from cslib.datasets.mixtures import MixtureConfig, Mixtures
from cslib.models.base import Separative
from cslib.models.layers.levels import at_level
from cslib.objectives.base import Losses, Objective, Task, gather, global_mean
from cslib.objectives.csc.identity_attention import IdentityAttention
from cslib.objectives.csc.identity_bank import IdentityBank
from cslib.objectives.csc.loss import best_permutation, contrastive_losses, pairwise_si_snr, without_outliers

MAX_ALPHA = 50.0  # two identities 0.1 apart in cosine then differ by a factor of e^10


@dataclass
class Config:
    identity: str = "utterance"  # utterance (no labels) | cluster (pseudo-labels) | speaker (true)
    global_vector: str = "attention"  # attention | mean (bank, no attention) | table (trainable, no bank)
    bank: str = "swap"  # swap: last pass over the cell | batch: this batch | fifo: the newest entries
    entries: int = 2  # R, bank entries of each identity and its crops per pass; fifo: one crop per pass
    cell: int = 65536  # swap only: identities compared with each other; all of them if there are fewer
    passes: int = 4  # swap only: passes over a cell before the next one, if there is more than one cell
    alpha: float = 10.0  # start of the learnt inverse temperature, at most 50; logits are 2 alpha cos
    separation_weight: float = 1.0  # of the separation loss, -SI-SNR in dB
    contrast_weight: tuple[float, float] = (1.0, 10.0)  # lambda: first to second value over half the training
    table_margin: float = 0.0  # radians, angular margin on the true identity; table + margin = AAM-softmax
    permutation: str = "separation"  # what assigns streams to speakers: separation | contrast (then no MI bound)
    mixtures: MixtureConfig = field(default_factory=MixtureConfig)  # what is mixed


def build(config: Config, task: Task) -> Csc:
    return Csc(config, task)


class Csc(Objective):
    """Minimises  separation_weight * L_sep + lambda(t) * L_csl  over separative encoder and attention.

    It keeps a bank of embeddings of each identity, or with `global_vector: table` trains a table of their vectors.
    Whether it is well shows in si_snr_improvement (dB), mi_bound (nats), nearest_identity (accuracy among all
    identities), attention_entropy, embedding_std (0 = collapsed) and counted (share of streams that are contrasted).

    Raises UserError for options that contradict each other or the data, and for a network that separates nothing.
    """

    dataset: Mixtures
    bank: IdentityBank
    label_counts: Tensor | None  # float64 [N]

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
        active = batch["active"] & (targets != 0).any(-1)  # digital silence has no SI-SNR and no speaker
        if self.config.bank == "swap" and self.config.global_vector != "table":
            number = self.step * self.batch_size // self.dataset.per_pass
            self.bank.start_pass(number, fresh=self.dataset.first_pass_of_cell(number))
        agreement = si_snr
        if self.config.permutation == "contrast":
            agreement = self._agreement(si_snr, embeddings.detach(), identity, origin, active)
        order = best_permutation(agreement, active)  # [B, C] stream of speaker c
        si_snr = si_snr.gather(1, order[:, None])[:, 0]
        embeddings = embeddings.gather(1, order[..., None].expand_as(embeddings))
        self._last = embeddings.detach(), identity, origin, batch["view"], active & (identity >= 0)
        separation = -global_mean(si_snr, active)
        contrast, diagnostics = self._contrast(embeddings, identity, origin, active)
        with torch.no_grad():
            before = pairwise_si_snr(mixture[:, None], targets)[:, 0]
            embedding_std = embeddings[active].float().std(0, correction=0).mean() * embeddings.shape[-1] ** 0.5
            diagnostics |= {
                "si_snr": -separation,
                "si_snr_improvement": global_mean(si_snr - before, active),
                "embedding_std": embedding_std,
            }
        total = self.config.separation_weight * separation + self.contrast_weight() * contrast
        return Losses(total, {"separation": separation.detach(), "contrast": contrast.detach()}, diagnostics)

    @torch.no_grad()
    def after_step(self) -> None:
        """Push the step's embeddings of all processes to the bank, and keep alpha in its range."""
        # Not where alpha is used: beyond a clamp the gradient is zero, and alpha could not come back.
        self.log_alpha.clamp_(max=math.log(MAX_ALPHA))
        if self.config.global_vector != "table" and self.config.bank != "batch":
            self._push_last()

    def contrast_weight(self) -> float:
        """lambda(t): linear from its first to its second value over the first half of the training."""
        first, second = self.config.contrast_weight
        return first + (second - first) * min(1.0, 2 * self.step / max(1, self.steps))

    @property
    def scale(self) -> Tensor:
        """2 alpha, the factor of the cosines."""
        return 2 * self.log_alpha.exp()

    @torch.no_grad()
    def _mix(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Augment each source independently, then mix: mixture [B, T] and its dry sources [B, C, T].

        Sources and mixtures are brought to one level: loudness must not identify recordings.
        """
        dry = at_level(reverberate(to_float(batch["sources"]), batch["channel"]))
        wet = augment(dry, batch)
        mixture, _ = mix_at_sir(wet * batch["active"][..., None], batch["sir"])
        return at_level(mixture), dry

    def _agreement(
        self, si_snr: Tensor, embeddings: Tensor, identity: Tensor, origin: Tensor, active: Tensor
    ) -> Tensor:
        """Cosine of every stream's embedding with every speaker's global vector [B, stream, speaker].

        Where a speaker has no global vector yet, the SI-SNR of the whole mixture decides.
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

    def _contrast(
        self, embeddings: Tensor, identity: Tensor, origin: Tensor, active: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_csl over active speakers whose identity was met before, and its diagnostics."""
        queries, identity, origin = embeddings.flatten(0, 1), identity.flatten(), origin.flatten()
        counted = active.flatten() & (identity >= 0)
        if self.config.bank == "batch" and self.config.global_vector != "table":
            self._fill_from_batch()
        true, entropy, present = self._true_cosine(queries, identity, origin)
        counted = counted & present
        log_sum, largest, rivals = self._partition(queries, identity, origin)
        losses = contrastive_losses(true, log_sum, self.scale, self.config.table_margin)
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
        """Cosine [n] of each query with its own global vector, attention entropy [n], whether there is one [n]."""
        own = identity.clamp(min=0)
        if self.config.global_vector == "table":
            cosines = (queries.float() * F.normalize(self.table, dim=-1)[own]).sum(-1)
            return cosines, torch.zeros_like(cosines), torch.ones_like(identity, dtype=torch.bool)
        allowed = self.bank.allowed(origin, own)
        cosines, entropy = self.attention.cosines_to(queries, self.bank.keys[own], allowed)
        return cosines, entropy, allowed.any(-1) & self.bank.ready

    def _partition(self, queries: Tensor, identity: Tensor, origin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log sum_j exp(2 alpha cos) [n] over all identities, the largest cosine [n], how many there are [n]."""
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
        """Entropy of the true identity: log N of the N = `rivals` [n] candidates; of labels, that of their counts."""
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


def _counts(labels: np.ndarray) -> np.ndarray:
    """Utterances of each identity, float64 [N]; 0 in place of 1: a single utterance meets no key of its own."""
    counts = np.bincount(labels[labels >= 0])
    return np.where(counts > 1, counts, 0.0)


def _mixtures(config: Config, task: Task) -> Mixtures:
    """The data. Identities that are compared with each other are drawn together."""
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
    """Raises UserError where a value, or a combination of values, makes no sense."""
    choices = {
        "identity": ("utterance", "cluster", "speaker"),
        "global_vector": ("attention", "mean", "table"),
        "bank": ("swap", "batch", "fifo"),
        "permutation": ("separation", "contrast"),
    }
    for name, allowed in choices.items():
        require(getattr(config, name) in allowed, f"objective.{name}", getattr(config, name), " or ".join(allowed))
    if (config.identity == "utterance") != (task.labels is None):
        remedy = "give the file of labels with --labels" if task.labels is None else "leave --labels out"
        raise UserError(f"objective.identity is {config.identity!r}: {remedy}")
    if config.identity != "utterance" and config.bank != "fifo" and config.global_vector != "table":
        raise UserError(f"objective.bank is {config.bank}; identity {config.identity!r} needs bank: fifo")
    name = task.network.name
    if not isinstance(task.network, Separative):
        raise UserError(f"network.name is {name}, which separates nothing; csc needs galr")
    streams = config.mixtures.streams
    require(
        task.network.streams == streams,
        "objective.mixtures.streams",
        streams,
        f"network.streams, {task.network.streams}",
    )
    require(0 < config.alpha <= MAX_ALPHA, "objective.alpha", config.alpha, f"more than 0 and at most {MAX_ALPHA:g}")
    require(config.entries >= 1, "objective.entries", config.entries, "at least 1")
    if config.global_vector != "table":
        _check_bank(config, task)


def _check_bank(config: Config, task: Task) -> None:
    if config.bank == "batch":
        good = config.entries >= 2 and task.batch_size % config.entries == 0
        wanted = f"at least 2 and divide training.batch_size {task.batch_size} when bank is batch"
        require(good, "objective.entries", config.entries, wanted)
        wanted = "separation when bank is batch: the batch's own keys do not exist yet"
        require(config.permutation == "separation", "objective.permutation", config.permutation, wanted)
    if config.bank == "swap":
        streams = config.mixtures.streams
        require(config.cell >= streams, "objective.cell", config.cell, f"at least {streams}, the speakers of a mixture")
        good = config.passes > 1 or config.cell >= len(task.utterances)
        wanted = "at least 2 when bank is swap: the first pass over a cell only fills it"
        require(good, "objective.passes", config.passes, wanted)


def _check_steps(task: Task, filling: int) -> None:
    wanted = f"at least {filling + 1}: the first {filling} only fill the bank; or give a smaller objective.cell"
    require(task.steps > filling, "training.steps", task.steps, wanted)
