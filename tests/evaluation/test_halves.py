"""Halves of recordings find each other, or they do not."""

import numpy as np
import pytest

from cslib.config import UserError
from cslib.evaluation import halves
from cslib.evaluation.halves import retrieval_of_halves

IDS = [f"r{n}-{half}" for n in range(40) for half in (1, 2)]


def test_halves_that_lie_together_are_all_found_and_random_ones_are_not():
    rng = np.random.default_rng(1)
    places, order = np.repeat(rng.standard_normal((40, 16)), 2, axis=0), rng.permutation(80)
    near = places + 0.01 * rng.standard_normal((80, 16))
    assert retrieval_of_halves([IDS[n] for n in order], near[order]) == 1.0
    assert retrieval_of_halves(IDS, rng.standard_normal((80, 16))) < 0.15


@pytest.mark.parametrize("block", [1024, 7])
def test_share_equals_that_of_a_slow_count(block, monkeypatch):
    rng = np.random.default_rng(2)
    vectors = np.repeat(rng.standard_normal((40, 8)), 2, axis=0) + 0.8 * rng.standard_normal((80, 8))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = 0
    for row in range(80):
        others = [other for other in range(80) if other != row]
        found += max(others, key=lambda other: unit[row] @ unit[other]) == row ^ 1  # noqa: B023 (used at once)
    assert 0.2 < found / 80 < 0.95
    monkeypatch.setattr(halves, "BLOCK", block)
    assert retrieval_of_halves(IDS, vectors * rng.uniform(1, 9, (80, 1))) == found / 80


def test_a_half_without_its_other_is_named():
    with pytest.raises(UserError, match="r39-2"):
        retrieval_of_halves(IDS[:-1], np.ones((79, 3)))
