"""What a query reads from the bank in the course of a training."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from tests.objectives.csc.tiny_csc import (
    LABELS,
    PAIRS,
    batch_of,
    objective,
    take_steps,
)


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


def test_identity_silent_in_the_last_pass_has_no_older_entry_in_the_swap_bank(uninformed):
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
def test_bank_restored_in_the_middle_of_a_pass_continues_identically(corpus, tmp_path, values):
    csc = objective(corpus, batch_size=4, **values)
    with torch.no_grad():
        take_steps(csc, 11)
        torch.save(csc.state_dict(), tmp_path / "state.pt")
        fresh = objective(corpus, batch_size=4, **values)
        fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        for one, other in zip(take_steps(csc, 6, 11), take_steps(fresh, 6, 11), strict=True):
            assert one.total == other.total and one.diagnostics["mi_bound"] == other.diagnostics["mi_bound"]
    assert one.diagnostics["counted"] > 0
