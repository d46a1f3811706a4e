"""The order of an epoch: a function of seed and epoch, the same in every version."""

import numpy as np
import pytest

from cslib.datasets.epoch import EpochOrder, item_generator, shuffled


@pytest.mark.parametrize("rows", [7, np.array([2, 3, 5, 8, 13, 21, 34])])
def test_every_row_comes_once_per_epoch_in_a_new_order(rows):
    order = EpochOrder(rows, seed=3)
    epochs = [[order.row(7 * epoch + position) for position in range(7)] for epoch in range(5)]
    expected = list(range(7)) if isinstance(rows, int) else rows.tolist()
    assert all(sorted(epoch) == expected for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_row_depends_on_seed_and_index_alone():
    forwards, backwards = EpochOrder(5, seed=1), EpochOrder(5, seed=1)
    first = [forwards.row(index) for index in range(30)]
    assert first == [backwards.row(index) for index in reversed(range(30))][::-1]
    assert first != [EpochOrder(5, seed=2).row(index) for index in range(30)]


def test_order_is_that_of_earlier_versions():
    """An interrupted training must continue with the items it would have had."""
    for rows in (6, np.array([1, 4, 9, 16, 25, 36])):
        for epoch in (0, 1, 17):
            expected = np.random.default_rng([5, epoch, 1]).permutation(rows)
            assert shuffled(rows, 5, epoch).tolist() == expected.tolist()
            order = EpochOrder(rows, 5)
            assert [order.row(6 * epoch + position) for position in range(6)] == expected.tolist()
    assert [EpochOrder(5, 0).row(index) for index in range(10)] == [1, 3, 4, 2, 0, 0, 4, 3, 1, 2]


def test_a_number_of_rows_stands_for_all_of_them():
    assert [EpochOrder(9, 4).row(i) for i in range(27)] == [EpochOrder(np.arange(9), 4).row(i) for i in range(27)]


def test_items_have_generators_of_their_own():
    drawn = [item_generator(seed, index).random() for seed in range(3) for index in range(20)]
    assert len(set(drawn)) == 60 and item_generator(2, 7).random() == np.random.default_rng([2, 7]).random()
    # The order of an epoch is not drawn from the generator of the item with its number.
    assert shuffled(50, 2, 7).tolist() != item_generator(2, 7).permutation(50).tolist()
