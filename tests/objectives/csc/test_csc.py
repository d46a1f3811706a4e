"""Contrastive Separative Coding: no label leaks into the bound; every part equals its slow transcription."""

import copy
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import default_collate

from cslib.config import UserError
from cslib.data.banks import BankWriter, open_banks
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig
from cslib.datasets.mixtures import MixtureConfig
from cslib.models import galr
from cslib.objectives.base import Task, global_mean
from cslib.objectives.csc.identity_attention import IdentityAttention
from cslib.objectives.csc.loss import best_permutation, pairwise_si_snr, without_outliers
from cslib.objectives.csc.objective import Config, build

COUNT, SIZE = 24, 16
LABELS = np.array([0] * 10 + [1] * 5 + [2] * 4 + [3] * 3 + [-1] * 2)  # far from uniform
PAIRS = np.array([*range(11)] * 2 + [11, -1])  # and one on its own


class Network(galr.Config):
    name = "galr"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """24 utterances of noise, a noise bank and an RIR bank."""
    root, rng, entries = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0), []
    for index in range(COUNT):
        path = root / f"u{index:02d}.wav"
        soundfile.write(path, rng.integers(-3000, 3000, 2000).astype(np.int16), 16000)
        entries.append(Entry(path.stem, path, 2000))
    write_set(root / "set", entries)
    with BankWriter(root / "banks/noise", np.int16) as writer:
        writer.add(rng.integers(-3000, 3000, 5000).astype(np.int16))
    with BankWriter(root / "banks/rirs", np.float32) as writer:
        writer.add(np.array([1.0, 0.0, 0.5, 0.2], np.float32))
    return root


def network(**values):
    return Network(
        **{
            "filters": 8,
            "features": 8,
            "hidden": 6,
            "segment": 8,
            "low_dim": 3,
            "heads": 2,
            "dropout": 0.0,
            "shared_blocks": 1,
            "speech_blocks": 1,
            "speaker_blocks": 1,
            "embedding_size": SIZE,
            **values,
        }
    )


def objective(corpus, labels=None, batch_size=4, steps=100, streams=2, frames=800, mixtures=None, **values):
    torch.manual_seed(0)
    task = Task(
        Utterances.open(corpus / "set"),
        open_banks(corpus / "banks"),
        AugmentConfig(max_rir_seconds=0.01),
        batch_size,
        0,
        steps,
        network(streams=streams),
        labels,
    )
    config = MixtureConfig(**{"crop_seconds": frames / 16000, "streams": streams, **(mixtures or {})})
    identity = "utterance" if labels is None else "cluster"
    return build(Config(**{"identity": identity, "mixtures": config, **values}), task)


def batch_of(csc, step=0):
    first = step * csc.batch_size
    return default_collate([csc.dataset[index] for index in range(first, first + csc.batch_size)])


def take_steps(csc, count, start=0):
    """The loop's calls without an optimiser: gives the losses of each step."""
    found = []
    for step in range(start, start + count):
        csc.step = step
        found.append(csc(batch_of(csc, step)))
        csc.after_step()
    return found


# --- The label must not leak


