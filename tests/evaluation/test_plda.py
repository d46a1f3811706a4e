"""PLDA against its definition, and what its scores must not depend on."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from cslib.config import UserError
from cslib.evaluation import cosine, plda
from cslib.evaluation.plda import covariances, fit_plda, unit_whitened

SIZE, SPEAKERS = 6, 40


def recordings(seed=0, clusters=SPEAKERS, size=SIZE, differing=3):
    """Embeddings [n, E] of speakers who differ in a few directions, and who speaks; some speak more than others."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(clusters), rng.integers(2, 12, clusters))
    voices = rng.standard_normal((clusters, differing)) @ rng.standard_normal((differing, size))
    return voices[labels] + rng.standard_normal((len(labels), size)) + 3, labels


def pairs(count, utterances, seed=0):
    return np.random.default_rng(seed).integers(utterances, size=(2, count)).astype(np.int32)


def literal_ratio(one, other, centre, between, within):
    """log p(one, other | one speaker) - log p(one, other | two speakers), in the unrotated space."""
    total, nothing = between + within, np.zeros_like(between)
    both, means = np.concatenate([one, other]), np.concatenate([centre, centre])
    same = np.block([[total, between], [between, total]])
    different = np.block([[total, nothing], [nothing, total]])
    return multivariate_normal(means, same).logpdf(both) - multivariate_normal(means, different).logpdf(both)


def literal_covariances(vectors, labels):
    """Analysis of variance of an unbalanced one-way layout, cluster by cluster."""
    clusters = [vectors[labels == label] for label in np.unique(labels)]
    n, k, mean = len(vectors), len(clusters), vectors.mean(0)
    within = sum((len(c) - 1) * np.cov(c.T) for c in clusters if len(c) > 1) / (n - k)
    between = sum(len(c) * np.outer(c.mean(0) - mean, c.mean(0) - mean) for c in clusters) / (k - 1)
    size = (n - sum(len(c) ** 2 for c in clusters) / n) / (k - 1)
    return within, (between - within) / size


@pytest.mark.parametrize("size", [1, 3, SIZE])
def test_scores_are_the_log_likelihood_ratio_whatever_the_block(size, monkeypatch):
    x, labels = recordings()
    model = fit_plda(x, labels, size)
    unit = unit_whitened(x, model.mean, model.whitening)
    within = literal_covariances(unit, labels)[0]
    speaker = within @ model.basis * np.sqrt(model.between)  # V: what the basis, in which W is 1, takes to sqrt(b)
    between = speaker @ speaker.T
    enrol, test = pairs(50, len(x))
    expected = [
        literal_ratio(unit[e], unit[t], model.centre, between, within) for e, t in zip(enrol, test, strict=True)
    ]
    for cells in (1, 50, 1 << 21):
        monkeypatch.setattr(cosine, "CELLS", cells)
        scores = model.scores(x, enrol, test)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_covariances_are_those_of_an_analysis_of_variance(monkeypatch):
    x, labels = recordings(clusters=8)
    monkeypatch.setattr(plda, "BLOCK", 7)
    centre, within, between = covariances(x, labels)
    expected = literal_covariances(x, labels)
    np.testing.assert_allclose(centre, x.mean(0))
    np.testing.assert_allclose(within, expected[0], atol=1e-10)
    np.testing.assert_allclose(between, expected[1], atol=1e-10)


def test_covariances_are_those_the_data_were_drawn_from():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(3000), rng.integers(1, 6, 3000))
    x = rng.standard_normal((3000, 2))[labels] * [2, 0] + rng.standard_normal((len(labels), 2)) * [1, 3]
    _, within, between = covariances(x, labels)
    np.testing.assert_allclose(within, np.diag([1, 9]), atol=0.4)
    np.testing.assert_allclose(between, np.diag([4, 0]), atol=0.4)


