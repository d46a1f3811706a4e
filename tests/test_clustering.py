"""Clustering against scipy and scikit-learn, and the choice of the number of clusters without labels."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist
from scipy.stats import multivariate_normal
from sklearn.cluster import HDBSCAN
from sklearn.metrics import adjusted_rand_score, silhouette_score

from cslib.clustering import (
    ClusterConfig,
    Tree,
    average_linkage,
    by_size,
    candidates,
    choose_by_silhouette,
    cluster,
    cluster_best,
    compare,
    group_sums,
    grow,
    normalise,
    partition,
    posteriors,
    quality,
    silhouette,
)
from cslib.config import UserError
from cslib.density_clustering import density_clusters, neighbour_graph


def random_vectors(count, size=16, seed=0):
    return normalise(np.random.default_rng(seed).standard_normal((count, size)))


def speakers(count=20, each=15, noise=1.3, size=64, seed=0):
    """Embeddings of `count` speakers around random centres, and who speaks."""
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(count), each)
    values = rng.standard_normal((count, size))[speaker] + noise * rng.standard_normal((len(speaker), size))
    return values.astype(np.float32), speaker


def test_average_linkage_is_scipys():
    vectors = random_vectors(300)
    merges, similarities = average_linkage(vectors, np.ones(300))
    reference = linkage(pdist(vectors.astype(np.float64), "cosine"), "average")
    np.testing.assert_allclose(1 - similarities, reference[:, 2], atol=1e-5)
    tree = Tree(np.arange(300), 300, merges, similarities)
    for clusters in (2, 10, 50, 150):
        expected = fcluster(reference, clusters, "maxclust")
        assert adjusted_rand_score(expected, tree.cut(clusters)) == 1.0


def test_average_linkage_of_cells_counts_every_utterance_in_them():
    vectors = random_vectors(60)
    cells = np.repeat(np.arange(20), 3)
    merges, similarities = average_linkage(*group_sums(vectors, cells))
    first, second = merges[0]
    expected = (vectors[cells == first] @ vectors[cells == second].T).mean()
    assert similarities[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("copies", [2, 10])
def test_average_linkage_ends_where_all_similarities_are_equal(copies):
    vectors = np.repeat(random_vectors(20), copies, axis=0)
    merges, similarities = average_linkage(vectors, np.ones(len(vectors)))
    tree = Tree(np.arange(len(vectors)), len(vectors), merges, similarities)
    assert len(merges) == len(vectors) - 1
    assert compare(tree.cut(20), np.repeat(np.arange(20), copies))["ari"] == 1.0


def test_silhouette_is_scikit_learns():
    vectors, labels = random_vectors(200), np.random.default_rng(1).integers(0, 7, 200)
    labels[0] = 7  # alone in its cluster
    expected = silhouette_score(vectors, labels, metric="cosine")
    assert silhouette(vectors, labels, sample=200) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("choose", ["silhouette", "stability"])
def test_the_number_of_speakers_is_found_without_labels(choose):
    values, speaker = speakers()
    result = cluster(values, ClusterConfig(choose=choose))
    assert 18 <= result.clusters <= 24
    assert compare(result.labels, speaker)["nmi"] > 0.95


def test_threshold_is_the_lowest_similarity_of_a_merge():
    values, _ = speakers()
    tree = grow(normalise(values), ClusterConfig())
    result = cluster(values, ClusterConfig(choose="threshold", threshold=0.3, reassign=0))
    assert result.clusters == 1 + np.count_nonzero(tree.similarities < 0.3)
    assert result.clusters in [row["clusters"] for row in result.table]


def test_a_given_number_of_clusters_is_kept():
    values, _ = speakers()
    result = cluster(values, ClusterConfig(clusters=33, reassign=0))
    assert result.clusters == result.labels.max() + 1 == 33
    assert [row["clusters"] for row in result.table] == [33]


def test_reassignment_corrects_early_merges_of_the_tree():
    values, speaker = speakers(noise=1.8)
    vectors, nmi = normalise(values), {}
    tree = grow(vectors, ClusterConfig())
    for rounds in (0, 5):
        labels = partition(vectors, tree, 20, ClusterConfig(reassign=rounds))
        nmi[rounds] = compare(labels, speaker)["nmi"]
    assert nmi[5] > nmi[0] + 0.05


def test_the_same_seed_gives_the_same_labels():
    values, _ = speakers(noise=2)
    first, second, other = (cluster(values, ClusterConfig(clusters=20, seed=seed)).labels for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_small_clusters_are_rejected():
    values, _ = speakers()
    values = np.concatenate([values, -values[:1]])  # one utterance that is like nobody's
    result = cluster(values, ClusterConfig(clusters=21, centroids=301, min_size=3))
    assert result.labels[-1] == -1
    assert result.rejected == np.count_nonzero(result.labels == -1)
    assert (np.bincount(result.labels[result.labels >= 0]) >= 3).all()


def test_posterior_is_that_of_gaussians_with_one_diagonal_covariance():
    values, speaker = speakers(count=4, each=9, size=5)
    vectors = normalise(values)
    means = np.stack([vectors[speaker == one].mean(0) for one in range(4)])
    variance = ((vectors - means[speaker]) ** 2).mean(0)
    likelihoods = np.stack([multivariate_normal(mean, np.diag(variance)).pdf(vectors) for mean in means], axis=1)
    expected = (likelihoods / likelihoods.sum(1, keepdims=True))[np.arange(36), speaker]
    np.testing.assert_allclose(posteriors(vectors, speaker), expected, rtol=1e-3)


def test_utterances_that_do_not_fit_their_cluster_are_rejected():
    values, speaker = speakers(noise=2.5)
    few = cluster(values, ClusterConfig(clusters=20, min_posterior=0.9))
    every = cluster(values, ClusterConfig(clusters=20))
    kept = few.labels >= 0
    assert 0 < few.rejected == np.count_nonzero(~kept) < len(values) / 2
    right = np.array([np.bincount(speaker[every.labels == label]).argmax() for label in every.labels]) == speaker
    assert right[kept].mean() > right.mean() > right[~kept].mean()


def test_labels_are_numbered_by_decreasing_size():
    labels = by_size(np.array([5, 5, 9, 2, 2, 2, 7, 7]), min_size=2)
    assert labels.tolist() == [1, 1, -1, 0, 0, 0, 2, 2]


@pytest.mark.parametrize(
    "config, message",
    [
        ({"clusters": 1000}, "lower clusters or raise centroids"),
        ({"choose": "guess"}, "choose is guess; it must be one of"),
        ({"candidates": [5, 1000]}, "candidates is"),
        ({"clusters": 70, "min_size": 200}, "lower min_size"),
        ({"clusters": 70, "min_posterior": 2.0}, "or min_posterior"),
    ],
)
def test_impossible_options_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        cluster(speakers()[0], ClusterConfig(**config))


@pytest.mark.parametrize("values", [np.ones((10, 2, 3)), np.ones((1, 3)), np.zeros((10, 3))])
def test_unusable_embeddings_are_refused(values):
    with pytest.raises(UserError):
        cluster(values.astype(np.float32), ClusterConfig())


def test_purity_is_the_proportion_of_the_most_frequent_speaker():
    scores = compare([0, 0, 0, 1, 1, 2], ["a", "a", "b", "b", "b", "a"])
    assert scores["purity"] == pytest.approx(5 / 6)


def test_female_and_male_voices_are_not_taken_for_two_speakers():
    """The sexes form the clearest clusters; a choice without labels must look at finer ones."""
    rng = np.random.default_rng(0)
    sex = np.repeat(np.eye(2, 32), 60, axis=0) * 3
    speakers = np.repeat(rng.standard_normal((40, 32)) * 0.3, 3, axis=0)
    result = cluster((sex + speakers + 0.1 * rng.standard_normal((120, 32))).astype(np.float32), ClusterConfig())
    assert result.chosen >= 11


def test_where_the_last_candidate_is_best_larger_ones_follow():
    """Two utterances of each of 60 speakers: candidates end at half of the cells, which is fewer."""
    rng = np.random.default_rng(0)
    speakers = np.repeat(rng.standard_normal((60, 32)), 2, axis=0)
    vectors = normalise((speakers + 0.1 * rng.standard_normal((120, 32))).astype(np.float32))
    config = ClusterConfig(centroids=90)
    tree = grow(vectors, config)
    assert max(candidates(tree, config)) == 45 and tree.size == 90
    chosen, table = choose_by_silhouette(vectors, tree, config)
    assert 55 <= chosen <= 66 and table[-1]["clusters"] > chosen


def with_strangers(strangers=60, **options):
    """Embeddings of `speakers`, with those of people who speak once each at the end; who speaks, -1 for these."""
    values, speaker = speakers(**options)
    alone = np.random.default_rng(9).standard_normal((strangers, values.shape[1])) * np.sqrt(1 + 1.3**2)
    return np.concatenate([values, alone.astype(np.float32)]), np.append(speaker, np.full(strangers, -1))


def test_density_finds_the_number_of_speakers_and_rejects_those_who_speak_once():
    values, speaker = with_strangers(noise=0.8)
    result = cluster(values, ClusterConfig(choose="density"))
    assert result.clusters == result.chosen == 20
    clustered = result.labels >= 0
    assert adjusted_rand_score(speaker[clustered], result.labels[clustered]) > 0.97
    assert clustered[speaker >= 0].mean() > 0.95 and clustered[speaker < 0].mean() < 0.1
    assert result.rejected == np.count_nonzero(~clustered)


def test_density_on_a_graph_of_neighbours_is_hdbscan_on_all_distances():
    values, _ = with_strangers(noise=1.0)
    vectors = normalise(values)
    distances = np.clip(1 - vectors.astype(np.float64) @ vectors.T.astype(np.float64), 0, 2)
    whole = HDBSCAN(min_cluster_size=5, min_samples=2, metric="precomputed", copy=False).fit_predict(distances)
    assert adjusted_rand_score(whole, density_clusters(neighbour_graph(vectors, 40), 5)) == 1


def test_density_joins_a_graph_that_falls_apart():
    vectors = normalise(np.repeat(np.eye(4, 8), 6, axis=0) + 0.01 * np.random.default_rng(0).standard_normal((24, 8)))
    labels = density_clusters(neighbour_graph(vectors, 3), 3)
    assert adjusted_rand_score(np.repeat(np.arange(4), 6), labels) == 1


def test_density_says_so_when_there_is_nothing_to_cluster():
    with pytest.raises(UserError, match="one recording per speaker"):
        cluster(np.eye(40, 64, dtype=np.float32), ClusterConfig(choose="density"))


def test_quality_is_the_mean_silhouette_with_zeros_for_rejected_utterances():
    values, speaker = speakers(noise=0.8)
    vectors, labels = normalise(values), speaker.copy()
    labels[::3] = -1
    kept = labels >= 0
    wanted = silhouette_score(vectors[kept], labels[kept], metric="cosine") * kept.mean()
    assert quality(vectors, labels, ClusterConfig()) == pytest.approx(wanted, abs=1e-5)


def test_the_best_of_several_embeddings_is_found_without_labels():
    good, speaker = speakers(noise=0.7)
    bad = speakers(noise=2.5, seed=1)[0]
    best, results = cluster_best({"bad": bad, "good": good}, ClusterConfig(choose="density"))
    assert best == "good" and set(results) <= {"bad", "good", "bad + good"}
    # The noise of two independent systems averages out.
    other = np.random.default_rng(7).standard_normal((20, 64))[speaker] + 0.7 * np.random.default_rng(
        8
    ).standard_normal((len(speaker), 64))
    best, results = cluster_best({"one": good, "other": other.astype(np.float32)}, ClusterConfig(choose="density"))
    assert best == "one + other" and results[best].quality == max(result.quality for result in results.values())


@pytest.fixture
def coarse(monkeypatch):
    """The silhouette is best for the smallest number, as with embeddings that separate sexes more than speakers."""
    table = [{"clusters": 28, "silhouette": 0.5}, {"clusters": 40, "silhouette": 0.4}]
    monkeypatch.setattr("cslib.clustering.choose_by_silhouette", lambda *_: (28, table))


def test_where_the_smallest_number_is_best_clusters_are_formed_by_density(coarse, capsys):
    values, speaker = speakers(count=40, each=20, noise=0.6)
    result = cluster(values, ClusterConfig())
    assert "the smallest candidate" in capsys.readouterr().err
    clustered = result.labels >= 0
    assert result.clusters == 40 and adjusted_rand_score(speaker[clustered], result.labels[clustered]) > 0.95


@pytest.mark.parametrize("sizes", [[800], [30]])
def test_where_density_finds_no_more_clusters_the_smallest_number_stays(coarse, sizes):
    values = speakers(count=20, each=40, noise=0.6)[0]
    result = cluster(values, ClusterConfig(density_sizes=sizes))
    assert result.chosen == 28 and result.rejected == 0


def test_a_system_that_cannot_be_clustered_is_named(capsys):
    good, _ = speakers(noise=0.7)
    best, results = cluster_best(
        {"bad": np.eye(len(good), 400, dtype=np.float32), "good": good}, ClusterConfig(choose="density")
    )
    assert "bad" not in results and "good" in best
    assert "warning: bad: not clustered: no group of 3 utterances" in capsys.readouterr().err
