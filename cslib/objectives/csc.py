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

from cslib import config as configuration
from cslib.data.augment import degrade, level, mix, to_float
from cslib.data.mixtures import MixtureConfig, Mixtures
from cslib.models.identity_attention import IdentityAttention
from cslib.objectives import Losses, Objective, Task, gather, global_mean

LEVEL = -25.0  # dBFS that sources and mixtures are brought to: loudness shall not tell recordings apart


@dataclass
class Config:
    identity: str = "utterance"          # utterance (no labels) | cluster (pseudo-labels) | speaker (true)
    global_vector: str = "attention"     # attention | mean (bank, no attention) | table (trainable, no bank)
    bank: str = "swap"                   # swap: last pass over the cell; batch: this batch; fifo: the newest
    entries: int = 2                     # R, bank entries per identity; swap and batch: the views of a pass
    alpha: float = 10.0                  # start of the learnt inverse temperature; logits are 2 alpha cos
    separation_weight: float = 1.0       # weight of the separation loss, -SI-SNR in dB
    contrast_weight: tuple[float, float] = (1.0, 10.0)  # lambda, first to second over half the training
    table_margin: float = 0.0            # angular margin on the true identity; table + margin = AAM-softmax
    permutation: str = "separation"      # what matches streams to talkers: separation | contrast (no bound)
    mixtures: MixtureConfig = field(default_factory=MixtureConfig)


def build(config: Config, task: Task) -> Csc:
    return Csc(config, task)