def test_scores_are_symmetric():
    x, labels = recordings()
    model, (enrol, test) = fit_plda(x, labels, 4), pairs(60, len(x))
    np.testing.assert_array_equal(model.scores(x, enrol, test), model.scores(x, test, enrol))


def test_scores_do_not_depend_on_the_coordinates_the_order_or_the_names_of_clusters():
    x, labels = recordings()
    enrol, test = pairs(60, len(x))
    expected = fit_plda(x, labels, 4).scores(x, enrol, test)
    rng = np.random.default_rng(2)
    turned = x @ rng.standard_normal((SIZE, SIZE)) + 10 * rng.standard_normal(SIZE)
    np.testing.assert_allclose(fit_plda(turned, labels, 4).scores(turned, enrol, test), expected, atol=1e-3)
    order = rng.permutation(len(x))
    renamed = 7 * rng.permutation(SPEAKERS)[labels]
    np.testing.assert_allclose(fit_plda(x[order], renamed[order], 4).scores(x, enrol, test), expected, atol=1e-3)


def test_rejected_utterances_are_left_out():
    x, labels = recordings()
    strange = np.concatenate([100 * np.ones((5, SIZE)), x])
    model = fit_plda(strange, np.concatenate([[-1] * 5, labels]), 4)
    np.testing.assert_array_equal(model.mean, fit_plda(x, labels, 4).mean)


def test_speakers_who_were_never_heard_are_told_apart():
    x, labels = recordings(0, clusters=300, size=20, differing=5)
    heard = labels < 150  # the others differ in the same few directions
    model = fit_plda(x[heard], labels[heard], 5)
    x, labels = x[~heard], labels[~heard]
    enrol, test = pairs(4000, len(x))
    same = labels[enrol] == labels[test]
    scores, cosines = model.scores(x, enrol, test), cosine.cosine_scores(cosine.unit_embeddings(x), enrol, test)
    assert same.sum() > 10
    for values, least in ((scores, 0.97), (cosines, 0.5)):
        assert np.mean(values[same][:, None] > values[~same]) > least
    assert np.mean(scores[same]) > 0 > np.mean(scores[~same])


@pytest.mark.parametrize("clusters, wanted, size", [(4, SIZE, 3), (400, 100, SIZE), (SPEAKERS, 2, 2)])
def test_the_subspace_is_no_larger_than_the_labels_allow(clusters, wanted, size):
    x, labels = recordings(clusters=clusters, differing=SIZE)
    model = fit_plda(x, labels, wanted)
    assert len(model.between) == size
    assert (np.diff(model.between) <= 0).all() and model.between[-1] > 0


def test_directions_in_which_embeddings_do_not_vary_are_ignored():
    x, labels = recordings()
    enrol, test = pairs(60, len(x))
    expected = fit_plda(x, labels, 4).scores(x, enrol, test)
    wider = np.concatenate([x, np.full((len(x), 1), 5.0), x[:, :1]], axis=1)
    np.testing.assert_allclose(fit_plda(wider, labels, 4).scores(wider, enrol, test), expected, atol=1e-3)


@pytest.mark.parametrize(
    "x, labels, complaint",
    [
        (recordings()[0], np.zeros(len(recordings()[0]), int), "at least two clusters"),
        (recordings()[0], np.full(len(recordings()[0]), -1), "at least two clusters"),
        (recordings()[0], np.arange(len(recordings()[0])), "are too few"),
        (np.ones((20, 4)), np.arange(20) // 4, "all equal"),
        (np.tile(recordings()[0][:30], (2, 1)), np.repeat([0, 1], 30), "no more than"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(x, labels, complaint):
    with pytest.raises(UserError, match=complaint):
        fit_plda(x, labels, 4)


def test_numbers_that_are_not_finite_raise():
    x, labels = recordings()
    model = fit_plda(x, labels, 4)
    x[3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        model.scores(x, np.array([0]), np.array([3]))
    with pytest.raises(ValueError, match="infs or NaNs"):
        fit_plda(x, labels, 4)
