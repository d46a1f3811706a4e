"""Cosine and AS-norm against slow, literal transcriptions; blocks never show."""

import numpy as np
import pytest
import torch

from cslib.evaluation import cosine, normalisation
from cslib.evaluation.cosine import cosine_scores, mean_embedding, unit_embeddings
from cslib.evaluation.normalisation import as_norm, cohort_statistics

SHAPES = [(6,), (3, 6)]  # one embedding, or three streams, an utterance


def embeddings(seed, count, shape):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32) + 0.5


def trials(count, utterances, seed=0):
    return np.random.default_rng(seed).integers(utterances, size=(2, count)).astype(np.int32)


def literal_cosine(one, other):
    """Highest cosine over the pairs of streams."""
    return max(
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a in np.atleast_2d(one) for b in np.atleast_2d(other)
    )


def literal_as_norm(enrol, test, cohort, top_k):
    """Matejka et al. 2017, equation for AS-norm1, for one trial."""
    score = literal_cosine(enrol, test)
    normalised = []
    for side in (enrol, test):
        best = sorted((literal_cosine(side, member) for member in cohort), reverse=True)[:top_k]
        normalised.append((score - np.mean(best)) / np.std(best))
    return sum(normalised) / 2


@pytest.mark.parametrize("shape", SHAPES)
def test_cosine_equals_its_definition_whatever_the_block(shape, monkeypatch):
    x, (enrol, test) = embeddings(0, 20, shape), trials(101, 20)
    expected = [literal_cosine(x[one], x[other]) for one, other in zip(enrol, test, strict=True)]
    for cells in (1, 50, 1 << 22):
        monkeypatch.setattr(cosine, "CELLS", cells)
        scores = cosine_scores(unit_embeddings(x), enrol, test)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_the_most_alike_streams_decide():
    x = np.array([[[1, 0], [0, 1]], [[0, 2], [-3, 0]], [[-1, -1], [-1, -2]]], dtype=np.float32)
    scores = cosine_scores(unit_embeddings(x), np.array([0, 0]), np.array([1, 2]))
    assert scores[0] == pytest.approx(1.0)  # second stream with first stream
    assert scores[1] < 0


@pytest.mark.parametrize("shape", SHAPES)
def test_subtracting_the_mean_removes_what_all_embeddings_share(shape):
    x, (enrol, test) = embeddings(1, 30, shape), trials(40, 30)
    shared = np.float32(25)
    np.testing.assert_allclose(
        cosine_scores(unit_embeddings(x + shared, mean_embedding(x + shared)), enrol, test),
        cosine_scores(unit_embeddings(x, mean_embedding(x)), enrol, test),
        atol=1e-4,
    )
    assert mean_embedding(x).shape == (6,)


def test_an_embedding_of_zeros_scores_zero_and_one_that_is_not_finite_raises():
    x = np.array([[0, 0], [1, 1], [np.nan, 1]], dtype=np.float32)
    assert cosine_scores(unit_embeddings(x[:2]), np.array([0]), np.array([1])) == [0.0]
    with pytest.raises(ValueError, match="not finite"):
        unit_embeddings(x)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("top_k", [5, 300])
def test_as_norm_equals_its_definition_whatever_the_block(shape, top_k, monkeypatch):
    x, members, (enrol, test) = embeddings(2, 9, shape), embeddings(3, 31, shape), trials(25, 9)
    expected = [literal_as_norm(x[one], x[other], members, top_k) for one, other in zip(enrol, test, strict=True)]
    unit, cohort = unit_embeddings(x), unit_embeddings(members)
    for cells, cohort_block in ((1 << 24, 1 << 15), (100, 7), (1, 31)):
        monkeypatch.setattr(normalisation, "CELLS", cells)
        monkeypatch.setattr(normalisation, "COHORT_BLOCK", cohort_block)
        statistics = cohort_statistics(unit, cohort, top_k)
        scores = as_norm(cosine_scores(unit, enrol, test), enrol, test, statistics)
        np.testing.assert_allclose(scores, expected, rtol=2e-3, atol=2e-4)


def test_as_norm_is_symmetric():
    x, (enrol, test) = unit_embeddings(embeddings(4, 9, (6,))), trials(25, 9)
    statistics = cohort_statistics(x, unit_embeddings(embeddings(5, 40, (6,))), 10)
    there = as_norm(cosine_scores(x, enrol, test), enrol, test, statistics)
    back = as_norm(cosine_scores(x, test, enrol), test, enrol, statistics)
    np.testing.assert_allclose(back, there, rtol=1e-5)


def test_cohort_scores_are_held_block_by_block(monkeypatch):
    """No block of scores is larger than CELLS: never utterances x cohort, never trials x cohort."""
    monkeypatch.setattr(normalisation, "CELLS", 200)
    monkeypatch.setattr(normalisation, "COHORT_BLOCK", 20)
    sizes, scores_of = [], normalisation._scores
    monkeypatch.setattr(normalisation, "_scores", lambda *args: sizes.append(scores_of(*args)) or sizes[-1])
    cohort_statistics(torch.randn(57, 6), torch.randn(90, 6), 5)
    assert max(block.numel() for block in sizes) <= 200
    assert sum(block.numel() for block in sizes) == 57 * 90  # every utterance meets every member once


def test_a_cohort_of_copies_or_of_one_does_not_divide_by_zero():
    x = unit_embeddings(embeddings(6, 4, (6,)))
    _, deviation = cohort_statistics(x, x[:1].repeat(5, 1))
    assert (deviation > 0).all()
    with pytest.raises(ValueError, match="at least two"):
        cohort_statistics(x, x[:1])