class Csc(Objective):
    """Minimises  separation_weight * L_sep + lambda(t) * L_csl  over separative encoder and attention."""

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        _check(config, task)
        self.config, self.steps, self.batch_size = config, task.steps, task.batch_size
        config.mixtures.views = config.entries if config.bank != "fifo" else 1
        if config.global_vector == "table" or config.bank == "fifo":
            config.mixtures.cell = len(task.utterances)    # a row of the table or bank stays one identity's
        elif config.bank == "batch":
            config.mixtures.cell = task.batch_size * config.mixtures.streams // config.mixtures.views
            config.mixtures.passes = 1
        self.dataset = Mixtures(task.utterances, task.banks, config.mixtures, task.augment, task.batch_size,
                                task.seed, task.labels)
        self.encoder = configuration.find("models", task.network.name).build(task.network)
        size, identities = self.encoder.embedding_size, self.dataset.identities
        self.identity_entropy = None if task.labels is None else _entropy(task.labels)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(config.alpha)))
        if config.global_vector == "table":
            self.table = nn.Parameter(F.normalize(torch.randn(identities, size), dim=-1))
        else:
            self.attention = IdentityAttention(size, attention=config.global_vector == "attention")
            self.bank = IdentityBank(identities, config.entries, size, config.bank)

    def embedding_network(self) -> nn.Module:
        return self.encoder

    def forward(self, batch: dict[str, Tensor]) -> Losses:
        mixture, targets = self._mix(batch)
        streams, embeddings = self.encoder(mixture)
        si_snr = pairwise_si_snr(streams.float(), targets)                                    # [B, C, C]
        identity, origin = batch["identity"], batch["origin"]
        active = batch["active"] & (targets != 0).any(-1)    # digital silence has no SI-SNR and no talker
        if self.config.bank == "swap" and self.config.global_vector != "table":
            number = self.step * self.batch_size // self.dataset.per_pass
            self.bank.start_pass(number, fresh=self.dataset.first_pass_of_cell(number))
        agreement = si_snr
        if self.config.permutation == "contrast":
            agreement = self._agreement(si_snr, embeddings.detach(), identity, origin, active)
        order = best_permutation(agreement, active)                    # [B, C] stream of talker c
        si_snr = si_snr.gather(1, order[:, None])[:, 0]
        embeddings = embeddings.gather(1, order[..., None].expand_as(embeddings))
        self._last = embeddings.detach(), identity, origin, batch["view"], active & (identity >= 0)
        separation = -global_mean(si_snr, active)
        contrast, health = self._contrast(embeddings, identity, origin, active)
        with torch.no_grad():
            before = pairwise_si_snr(mixture[:, None], targets)[:, 0]
            spread = embeddings[active].float().std(0, correction=0).mean() * embeddings.shape[-1] ** 0.5
            health |= {"si_snr": -separation, "si_snr_improvement": global_mean(si_snr - before, active),
                       "embedding_std": spread}
        total = self.config.separation_weight * separation + self.contrast_weight() * contrast
        return Losses(total, {"separation": separation.detach(), "contrast": contrast.detach()}, health)

    @torch.no_grad()
    def after_step(self) -> None:
        """Put the step's embeddings of all processes into the bank."""
        if self.config.global_vector != "table" and self.config.bank != "batch":
            self._push_last()

    def contrast_weight(self) -> float:
        """lambda(t): linear from its first to its second value over the first half of the training."""
        first, second = self.config.contrast_weight
        return first + (second - first) * min(1.0, 2 * self.step / max(1, self.steps))

    @property
    def scale(self) -> Tensor:
        """2 alpha, kept at most 100."""
        return 2 * self.log_alpha.exp().clamp(max=50)

    @torch.no_grad()
    def _mix(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Degrade each source by itself, then mix: mixture [B, T] and the dry sources [B, C, T] in it."""
        dry = level(to_float(batch["sources"]), LEVEL)
        wet = degrade(dry, batch["noise"], batch["snr"], batch["room"])
        mixture, _ = mix(wet * batch["active"][..., None], batch["sir"])
        return level(mixture, LEVEL), dry

    def _agreement(self, si_snr: Tensor, embeddings: Tensor, identity: Tensor, origin: Tensor,
                   active: Tensor) -> Tensor:
        """Cosine of every stream's embedding with every talker's global vector [B, stream, talker].

        Where a talker has no global vector yet, the SI-SNR of the whole mixture decides.
        """
        streams = embeddings.shape[1]
        columns = [self._true_cosine(embeddings.flatten(0, 1), identity[:, c].repeat_interleave(streams),
                                     origin[:, c].repeat_interleave(streams)) for c in range(streams)]
        cosines, _, present = (torch.stack(column, dim=-1).unflatten(0, (-1, streams))
                               for column in zip(*columns, strict=True))
        known = (present[:, 0] & (identity >= 0) | ~active).all(1)
        return torch.where(known[:, None, None], cosines, si_snr)

    def _contrast(self, embeddings: Tensor, identity: Tensor, origin: Tensor, active: Tensor):
        """L_csl over the talkers that speak and whose identity was met before, and its signs of health."""
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
            # log N, N = identities that could be picked; of labels, which are not uniform, their entropy.
            surprise = rivals.log() if self.identity_entropy is None else self.identity_entropy
            health = {"mi_bound": global_mean(surprise - losses, counted),
                      "nearest_identity": global_mean((true >= largest - 1e-6).float(), counted),
                      "true_cosine": global_mean(true, counted),
                      "attention_entropy": global_mean(entropy, counted),
                      "alpha": self.scale / 2, "counted": counted.float().mean()}
        return contrast, health

    def _true_cosine(self, queries: Tensor, identity: Tensor,
                     origin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cosine [n] of each query to its own global vector, attention entropy, whether there is one."""
        own = identity.clamp(min=0)
        if self.config.global_vector == "table":
            cosines = (queries.float() * F.normalize(self.table, dim=-1)[own]).sum(-1)
            return cosines, torch.zeros_like(cosines), torch.ones_like(identity, dtype=torch.bool)
        allowed = self.bank.allowed(origin, own)
        cosines, entropy = self.attention.cosines_to(queries, self.bank.keys[own], allowed)
        # Until every identity of the cell has been seen, scores would be against those met first.
        return cosines, entropy, allowed.any(-1) & self.bank.ready

    def _partition(self, queries: Tensor, identity: Tensor,
                   origin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log sum_j exp(2 alpha cos) [n] over all identities, the largest cosine, how many there are."""
        if self.config.global_vector == "table":
            with torch.autocast(queries.device.type, enabled=False):
                cosines = queries.float() @ F.normalize(self.table, dim=-1).T
            return (torch.logsumexp(self.scale * cosines, dim=1), cosines.detach().amax(1),
                    torch.full_like(cosines[:, 0], cosines.shape[1]))
        hidden = self.bank.hidden(origin, identity.clamp(min=0))
        return self.attention.log_partition(queries, self.scale, self.bank.keys,
                                            lambda part: self.bank.allowed_all(origin, hidden, part))

    def _fill_from_batch(self) -> None:
        self.bank.clear()
        self._push_last()
        self.bank.ready = True

    def _push_last(self) -> None:
        gathered = [gather(values).flatten(0, 1) for values in self._last]
        known = gathered.pop()
        self.bank.push(*(values[known] for values in gathered))


class IdentityBank(nn.Module):
    """The last R embeddings of each identity and where each came from; all of it is in the checkpoint.

    With `swap`, a pass is written to a shadow while the loss reads the pass before: all entries that are read
    are then equally old, whichever identity they belong to. (Fresh entries for the true identity among stale
    ones give the label away through the drift of the network.)

    kind  swap | batch | fifo, see Config.bank
    """

    def __init__(self, identities: int, entries: int, size: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("keys", torch.zeros(identities, entries, size))
        self.register_buffer("origins", torch.full((identities, entries), -1))                # -1: empty
        self.register_buffer("pushed", torch.zeros(identities, dtype=torch.long))
        self.ready, self.pass_number = False, -1
        if kind == "swap":
            self.register_buffer("shadow_keys", torch.zeros_like(self.keys))
            self.register_buffer("shadow_origins", torch.full_like(self.origins, -1))

    def start_pass(self, number: int, fresh: bool) -> None:
        """Read what the pass before has written; a fresh cell begins with nothing to read. Idempotent."""
        if number == self.pass_number:
            return
        self.keys.copy_(self.shadow_keys)
        self.origins.copy_(self.shadow_origins)
        self.shadow_origins.fill_(-1)
        self.ready, self.pass_number = not fresh, number

    def get_extra_state(self) -> dict[str, int]:
        return {"ready": self.ready, "pass_number": self.pass_number}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.ready, self.pass_number = state["ready"], state["pass_number"]

    def clear(self) -> None:
        self.origins.fill_(-1)

    def push(self, keys: Tensor, identity: Tensor, origin: Tensor, view: Tensor) -> None:
        """keys [n, E] of `identity` [n]: to the place of their view (swap, batch) or the oldest (fifo)."""
        if self.kind != "fifo":
            self._write(keys, identity, origin, view)
            return
        order = torch.argsort(identity, stable=True)
        keys, identity, origin = keys[order], identity[order], origin[order]
        # The k-th of several entries of one identity in this step goes k places further.
        first = torch.searchsorted(identity, identity)
        place = (self.pushed[identity] + torch.arange(len(identity), device=identity.device) - first)
        self._write(keys, identity, origin, place % self.keys.shape[1])
        self.pushed += torch.bincount(identity, minlength=len(self.pushed))
        if not self.ready:
            self.ready = bool((self.origins >= 0).sum(1).min() >= min(2, self.keys.shape[1]))

    def _write(self, keys: Tensor, identity: Tensor, origin: Tensor, place: Tensor) -> None:
        """The later of two entries for one place stays; indexing leaves open which."""
        slot, order = torch.sort(identity * self.keys.shape[1] + place, stable=True)
        order = order[torch.cat([slot[1:] != slot[:-1], slot.new_ones(min(1, len(slot)), dtype=torch.bool)])]
        to_keys, to_origins = (self.shadow_keys, self.shadow_origins) if self.kind == "swap" else \
            (self.keys, self.origins)
        identity, place = identity[order], place[order]
        to_keys[identity, place], to_origins[identity, place] = keys[order].float(), origin[order]

    def allowed(self, origin: Tensor, identity: Tensor) -> Tensor:
        """bool [n, R]: the entries of `identity` [n] that are not empty and not from `origin` [n]."""
        return (self.origins[identity] >= 0) & (self.origins[identity] != origin[:, None])

    def hidden(self, origin: Tensor, identity: Tensor) -> Tensor:
        """bool [n, R]: the places where the query's `identity` [n] has entries from its `origin` [n]."""
        return self.origins[identity] == origin[:, None]

    def allowed_all(self, origin: Tensor, hidden: Tensor, part: slice) -> Tensor:
        """bool [n, N, R]: what a query may read of every identity in `part`.

        The places hidden from it for its own identity are hidden for all of them: were its own the only one
        with entries missing, attention could learn to tell it by that.
        """
        origins = self.origins[part]
        return (origins >= 0) & (origins != origin[:, None, None]) & ~hidden[:, None]


def pairwise_si_snr(estimates: Tensor, sources: Tensor) -> Tensor:
    """Scale-invariant SNR in dB [B, C', C] of every estimate [B, C', T] of every source [B, C, T].

    A silent source or estimate gives a finite, very low value. In float32, also under autocast: in bfloat16
    the dot products alone would leave about 20 dB at best.
    """
    estimates = estimates - estimates.mean(-1, keepdim=True)
    sources = sources - sources.mean(-1, keepdim=True)
    with torch.autocast(estimates.device.type, enabled=False):
        dot = estimates @ sources.transpose(1, 2)
    power = sources.square().sum(-1)[:, None] + 1e-8
    projected = dot.square() / power
    residual = (estimates.square().sum(-1)[..., None] - projected).clamp(min=0)
    return 10 * torch.log10((projected + 1e-8) / (residual + 1e-8))


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


def _entropy(labels: np.ndarray) -> float:
    """Entropy in nats of a random utterance's identity; lone utterances meet no key and are left out."""
    counts = np.bincount(labels[labels >= 0])
    share = counts[counts > 1] / max(1, counts[counts > 1].sum())
    return float(-(share * np.log(share)).sum())


def _check(config: Config, task: Task) -> None:
    choices = {"identity": ("utterance", "cluster", "speaker"),
               "global_vector": ("attention", "mean", "table"),
               "bank": ("swap", "batch", "fifo"), "permutation": ("separation", "contrast")}
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise configuration.UserError(f"objective.{name} is one of {', '.join(allowed)}, "
                                          f"not {getattr(config, name)!r}")
    if (config.identity == "utterance") != (task.labels is None):
        raise configuration.UserError(
            f"objective.identity is {config.identity!r}: "
            + ("give the file of labels with --labels" if task.labels is None else "leave --labels out"))
    if config.identity != "utterance" and config.bank != "fifo" and config.global_vector != "table":
        raise configuration.UserError(f"objective.bank: identity {config.identity!r} needs bank: fifo")
    _check_numbers(config, task)


def _check_numbers(config: Config, task: Task) -> None:
    if not hasattr(task.network, "streams"):
        raise configuration.UserError(f"network.name: {task.network.name} separates nothing; csc needs galr")
    mixtures, batch = config.mixtures, config.bank == "batch" and config.global_vector != "table"
    demands = [
        (config.alpha > 0, "alpha is more than 0"),
        (config.entries >= (2 if batch else 1), f"entries is {2 if batch else 1} or more"),
        (not batch or task.batch_size % config.entries == 0,
         f"entries divides training.batch_size {task.batch_size} when bank is batch"),
        (task.network.streams == mixtures.streams,
         f"mixtures.streams {mixtures.streams} equals network.streams {task.network.streams}"),
        (not batch or config.permutation == "separation",
         "permutation is separation when bank is batch: the batch's own keys are not there yet"),
        (config.bank != "swap" or config.global_vector == "table" or mixtures.passes > 1
         or mixtures.cell >= len(task.utterances),
         "mixtures.passes is 2 or more when bank is swap: the first pass over a cell only fills it")]
    for met, demand in demands:
        if not met:
            raise configuration.UserError(f"objective.{demand}; change the config")
