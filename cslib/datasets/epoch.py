"""Random numbers of a dataset: the order of an epoch, and the generator of an item.

Both are functions of the seed and a number alone, so that resuming a training needs no state.
"""

from __future__ import annotations

import numpy as np


def item_generator(seed: int, index: int) -> np.random.Generator:
    """The generator from which all random values of item `index` are drawn."""
    return np.random.default_rng([seed, index])


def shuffled(rows: np.ndarray | int, seed: int, epoch: int) -> np.ndarray:
    """The rows int64 [n] (a number n: 0 to n - 1) in the order of this epoch."""
    # Items are seeded by two numbers. A third one other than 0 keeps the order of an epoch independent of them.
    return np.random.default_rng([seed, epoch, 1]).permutation(rows)


class EpochOrder:
    """Every row once per epoch, in an order drawn anew for each epoch.

    rows  int64 [n], or a number n for the rows 0 to n - 1
    """

    def __init__(self, rows: np.ndarray | int, seed: int) -> None:
        self.rows, self.seed = rows, seed
        self.size = rows if isinstance(rows, int) else len(rows)
        self._latest: tuple[int, np.ndarray] | None = None

    def row(self, index: int) -> int:
        """The row of item `index` >= 0; the first `size` items are the first epoch, and so on."""
        epoch, position = divmod(index, self.size)
        if self._latest is None or self._latest[0] != epoch:
            self._latest = epoch, shuffled(self.rows, self.seed, epoch)
        return int(self._latest[1][position])
