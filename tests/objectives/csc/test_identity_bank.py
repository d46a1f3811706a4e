"""The bank keeps the entries it should, and lets those identities be read that have enough of them."""

import pytest
import torch

from cslib.objectives.csc.identity_bank import IdentityBank


@pytest.mark.parametrize("entries", [1, 3])
def test_fifo_keeps_the_newest_entries_of_each_identity(entries):
    bank, generator = IdentityBank(5, entries, 2, "fifo"), torch.Generator().manual_seed(0)
    history = {identity: [] for identity in range(5)}
    for step in range(12):
        count = [7, 0, 1, 20][step % 4]  # several of the same in one push
        identity = torch.randint(0, 4, (count,), generator=generator)
        keys, origin = torch.randn(count, 2, generator=generator), torch.arange(count) + 100 * step
        bank.push(keys, identity, origin, torch.zeros_like(identity))
        for one, key, place in zip(identity.tolist(), keys, origin.tolist(), strict=True):
            history[one].append((place, key))
        for one, entered in history.items():
            newest = entered[-entries:]
            held = bank.origins[one] >= 0
            assert sorted(bank.origins[one][held].tolist()) == sorted(place for place, _ in newest)
            for place, key in newest:
                assert torch.equal(bank.keys[one][bank.origins[one] == place][0], key)
        assert bank.pushed.tolist() == [len(entered) for entered in history.values()]
    assert not bank.ready  # identity 4 has none yet
    enough = torch.full((2,), 4)
    bank.push(torch.ones(2, 2), enough, enough, enough)
    assert bank.ready


@pytest.mark.parametrize("kind", ["swap", "batch"])
def test_later_of_two_entries_for_one_place_stays_with_its_origin(kind):
    bank = IdentityBank(3, 2, 1, kind)
    identity, view = torch.tensor([1, 2, 1, 1]), torch.tensor([0, 1, 1, 0])
    bank.push(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), identity, torch.arange(4), view)
    if kind == "swap":
        assert (bank.origins < 0).all()
        bank.start_pass(0, fresh=False)
    assert bank.origins.tolist() == [[-1, -1], [3, 2], [-1, 1]]
    assert bank.keys[1].flatten().tolist() == [4, 3] and bank.keys[2, 1] == 2


def test_fifo_identity_is_in_no_comparison_before_it_has_two_entries():
    bank, others = IdentityBank(20, 3, 1, "fifo"), torch.arange(20)
    query, identity = torch.tensor([99]), torch.tensor([18])
    hidden = bank.hidden(query, identity)

    def push(these, origin):
        bank.push(torch.ones(len(these), 1), these, torch.full_like(these, origin), these)

    push(others, 0)
    assert not bank.enough().any() and not bank.ready
    assert not bank.allowed_all(query, hidden, slice(None)).any()
    push(others[:18], 1)
    readable = bank.allowed_all(query, hidden, slice(None))[0]
    assert readable.sum(1).tolist() == [2] * 18 + [0] * 2 and bank.enough().tolist() == [True] * 18 + [False] * 2
    assert not bank.allowed(query, identity).any()
    push(others[18:], 1)
    assert bank.allowed_all(query, hidden, slice(10, None))[0].sum(1).tolist() == [2] * 10
    assert bank.allowed(query, identity).sum() == 2


@pytest.mark.parametrize("identities, enough, ready", [(10, 8, False), (10, 9, True), (11, 9, False), (11, 10, True)])
def test_fifo_bank_is_ready_when_nine_identities_of_ten_can_be_read(identities, enough, ready):
    bank, these = IdentityBank(identities, 2, 1, "fifo"), torch.arange(enough)
    for origin in range(2):
        assert not bank.ready
        bank.push(torch.ones(enough, 1), these, these + 100 * origin, these)
    assert bank.ready == ready


@pytest.mark.parametrize("kind", ["swap", "batch"])
def test_identity_silent_in_one_view_is_read_from_the_other(kind):
    bank = IdentityBank(3, 2, 1, kind)
    bank.push(torch.ones(3, 1), torch.tensor([0, 0, 2]), torch.arange(3), torch.tensor([0, 1, 1]))
    if kind == "swap":
        bank.start_pass(0, fresh=False)
    assert bank.enough().tolist() == [True, False, True]
    assert bank.allowed(torch.tensor([9]), torch.tensor([2])).tolist() == [[False, True]]
