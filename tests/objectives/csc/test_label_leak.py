"""The label must not leak: without information in the embeddings, the bound on the information is not positive."""

import itertools
import math

import numpy as np
import pytest
import torch

from cslib.objectives.csc.identity_attention import IdentityAttention
from tests.objectives.csc.tiny_csc import COUNT, LABELS, PAIRS, batch_of, take_steps


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
        fresh = torch.roll(queries, 2, 0)[:, None].expand_as(entries)  # of another speaker altogether
        return IdentityAttention.cosines_to(csc.attention, queries, fresh, allowed)

    monkeypatch.setattr(csc.attention, "cosines_to", with_own_embedding_of_this_step)
    assert largest_bound(csc) > 0.1


def test_the_leak_test_sees_entries_missing_from_the_true_identity_only(uninformed, monkeypatch):
    csc = uninformed(bank="batch")
    monkeypatch.setattr(csc.bank, "hidden", lambda origin, identity: torch.zeros(len(origin), 2, dtype=torch.bool))
    csc.encoder.common = 0.0
    assert largest_bound(csc) > 0.05


def test_frequencies_of_identities_are_no_information(uninformed):
    csc = uninformed(labels=LABELS, global_vector="table", alpha=2.0)
    known = LABELS[LABELS >= 0]
    cosines = torch.tensor(np.log(np.bincount(known) / len(known)) / 4 + 0.5, dtype=torch.float32)
    csc.table.data = torch.stack([cosines, (1 - cosines.square()).sqrt()] + [torch.zeros(4)] * 30, dim=1)
    embeddings, identity = torch.eye(32)[:1].expand(22, 1, 32), torch.tensor(known)[:, None]
    _, diagnostics = csc._contrast(embeddings, identity, identity, identity >= 0)
    assert diagnostics["mi_bound"].item() == pytest.approx(0, abs=1e-5)  # log 4 would give 0.11


@torch.no_grad()
def test_identities_not_yet_compared_are_no_information(uninformed):
    csc = uninformed(labels=np.arange(24) // 2, bank="fifo")
    embeddings, origin = torch.eye(32)[:1].expand(24, 32), torch.arange(24)
    csc.bank.push(embeddings[:22], origin[:22] // 2, origin[:22], origin[:22])  # 11 of 12 identities
    shape = embeddings.view(12, 2, 32), (origin // 2).view(12, 2), origin.view(12, 2)
    _, diagnostics = csc._contrast(*shape, torch.ones(12, 2, dtype=torch.bool))
    assert diagnostics["counted"].item() == pytest.approx(22 / 24)
    assert diagnostics["mi_bound"].item() == pytest.approx(0, abs=1e-5)  # log 12 would give 0.09


def test_embeddings_that_identify_the_speaker_reach_the_upper_limit(uninformed):
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


def test_bound_is_zero_while_nothing_is_compared(uninformed):
    losses = take_steps(uninformed(bank="swap"), 1)[0]
    assert losses.diagnostics["counted"] == 0 and losses.diagnostics["mi_bound"] == 0 and losses.parts["contrast"] == 0
