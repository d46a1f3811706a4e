"""The choice of trials among all pairs of utterances."""

import itertools

import numpy as np

from cslib.corpora.all_pairs import choose_pairs


def test_too_many_pairs_keep_all_targets_and_a_seeded_choice_of_nontargets():
    speakers = np.random.default_rng(3).integers(0, 40, 300)
    targets, nontargets = choose_pairs(speakers, np.random.default_rng(1), limit=5000)
    every = {(i, j) for i, j in itertools.combinations(range(300), 2) if speakers[i] == speakers[j]}
    assert {tuple(pair) for pair in targets.tolist()} == every
    assert len(nontargets) == 5000 - len(every) == len({tuple(pair) for pair in nontargets.tolist()})
    assert (nontargets[:, 0] < nontargets[:, 1]).all()
    assert (speakers[nontargets[:, 0]] != speakers[nontargets[:, 1]]).all()
    again = choose_pairs(speakers, np.random.default_rng(1), limit=5000)[1]
    other = choose_pairs(speakers, np.random.default_rng(2), limit=5000)[1]
    assert (again == nontargets).all() and (len(other) != len(nontargets) or (other != nontargets).any())


def test_nontargets_are_chosen_evenly():
    """Utterances occur about equally often: chi-square of 999 degrees of freedom, 99.9 % bound."""
    speakers = np.repeat(np.arange(50), 20)
    _, nontargets = choose_pairs(speakers, np.random.default_rng(1), limit=40_000)
    counts = np.bincount(nontargets.ravel(), minlength=1000)
    expected = counts.sum() / 1000
    assert ((counts - expected) ** 2 / expected).sum() < 1142


def test_a_huge_test_set_never_makes_all_pairs():
    speakers = np.repeat(np.arange(1000), 100)  # 5 billion pairs, 5 million targets
    targets, nontargets = choose_pairs(speakers, np.random.default_rng(1), limit=20_000)
    assert len(targets) == 20_000 and len(nontargets) == 10_000
    assert (speakers[targets[:, 0]] == speakers[targets[:, 1]]).all()