class Uninformed(nn.Module):
    """Embeddings that know the mixture and the time, as networks do, but nothing of the talkers."""

    embedding_size, common, rate = 32, 3.0, 0.2

    def __init__(self):
        super().__init__()
        self.generator, self.calls = torch.Generator().manual_seed(1), 0

    def draw(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def forward(self, mixture):
        embeddings, self.calls = self.draw(len(mixture), 2, 32), self.calls + 1
        embeddings[..., 0] += self.common * math.cos(self.rate * self.calls)  # drifts while training goes on
        embeddings[..., 1] += self.common * math.sin(self.rate * self.calls)
        embeddings[..., 2] += 2 * self.draw(len(mixture), 1)  # what a mixture's streams share
        return self.draw(len(mixture), 2, mixture.shape[1]), F.normalize(embeddings, dim=-1)


@pytest.fixture
def uninformed(monkeypatch, corpus):
    def make(**values):
        monkeypatch.setattr(galr, "build", lambda config: Uninformed())
        settings = {"batch_size": 12, "frames": 32, **values}
        return objective(corpus, **settings)

    return make


def turn_attention(csc, sharpness):
    """Attend to the entries most like the query, or least (below 0), instead of what was drawn at first."""
    if hasattr(csc, "attention") and csc.attention.attention:
        csc.attention.query.weight.data = sharpness * torch.eye(32)
        csc.attention.key.weight.data = torch.eye(32)


@torch.no_grad()
def largest_bound(csc, steps=40):
    """Mean of mi_bound over the steps, for the worst of several attentions and temperatures."""
    bounds = {}
    for step in range(steps):
        csc.step = step
        batch = batch_of(csc, step)
        csc(batch)
        embeddings, identity, origin, _, _ = csc._last
        for sharpness, alpha in itertools.product((0.0, 30.0, -300.0), (0.5, 2.0, 10.0)):
            turn_attention(csc, sharpness)
            csc.log_alpha.fill_(math.log(alpha))
            _, diagnostics = csc._contrast(embeddings, identity, origin, batch["active"])
            if diagnostics["counted"] > 0:
                bounds.setdefault((sharpness, alpha), []).append(diagnostics["mi_bound"].item())
        csc.after_step()
    assert len(bounds[0.0, 2.0]) > steps / 3
    return max(sum(found) / len(found) for found in bounds.values())


@pytest.mark.parametrize(
    "values",
    [
        {"bank": "swap"},
        {"bank": "swap", "cell": 12, "passes": 4},
        {"bank": "swap", "global_vector": "mean"},
        {"bank": "swap", "mixtures": {"single_p": 1.0}},
        {"bank": "batch"},
        {"bank": "batch", "entries": 3},
        {"bank": "batch", "mixtures": {"single_p": 0.5}},
        {"bank": "fifo"},
        {"global_vector": "table"},
        {"bank": "fifo", "labels": LABELS, "entries": 2},
        {"bank": "fifo", "labels": LABELS, "entries": 8},
        {"bank": "fifo", "labels": PAIRS, "batch_size": 4},
        {"bank": "fifo", "labels": PAIRS, "entries": 4},
        {"global_vector": "table", "labels": LABELS},
    ],
)
def test_label_leak_zero_information_embeddings_bound_not_positive(uninformed, values):
    assert largest_bound(uninformed(**values)) <= 0.02


def test_the_leak_test_sees_attention_on_the_true_side_only(uninformed, monkeypatch):
    csc = uninformed(bank="swap", entries=4)
    plain = IdentityAttention(32, attention=False)
    monkeypatch.setattr(csc.attention, "log_partition", plain.log_partition)
    assert largest_bound(csc) > 0.1


def test_the_leak_test_sees_fresh_entries_among_stale_ones(uninformed, monkeypatch):
    csc = uninformed(bank="swap", global_vector="mean")
    csc.encoder.rate = 0.5

    def with_own_embedding_of_this_step(queries, entries, allowed):
        fresh = torch.roll(queries, 2, 0)[:, None].expand_as(entries)  # of another talker altogether
        return IdentityAttention.cosines_to(csc.attention, queries, fresh, allowed)

    monkeypatch.setattr(csc.attention, "cosines_to", with_own_embedding_of_this_step)
    assert largest_bound(csc) > 0.1


def test_the_leak_test_sees_entries_missing_from_the_true_identity_only(uninformed, monkeypatch):
    csc = uninformed(bank="batch")
    monkeypatch.setattr(csc.bank, "hidden", lambda origin, identity: torch.zeros(len(origin), 2, dtype=torch.bool))
    csc.encoder.common = 0.0
    assert largest_bound(csc) > 0.05


def test_knowing_how_frequent_identities_are_is_no_information(uninformed):
    csc = uninformed(labels=LABELS, global_vector="table", alpha=2.0)
    known = LABELS[LABELS >= 0]
    cosines = torch.tensor(np.log(np.bincount(known) / len(known)) / 4 + 0.5, dtype=torch.float32)
    csc.table.data = torch.stack([cosines, (1 - cosines.square()).sqrt()] + [torch.zeros(4)] * 30, dim=1)
    embeddings, identity = torch.eye(32)[:1].expand(22, 1, 32), torch.tensor(known)[:, None]
    _, diagnostics = csc._contrast(embeddings, identity, identity, identity >= 0)
    assert diagnostics["mi_bound"].item() == pytest.approx(0, abs=1e-5)  # log 4 would give 0.11


@torch.no_grad()
def test_identities_that_are_in_no_comparison_yet_are_no_information(uninformed):
    csc = uninformed(labels=np.arange(24) // 2, bank="fifo")
    embeddings, origin = torch.eye(32)[:1].expand(24, 32), torch.arange(24)
    csc.bank.push(embeddings[:22], origin[:22] // 2, origin[:22], origin[:22])  # 11 of 12 identities
    shape = embeddings.view(12, 2, 32), (origin // 2).view(12, 2), origin.view(12, 2)
    _, diagnostics = csc._contrast(*shape, torch.ones(12, 2, dtype=torch.bool))
    assert diagnostics["counted"].item() == pytest.approx(22 / 24)
    assert diagnostics["mi_bound"].item() == pytest.approx(0, abs=1e-5)  # log 12 would give 0.09


def test_embeddings_that_name_the_talker_reach_the_ceiling(uninformed):
    csc = uninformed(bank="swap", mixtures={"single_p": 0.0})
    names = torch.eye(32)
    csc.encoder.forward = lambda mixture: (torch.zeros(len(mixture), 2, 32), names[csc.current])
    for step in range(8):
        csc.step, batch = step, batch_of(csc, step)
        csc.current = batch["identity"]
        losses = csc(batch)
        csc.after_step()
    assert losses.diagnostics["mi_bound"] == pytest.approx(math.log(COUNT), abs=0.01)
    assert losses.diagnostics["nearest_identity"] == 1 and losses.diagnostics["true_cosine"] == pytest.approx(
        1, abs=1e-5
    )


def test_bound_is_nought_and_not_the_ceiling_while_nothing_is_compared(uninformed):
    losses = take_steps(uninformed(bank="swap"), 1)[0]
    assert losses.diagnostics["counted"] == 0 and losses.diagnostics["mi_bound"] == 0 and losses.parts["contrast"] == 0


@pytest.mark.parametrize(
    "identities, alpha, floor",
    [
        (251, 1, 3.55),
        (251, 2, 1.72),
        (251, 5, 0.0113),
        (1172, 1, 5.07),
        (1172, 2, 3.11),
        (1172, 5, 0.052),
        (5994, 1, 6.70),
        (5994, 2, 4.71),
        (5994, 5, 0.241),
        (65536, 1, 9.09),
        (65536, 5, 1.38),
        (65536, 10, 0.0001),
    ],
)
def test_loss_floor_of_orthogonal_identities_is_that_of_the_temperature(identities, alpha, floor):
    attention = IdentityAttention(2, attention=False, chunk=5000)
    bank = torch.tensor([[[0.0, 1.0]]]).repeat(identities, 1, 1)
    bank[17] = torch.tensor([[1.0, 0.0]])
    allowed = torch.ones(1, identities, 1, dtype=torch.bool)
    query, scale = torch.tensor([[1.0, 0.0]]), torch.tensor(2.0 * alpha)
    log_sum, largest, _ = attention.log_partition(query, scale, bank, lambda part: allowed[:, part])
    loss = (log_sum - scale * largest).item()
    assert loss == pytest.approx(math.log1p((identities - 1) * math.exp(-2 * alpha)), abs=1e-5)
    assert loss == pytest.approx(floor, rel=0.02, abs=1e-4)


def test_a_constant_per_query_changes_neither_loss_nor_gradient():
    cosines = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    beta = torch.randn(5, 1, generator=torch.Generator().manual_seed(1)).requires_grad_()
    target = torch.arange(5)
    distance = F.cross_entropy(-(10 * (2 - 2 * cosines) + beta), target)  # the distance critic
    torch.testing.assert_close(distance, F.cross_entropy(20 * cosines, target))
    assert torch.autograd.grad(distance, beta)[0].abs().max() < 1e-6


# --- The bank


@pytest.mark.parametrize(
    "values",
    [
        {"bank": "swap"},
        {"bank": "swap", "cell": 6, "passes": 3},
        {"bank": "batch", "batch_size": 8},
        {"bank": "fifo", "labels": LABELS, "entries": 4},
    ],
)
def test_no_query_reads_an_entry_from_its_own_origin(uninformed, monkeypatch, values):
    csc, seen = uninformed(**{"batch_size": 4, **values}), []
    allowed, allowed_all = csc.bank.allowed, csc.bank.allowed_all

    def checked(origin, identity):
        found = allowed(origin, identity)
        assert not (found & (csc.bank.origins[identity] == origin[:, None])).any()
        return found

    def checked_all(origin, hidden, part):
        found = allowed_all(origin, hidden, part)
        assert not (found & (csc.bank.origins[part] == origin[:, None, None])).any()
        assert not (found & (csc.bank.origins[part] < 0)).any()
        seen.append(found.any().item())
        return found

    monkeypatch.setattr(csc.bank, "allowed", checked)
    monkeypatch.setattr(csc.bank, "allowed_all", checked_all)
    take_steps(csc, 30)
    assert any(seen)


def test_a_cluster_of_one_utterance_does_not_delay_the_contrast_of_the_others(uninformed):
    csc = uninformed(bank="fifo", labels=PAIRS, mixtures={"single_p": 0.0})
    assert csc.dataset.per_pass == csc.batch_size  # a step is a pass: the pairs are complete after one
    counted = [losses.diagnostics["counted"].item() for losses in take_steps(csc, 2)]
    assert counted == [0, pytest.approx(22 / 24)]


@pytest.mark.parametrize(
    "values",
    [{"bank": "batch", "batch_size": 8, "entries": 4}, {"bank": "fifo", "labels": LABELS, "entries": 6}],
)
def test_a_query_reads_as_many_entries_of_its_own_identity_as_of_any_other(uninformed, values):
    csc = uninformed(**{"batch_size": 8, "mixtures": {"single_p": 0.0}, **values})
    take_steps(csc, 30)
    _, identity, origin, _, known = (value.flatten(0, 1) for value in csc._last)
    hidden = csc.bank.hidden(origin, identity.clamp(min=0))
    counts = csc.bank.allowed_all(origin, hidden, slice(None)).sum(-1)[known]  # [n, N]
    assert hidden[known].any() and (counts == counts[:, :1]).all() and counts.min() >= 1


@torch.no_grad()
def test_swap_bank_reads_what_the_pass_before_has_written_and_nothing_else(uninformed):
    csc = uninformed(bank="swap", batch_size=6, cell=12, passes=3, mixtures={"single_p": 0.0})
    steps_per_pass = csc.dataset.per_pass // 6
    written, before = {}, {}
    for step in range(7 * steps_per_pass):
        number, first = divmod(step, steps_per_pass)
        if first == 0:
            written, before = {}, written
        csc.step = step
        losses = csc(batch_of(csc, step))
        if number % 3 == 0:  # the cell is new
            assert losses.diagnostics["counted"] == 0
        else:
            assert losses.diagnostics["counted"] == 1
            for (identity, view), (key, origin) in before.items():
                assert torch.equal(csc.bank.keys[identity, view], key)
                assert csc.bank.origins[identity, view] == origin
                assert origin // csc.dataset.per_pass == number - 1  # all of the same age
        embeddings, identity, origin, view, _ = csc._last
        for where in itertools.product(range(6), range(2)):
            written[identity[where].item(), view[where].item()] = (
                embeddings[where].clone(),
                origin[where].item(),
            )
        csc.after_step()


def test_who_was_silent_in_the_last_pass_leaves_no_older_entry_in_the_swap_bank(uninformed):
    csc = uninformed(bank="swap", batch_size=6, mixtures={"single_p": 0.7})
    steps_per_pass = csc.dataset.per_pass // 6
    missing = 0
    for number in range(1, 5):
        take_steps(csc, steps_per_pass + (number == 1), steps_per_pass * (number - 1) + (number > 1))
        origins = csc.bank.origins
        missing += (origins < 0).sum()
        assert (origins[origins >= 0] // csc.dataset.per_pass == number - 1).all()
    assert missing > 10


def test_batch_bank_compares_with_the_other_views_of_the_same_batch_only(uninformed):
    csc = uninformed(bank="batch", batch_size=8, cell=3, mixtures={"single_p": 0.0})
    assert all(losses.diagnostics["counted"] == 1 for losses in take_steps(csc, 5))
    assert csc.bank.keys.shape == (8, 2, 32) and (csc.bank.origins // 8 == 4).all()
    embeddings, identity, origin, view, _ = (value.flatten(0, 1) for value in csc._last)
    _, diagnostics = csc._contrast(csc._last[0], csc._last[1], csc._last[2], torch.ones(8, 2, dtype=torch.bool))
    expected = []
    for query, own, turn in zip(embeddings, identity, view, strict=True):
        other = embeddings[view != turn]
        names = identity[view != turn]
        expected.append(F.cross_entropy(csc.scale.detach() * other @ query, (names == own).nonzero()[0, 0]))
    assert diagnostics["mi_bound"].item() == pytest.approx(math.log(8) - torch.stack(expected).mean().item(), abs=1e-4)


@pytest.mark.parametrize(
    "values",
    [
        {"bank": "swap", "cell": 12, "passes": 3},
        {"bank": "fifo", "labels": LABELS, "entries": 3},
    ],
)
def test_a_bank_restored_in_the_middle_of_a_pass_goes_on_as_if_nothing_had_happened(corpus, tmp_path, values):
    csc = objective(corpus, batch_size=4, **values)
    with torch.no_grad():
        take_steps(csc, 11)
        torch.save(csc.state_dict(), tmp_path / "state.pt")
        fresh = objective(corpus, batch_size=4, **values)
        fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        for one, other in zip(take_steps(csc, 6, 11), take_steps(fresh, 6, 11), strict=True):
            assert one.total == other.total and one.diagnostics["mi_bound"] == other.diagnostics["mi_bound"]
    assert one.diagnostics["counted"] > 0


# --- The losses


def scalar_si_snr(estimate, source):
    estimate = [value - sum(estimate) / len(estimate) for value in estimate]
    source = [value - sum(source) / len(source) for value in source]
    gain = sum(e * s for e, s in zip(estimate, source, strict=True)) / sum(s * s for s in source)
    target = [gain * s for s in source]
    noise = [e - t for e, t in zip(estimate, target, strict=True)]
    return 10 * math.log10(sum(t * t for t in target) / sum(n * n for n in noise))


def test_si_snr_equals_its_definition_number_by_number():
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(2, 3, 200, generator=generator, dtype=torch.float64) + 0.2
    estimates = torch.randn(2, 3, 200, generator=generator, dtype=torch.float64)
    estimates[:, 0] += 5 * sources[:, 1]
    found = pairwise_si_snr(estimates, sources)
    for b, stream, talker in itertools.product(range(2), range(3), range(3)):
        expected = scalar_si_snr(estimates[b, stream].tolist(), sources[b, talker].tolist())
        assert found[b, stream, talker].item() == pytest.approx(expected, abs=1e-3)
    torch.testing.assert_close(pairwise_si_snr(-7 * estimates + 1, sources), found, atol=1e-3, rtol=0)


def test_si_snr_of_a_good_separation_is_not_cut_short_by_autocast():
    sources = 0.1 * torch.randn(1, 2, 4000, generator=torch.Generator().manual_seed(0))
    estimates = sources + 1e-4 * torch.randn(1, 2, 4000, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        found = pairwise_si_snr(estimates, sources)[0].diagonal()
    assert (found - 60).abs().max() < 1


@pytest.mark.parametrize("silent", [(0,), (1,), (0, 1)])
def test_si_snr_of_silence_is_finite_and_so_is_its_gradient(silent):
    estimates, sources = torch.randn(1, 2, 50), torch.randn(1, 2, 50)
    if 0 in silent:
        estimates[:, 0] = 0
    if 1 in silent:
        sources[:, 0] = 0
    estimates.requires_grad_()
    found = pairwise_si_snr(estimates, sources)
    found.sum().backward()
    assert found.isfinite().all() and estimates.grad.isfinite().all()


def test_gradient_of_a_faint_stream_does_not_outweigh_all_others():
    sources = torch.randn(8, 2, 400, generator=torch.Generator().manual_seed(0))
    loudness = torch.ones(8, 2, 1)
    loudness[3, 1] = 1e-4
    streams = (loudness * (sources + sources.flip(1))).requires_grad_()
    streams.register_hook(without_outliers)
    pairwise_si_snr(streams, sources).diagonal(dim1=1, dim2=2).sum().backward()
    norms = streams.grad.norm(dim=-1)
    assert norms[3, 1].item() == pytest.approx(10 * norms.median().item(), rel=0.1)
    others = norms[loudness[..., 0] == 1]
    assert others.max() < 2 * others.min()
    assert not without_outliers(torch.zeros(2, 2, 5)).any()


def test_permutation_equals_brute_force_over_the_talkers_that_speak():
    agreement = torch.randn(200, 3, 3, generator=torch.Generator().manual_seed(0))
    active = torch.rand(200, 3, generator=torch.Generator().manual_seed(1)) > 0.3
    for found, scores, speaks in zip(best_permutation(agreement, active), agreement, active, strict=True):
        totals = {
            order: sum(scores[stream, talker].item() for talker, stream in enumerate(order) if speaks[talker])
            for order in itertools.permutations(range(3))
        }
        assert sorted(found.tolist()) == [0, 1, 2]
        assert totals[tuple(found.tolist())] == pytest.approx(max(totals.values()), abs=1e-5)


class Swapped(nn.Module):
    """The same network with its streams, and the embeddings with them, in another order."""

    def __init__(self, encoder, order):
        super().__init__()
        self.encoder, self.order, self.embedding_size = encoder, order, encoder.embedding_size

    def forward(self, mixture):
        streams, embeddings = self.encoder(mixture)
        return streams[:, self.order], embeddings[:, self.order]


@pytest.mark.parametrize("streams, order", [(2, [1, 0]), (3, [2, 0, 1])])
def test_one_permutation_serves_both_heads(corpus, streams, order):
    plain = objective(corpus, streams=streams, bank="fifo", labels=LABELS, mixtures={"single_p": 0.0})
    swapped = copy.deepcopy(plain)
    swapped.encoder = Swapped(swapped.encoder, order)
    for one, other in zip(take_steps(plain, 12), take_steps(swapped, 12), strict=True):
        torch.testing.assert_close(one.total, other.total)
    assert one.diagnostics["counted"] > 0.5
    torch.testing.assert_close(plain._last[0], swapped._last[0])  # embedding c belongs to talker c


def test_with_the_order_of_the_talkers_their_embeddings_change_places(corpus):
    csc = objective(corpus, bank="fifo", labels=LABELS, mixtures={"single_p": 0.0})
    batch = batch_of(csc)
    batch["noise"].zero_()
    batch["sir"].zero_()
    turned = {
        name: value.flip(1) if torch.is_tensor(value) and value.ndim > 1 and name != "sir" else value
        for name, value in batch.items()
    }
    with torch.no_grad():
        csc(batch)
        first = csc._last
        csc(turned)
    torch.testing.assert_close(csc._last[0], first[0].flip(1), atol=1e-4, rtol=1e-3)
    assert torch.equal(csc._last[1], first[1].flip(1))


def test_streams_may_be_matched_by_who_speaks_instead_of_what_is_heard(corpus):
    csc = objective(corpus, bank="fifo", labels=LABELS, entries=3, permutation="contrast", mixtures={"single_p": 0.0})
    reference = objective(corpus, bank="fifo", labels=LABELS, entries=3, mixtures={"single_p": 0.0})
    with torch.no_grad():
        one, other = take_steps(csc, 1)[0], take_steps(reference, 1)[0]
        assert not csc.bank.ready and one.total == other.total  # no global vectors yet: SI-SNR
        take_steps(csc, 14, 1)
        assert csc.bank.ready
        csc.step, batch = 15, batch_of(csc, 15)
        _, embeddings = csc.encoder(csc._mix(batch)[0])
        csc(batch)
        for chosen, found, identity, origin in zip(
            csc._last[0], embeddings, batch["identity"], batch["origin"], strict=True
        ):
            if (identity < 0).any():
                continue
            totals = {
                order: csc._true_cosine(found[list(order)], identity, origin)[0].sum().item()
                for order in ((0, 1), (1, 0))
            }
            assert torch.equal(chosen, found[list(max(totals, key=totals.get))])


def test_a_silent_talker_counts_in_neither_loss(corpus):
    csc = objective(corpus, bank="fifo", labels=LABELS, entries=3, mixtures={"single_p": 1.0})
    with torch.no_grad():
        take_steps(csc, 60)
        assert csc.bank.ready
        batch = batch_of(csc, 60)
        assert batch["active"].tolist() == [[True, False]] * 4
        one = csc(batch)
        batch["sources"][:, 1] = torch.randint(-3000, 3000, batch["sources"][:, 1].shape)
        batch["identity"][:, 1] = (batch["identity"][:, 1] + 1) % 4
        other = csc(batch)
    assert one.total == other.total and torch.isfinite(one.total)
    assert one.diagnostics["counted"] == pytest.approx((batch["identity"][:, 0] >= 0).sum().item() / 8)
    assert csc._last[-1][:, 1].sum() == 0  # nor does it enter the bank


def test_digital_silence_counts_as_a_talker_that_does_not_speak(corpus):
    csc = objective(corpus, bank="batch", batch_size=4, mixtures={"single_p": 0.0})
    batch = batch_of(csc)
    batch["sources"][0, 1], batch["sources"][1, 0] = 0, 0
    losses = csc(batch)
    losses.total.backward()
    assert losses.total.isfinite() and all(value.isfinite() for value in losses.diagnostics.values())
    assert csc._last[-1].tolist() == [[True, False], [False, True], [True, True], [True, True]]
    assert losses.diagnostics["si_snr"] > -50  # silence would be far below


def gradient_of(csc, part):
    """Names of the parameters that a part of the loss moves, after the banks have been filled."""
    with torch.no_grad():
        take_steps(csc, 12)
    csc.step = 12
    csc.config.separation_weight = float(part == "separation")
    csc.config.contrast_weight = (float(part == "contrast"),) * 2
    csc.zero_grad()
    losses = csc(batch_of(csc, 12))
    assert losses.diagnostics["counted"] > 0
    losses.total.backward()
    return {name for name, p in csc.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


@pytest.mark.parametrize(
    "values",
    [{"bank": "swap"}, {"bank": "batch", "entries": 4}, {"bank": "fifo", "labels": LABELS, "entries": 3}],
)
def test_both_losses_train_the_trunk_and_each_its_own_branch(corpus, values):
    found = {part: gradient_of(objective(corpus, batch_size=8, **values), part) for part in ("separation", "contrast")}

    def trained_by(prefix):
        names = {name for name, _ in objective(corpus, **values).named_parameters() if name.startswith(prefix)}
        assert names
        return {part for part, moved in found.items() if names <= moved}, {
            part for part, moved in found.items() if names & moved
        }

    for trunk in ("encoder.filterbank.analysis", "encoder.bottleneck", "encoder.shared"):
        assert trained_by(trunk)[0] == {"separation", "contrast"}
    for branch in ("encoder.speech", "encoder.gate", "encoder.to_mask", "encoder.filterbank.synthesis"):
        assert trained_by(branch) == ({"separation"}, {"separation"})
    for branch in ("encoder.speaker", "encoder.pool", "log_alpha", "attention.query", "attention.key"):
        assert trained_by(branch) == ({"contrast"}, {"contrast"})


@pytest.mark.parametrize("values", [{"bank": "swap"}, {"bank": "fifo", "labels": LABELS}, {"global_vector": "table"}])
def test_a_batch_of_one_mixture_works(corpus, values):
    csc = objective(corpus, batch_size=1, mixtures={"single_p": 0.5}, **values)
    with torch.no_grad():
        for losses in take_steps(csc, 50):
            assert losses.total.isfinite() and all(value.isfinite() for value in losses.diagnostics.values())
    assert losses.diagnostics["counted"] > 0
    csc(batch_of(csc, 50)).total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in csc.parameters())


@pytest.mark.parametrize("values", [{"bank": "batch", "entries": 4}, {"global_vector": "table", "table_margin": 0.2}])
def test_bfloat16_changes_the_losses_little_and_leaves_them_finite(corpus, values):
    csc = objective(corpus, batch_size=8, **values)
    batch = batch_of(csc)
    expected = csc(batch)
    with torch.autocast("cpu", torch.bfloat16):
        losses = csc(batch)
    losses.total.backward()
    assert all(p.grad.isfinite().all() for p in csc.parameters() if p.grad is not None)
    assert losses.total.dtype == torch.float32
    assert losses.parts["separation"].item() == pytest.approx(expected.parts["separation"].item(), abs=0.5)
    assert losses.parts["contrast"].item() == pytest.approx(expected.parts["contrast"].item(), abs=0.2)


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_table_with_a_margin_is_aam_softmax(corpus, margin):
    csc = objective(corpus, labels=LABELS, global_vector="table", table_margin=margin, alpha=8.0)
    embeddings = F.normalize(torch.randn(4, 2, SIZE, generator=torch.Generator().manual_seed(0)), dim=-1)
    identity = torch.tensor([[0, 1], [2, 3], [3, -1], [1, 2]])
    active = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    found, _ = csc._contrast(embeddings, identity, torch.arange(8).view(4, 2), active)
    expected = []
    for v, y in zip(embeddings[active & (identity >= 0)], identity[active & (identity >= 0)], strict=True):
        angles = torch.arccos(F.normalize(csc.table, dim=-1) @ v)
        widened = angles + margin * F.one_hot(y, 4)
        expected.append(F.cross_entropy(16 * torch.cos(widened), y))
    torch.testing.assert_close(found, torch.stack(expected).mean(), atol=1e-4, rtol=1e-4)


def test_weight_of_the_contrast_rises_over_the_first_half(corpus):
    csc, found = objective(corpus, steps=200, contrast_weight=(1.0, 5.0)), []
    for step in (0, 25, 50, 100, 199):
        csc.step = step
        found.append(csc.contrast_weight())
    assert found == pytest.approx([1, 2, 3, 5, 5])


def test_total_is_the_weighted_sum_of_its_parts(corpus):
    csc = objective(corpus, bank="batch", separation_weight=0.5, contrast_weight=(3.0, 3.0))
    losses = csc(batch_of(csc))
    torch.testing.assert_close(losses.total, 0.5 * losses.parts["separation"] + 3 * losses.parts["contrast"])


def test_inverse_temperature_is_learnt_held_at_its_limit_and_can_come_back(corpus):
    csc = objective(corpus, bank="batch", alpha=7.0)
    assert csc.scale.item() == pytest.approx(14)
    csc.log_alpha.data += 10
    take_steps(csc, 1)
    assert csc.scale.item() == pytest.approx(100)
    optimiser = torch.optim.SGD([csc.log_alpha], lr=1e-3)
    csc(batch_of(csc)).total.backward()  # an untrained network: too sure of itself at this alpha
    assert csc.log_alpha.grad > 1
    optimiser.step()
    csc.after_step()
    assert csc.scale.item() < 99.9


# --- What cannot work is said in a sentence


@pytest.mark.parametrize(
    "values, message",
    [
        ({"identity": "word"}, "objective.identity is word; it must be utterance or cluster or speaker"),
        ({"bank": "lifo"}, "objective.bank is lifo; it must be swap or batch or fifo"),
        ({"global_vector": "median"}, "objective.global_vector is median; it must be"),
        ({"permutation": "loudness"}, "objective.permutation is loudness; it must be"),
        ({"identity": "cluster"}, "give the file of labels with --labels"),
        ({"labels": LABELS, "identity": "utterance"}, "leave --labels out"),
        ({"labels": LABELS, "bank": "swap"}, "needs bank: fifo"),
        ({"labels": LABELS, "bank": "batch"}, "needs bank: fifo"),
        ({"alpha": 0.0}, "objective.alpha is 0.0; it must be more than 0"),
        ({"alpha": 51.0}, "objective.alpha is 51.0; it must be more than 0 and at most 50"),
        ({"bank": "swap", "cell": 1}, "objective.cell is 1; it must be at least 2, the speakers of a mixture"),
        ({"bank": "swap", "steps": 6}, "training.steps is 6; it must be at least 7: the first 6 only fill the bank"),
        ({"bank": "batch", "entries": 1}, "objective.entries is 1; it must be at least 2"),
        (
            {"bank": "batch", "entries": 3},
            "objective.entries is 3; it must be at least 2 and divide training.batch_size 4",
        ),
        (
            {"bank": "batch", "permutation": "contrast"},
            "permutation is contrast; it must be separation when bank is batch",
        ),
        ({"streams": 3, "mixtures": {"streams": 2}}, "objective.mixtures.streams is 2; it must be network.streams, 3"),
        ({"bank": "swap", "cell": 6, "passes": 1}, "objective.passes is 1; it must be at least 2"),
        ({"mixtures": {"streams": 25}, "streams": 25}, "24 identities are too few"),
    ],
)
def test_a_choice_that_cannot_work_is_a_sentence(corpus, values, message):
    with pytest.raises(UserError) as error:
        objective(corpus, **values)
    assert message in str(error.value) and "\n" not in str(error.value)


# --- Many processes

VALUES, CHOSEN = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], [True, False, False, True, True, True]
SHARE = f"""
import sys
import torch
from cslib.objectives.base import global_mean

rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
part = slice(0, 2) if rank == 0 else slice(2, 6)
values, chosen = torch.tensor({VALUES}[part]), torch.tensor({CHOSEN}[part])
weight = torch.tensor(3.0, requires_grad=True)
mean = global_mean(weight * values, chosen)
mean.backward()
print(mean.item(), weight.grad.item(), global_mean(values, chosen & False).item())
"""


def test_mean_over_two_processes_and_its_gradient_equal_those_of_one(tmp_path):
    root = Path(__file__).parents[3]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    found = [list(map(float, process.communicate(timeout=60)[0].split())) for process in processes]
    weight = torch.tensor(3.0, requires_grad=True)
    expected = global_mean(weight * torch.tensor(VALUES), torch.tensor(CHOSEN))
    expected.backward()
    assert expected.item() == pytest.approx(3 * (1 + 8 + 16 + 32) / 4)
    # What DistributedDataParallel does to gradients, and the log to figures: the mean over the processes.
    assert np.mean(found, axis=0) == pytest.approx([expected.item(), weight.grad.item(), 0.0])
