"""Pseudo-labels: spherical k-means, agglomerative clustering of its cells, and the choice of the number of clusters.

The pipeline of iterative pseudo-labelling (IDLab's VoxSRC-20 system; Cho et al. 2021, arXiv 2109.13425):
L2-normalised embeddings, spherical k-means into many small cells, average-linkage clustering of the cells by cosine
similarity.

With cosine similarity, average linkage needs no distance matrix: the mean cosine between two groups of unit vectors is
the dot product of the sums of the groups, divided by the product of their sizes. Memory is therefore O(n E), never
n x n (51 MB, not 10 GB, for 50,000 centroids), and the result is exact: each cell counts with all its utterances.

Only `compare` uses true speakers.

Shapes: n utterances, E embedding size, m cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import faiss
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.special import log_softmax
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from cslib.config import UserError, require, to_dict
from cslib.density_clustering import density_clusters, neighbour_graph
from cslib.files import warn

BLOCK = 1024  # vectors compared with all centroids at a time
WAYS = ("silhouette", "stability", "threshold", "density")  # values of ClusterConfig.choose
MAX_CENTROIDS = 50_000
FURTHER = 1.15  # ratio of each further candidate to the one before, where the last candidate is the best
FURTHER_SIZE = 1.6  # the same for `density_sizes`


@dataclass
class ClusterConfig:
    clusters: int = 0  # number of clusters; 0: chosen without labels, by `choose`
    # silhouette, stability or threshold: number of clusters of a partition of all utterances; density: HDBSCAN, whose
    # number of clusters follows from the data, and which rejects utterances that resemble no others
    choose: str = "silhouette"
    # for choose=density: candidates for the fewest utterances of a cluster; the one of the best quality is taken
    density_sizes: list[int] = field(default_factory=lambda: [3, 5, 8])
    neighbours: int = 64  # for choose=density: nearest utterances that each one is compared with
    threshold: float = 0.5  # for choose=threshold: merge while the mean cosine of two clusters is above it
    centroids: int = 0  # of the k-means step; 0: a quarter of the utterances, at most 50,000
    iterations: int = 20  # of the k-means step
    reassign: int = 5  # rounds in which each utterance moves to the cluster with the nearest mean; 0: none
    # numbers of clusters to compare; empty: 24, from the square root of the utterances to half of the centroids
    candidates: list[int] = field(default_factory=list)
    sample: int = 20_000  # utterances over which the silhouette is averaged
    repeats: int = 3  # for choose=stability: number of pairs of random subsamples
    min_posterior: float = 0.0  # utterances with a lower posterior of their own cluster are rejected: label -1
    min_size: int = 1  # utterances in smaller clusters are rejected as well
    seed: int = 0  # of k-means and of random subsamples


@dataclass
class Clustering:
    """Pseudo-labels, and how the number of clusters was chosen.

    labels    int64 [n]; 0 is the largest cluster, -1 is rejected
    clusters  number of clusters, without those rejected
    rejected  number of utterances with label -1
    chosen    number of clusters before rejection
    quality   mean silhouette of all utterances, 0 for those rejected: higher for many utterances in distinct clusters.
              Comparable between embeddings
    table     one row per candidate number of clusters, with its criteria
    """

    labels: np.ndarray
    clusters: int
    rejected: int
    chosen: int
    quality: float
    table: list[dict[str, float]]


@dataclass
class Tree:
    """An agglomerative clustering, from which any number of clusters can be cut.

    cells         int64 [n], k-means cell of each utterance
    size          m, number of cells
    merges        int64 [m - 1, 2], a cell of either side of each merge, most similar first
    similarities  float [m - 1], mean cosine between the two sides, not increasing
    """

    cells: np.ndarray
    size: int
    merges: np.ndarray
    similarities: np.ndarray

    def cut(self, clusters: int) -> np.ndarray:
        """Labels int64 [n] of the tree cut at this many clusters (at most one per cell)."""
        merges = self.merges[: max(0, self.size - clusters)]
        graph = coo_matrix((np.ones(len(merges), bool), merges.T), shape=(self.size, self.size))
        return connected_components(graph, directed=False)[1].astype(np.int64)[self.cells]

    def clusters_above(self, similarity: float) -> int:
        """Number of clusters if merging stops below this mean cosine."""
        return self.size - int(np.count_nonzero(self.similarities >= similarity))


def cluster(embeddings: np.ndarray, config: ClusterConfig) -> Clustering:
    """Pseudo-labels of embeddings float32 [n, E].

    Raises UserError for fewer than two embeddings, for more clusters than centroids, and when `min_size` and
    `min_posterior` reject all utterances.
    """
    vectors = normalise(embeddings)
    require(config.choose in WAYS, "choose", config.choose, f"one of {', '.join(WAYS)}")
    form = by_density if config.choose == "density" else by_linkage
    labels, chosen, table = form(vectors, config)
    if config.min_posterior:
        labels[posteriors(vectors, labels) < config.min_posterior] = -1
    labels = by_size(labels, config.min_size)
    if labels.max() < 0:
        raise UserError(
            f"all {chosen:,} clusters have fewer than {config.min_size} accepted utterances; lower min_size or "
            "min_posterior"
        )
    rejected = int(np.count_nonzero(labels < 0))
    return Clustering(labels, int(labels.max()) + 1, rejected, chosen, quality(vectors, labels, config), table)


def cluster_best(embeddings: Mapping[str, np.ndarray], config: ClusterConfig) -> tuple[str, dict[str, Clustering]]:
    """Cluster the embeddings of several systems and of pairs of them, and choose without labels.

    embeddings  name of a system -> float32 [n, E] of the same utterances
    Returns the name of the clustering of the best quality, and all clusterings. "a + b" are the vectors of a and b, of
    unit length and end to end: the cosine of these is the mean of both cosines.
    Raises UserError as `cluster` does, if that fails for every system.
    """
    vectors = {name: normalise(values) for name, values in embeddings.items()}
    results, failures = {}, []
    for systems in [*((name,) for name in vectors), *combinations(vectors, 2)]:
        name = " + ".join(systems)
        try:  # pairs are joined one at a time, since each takes as much memory as both systems
            results[name] = cluster(np.concatenate([vectors[one] for one in systems], axis=1), config)
        except UserError as error:
            failures.append(error)
            if len(vectors) > 1:
                warn(f"{name}: not clustered: {error}")
    if not results:
        raise failures[0]
    return max(results, key=lambda name: results[name].quality), results


def by_density(vectors: np.ndarray, config: ClusterConfig) -> tuple[np.ndarray, int, list[dict[str, float]]]:
    """Labels int64 [n] of HDBSCAN, -1 for utterances in no cluster, the number of clusters, the table of candidates.

    Raises UserError when no utterance is in a cluster.
    """
    require(config.clusters == 0, "clusters", config.clusters, "0 with choose=density, which finds it")
    require(min(config.density_sizes, default=0) >= 2, "density_sizes", config.density_sizes, "numbers of at least 2")
    require(config.neighbours >= 2, "neighbours", config.neighbours, "at least 2")
    graph = neighbour_graph(vectors, config.neighbours)
    labels, table, sizes = {}, [], sorted(config.density_sizes)
    while sizes:
        size = sizes.pop(0)
        labels[size] = density_clusters(graph, size)
        table.append({"fewest": size} | statistics(vectors, labels[size], config))
        best = max(table, key=lambda row: row["quality"])
        if not sizes and best is table[-1] and best["clusters"] > 1 and size < len(vectors) // 2:
            sizes = [round(FURTHER_SIZE * size)]  # the best may lie beyond the last candidate
    if best["clusters"] == 0:
        raise UserError(
            f"no group of {min(labels)} utterances is denser than its surroundings; there may be one recording per "
            "speaker, and then there is nothing to cluster; otherwise use choose=silhouette"
        )
    return labels[int(best["fewest"])], int(best["clusters"]), table


def by_linkage(vectors: np.ndarray, config: ClusterConfig) -> tuple[np.ndarray, int, list[dict[str, float]]]:
    """Labels int64 [n] of a partition, the chosen number of clusters, and the table of candidates.

    When the silhouette is best for the smallest candidate, the embeddings separate something coarser than speakers, and
    `by_density` forms the labels if it finds more clusters.
    """
    tree = grow(vectors, config)
    chosen, table = choose_clusters(vectors, tree, config)
    smallest = chosen == table[0]["clusters"]
    if config.choose == "silhouette" and smallest and not (config.clusters or config.candidates):
        try:
            dense = by_density(vectors, config)
        except UserError:  # nothing is dense either
            dense = None
        if dense and dense[1] > chosen:
            warn(
                f"the silhouette is best for {chosen:,} clusters, the smallest candidate: what it separates is coarser "
                "than speakers; clusters are formed by density instead"
            )
            return dense
    return partition(vectors, tree, chosen, config), chosen, table


def normalise(embeddings: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length, float32 [n, E]. Raises UserError for another shape or a row of zeros."""
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise UserError(
            f"embeddings of shape {embeddings.shape} cannot be clustered; give two or more vectors, one per utterance"
        )
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise UserError("an embedding is all zeros: its network has collapsed; use another checkpoint")
    return (embeddings / lengths).astype(np.float32, copy=False)  # no copy: VoxCeleb2 takes a gigabyte


def grow(vectors: np.ndarray, config: ClusterConfig) -> Tree:
    """k-means cells of unit vectors [n, E], and their agglomerative clustering."""
    centroids = config.centroids or min(MAX_CENTROIDS, max(2, len(vectors) // 4))
    cells = spherical_kmeans(vectors, min(centroids, len(vectors)), config.iterations, config.seed)
    sums, counts = group_sums(vectors, cells)
    merges, similarities = average_linkage(sums, counts)
    return Tree(cells, len(counts), merges, similarities)


def spherical_kmeans(vectors: np.ndarray, centroids: int, iterations: int, seed: int) -> np.ndarray:
    """int64 [n]: cell of each unit vector, numbered from 0 without gaps (empty cells are dropped)."""
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        centroids,
        niter=iterations,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=1024,
    )
    kmeans.train(vectors)
    nearest = kmeans.index.search(vectors, 1)[1][:, 0]
    return np.unique(nearest, return_inverse=True)[1].astype(np.int64)


def group_sums(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum [m, E] and count [m] of the vectors of each label 0 to m - 1; label -1 is left out."""
    kept = labels >= 0
    counts = np.bincount(labels[kept])
    members = coo_matrix(
        (np.ones(kept.sum(), vectors.dtype), (labels[kept], np.flatnonzero(kept))),
        shape=(len(counts), len(vectors)),
    ).tocsr()
    return members @ vectors, counts


def average_linkage(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge groups of unit vectors by the mean cosine between them, the most similar pair first.

    sums    [m, E], sum of the vectors of each group
    counts  [m], number of vectors of each group
    Returns merges int64 [m - 1, 2] (a group of either side) and similarities [m - 1], decreasing.
    Nearest-neighbour chain (Murtagh 1983): about 2 m products [m, E] x [E], exact for average linkage.
    """
    sums, counts = sums.copy(), counts.astype(sums.dtype)
    names = np.arange(len(sums))  # a group of each live row
    live = np.ones(len(sums), dtype=bool)
    merges, similarities = [], []
    chain: list[int] = []  # rows
    chained: list[float] = []  # similarity of each row of the chain but the first to the one before
    for _ in range(len(sums) - 1):
        if not chain:
            chain = [int(np.argmax(live))]
        while True:
            similarity = sums @ sums[chain[-1]] / (counts * counts[chain[-1]])
            similarity[~live] = -np.inf
            similarity[chain] = -np.inf  # one of these could be the best by rounding only
            best = int(np.argmax(similarity))
            if chained and similarity[best] <= chained[-1]:
                break
            chain.append(best)
            chained.append(float(similarity[best]))
        gone, kept = chain.pop(), chain.pop()
        merges.append((names[kept], names[gone]))
        similarities.append(chained.pop())
        del chained[-1:]
        sums[kept] += sums[gone]
        counts[kept] += counts[gone]
        live[gone] = False
        if np.count_nonzero(live) < len(live) // 2:  # products get smaller with the number of live rows
            row = np.cumsum(live) - 1
            chain = [int(row[index]) for index in chain]
            sums, counts, names, live = sums[live], counts[live], names[live], live[live]
    order = np.argsort(-np.array(similarities), kind="stable")
    return np.array(merges, dtype=np.int64).reshape(-1, 2)[order], np.array(similarities)[order]


def partition(vectors: np.ndarray, tree: Tree, clusters: int, config: ClusterConfig) -> np.ndarray:
    """Labels int64 [n] without gaps: a cut of the tree, refined by a few rounds of spherical k-means.

    The tree never undoes an early merge; moving each utterance to the nearest mean can.
    """
    labels = tree.cut(clusters)
    for _ in range(config.reassign):
        means = group_sums(vectors, labels)[0]
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        nearest = [(vectors[i : i + BLOCK] @ means.T).argmax(axis=1) for i in range(0, len(vectors), BLOCK)]
        before, labels = labels, np.unique(np.concatenate(nearest), return_inverse=True)[1]
        if np.array_equal(before, labels):
            break
    return labels


# ---- the number of clusters, chosen without labels ----


def choose_clusters(vectors: np.ndarray, tree: Tree, config: ClusterConfig) -> tuple[int, list[dict[str, float]]]:
    """The number of clusters, and a table of the candidates with their criteria.

    Raises UserError for more clusters than the tree has cells.
    """
    if config.clusters > tree.size:
        raise UserError(
            f"{config.clusters:,} clusters exceed the {tree.size:,} centroids; lower clusters or raise centroids"
        )
    if config.clusters:
        return config.clusters, [describe(vectors, tree, config.clusters, config)]
    ways = {
        "threshold": choose_by_threshold,
        "stability": choose_by_stability,
        "silhouette": choose_by_silhouette,
    }
    return ways[config.choose](vectors, tree, config)


def choose_by_threshold(vectors: np.ndarray, tree: Tree, config: ClusterConfig) -> tuple[int, list[dict[str, float]]]:
    """Merge until the mean cosine of any two clusters is below `config.threshold`."""
    clusters = tree.clusters_above(config.threshold)
    table = [describe(vectors, tree, k, config) for k in sorted({clusters, *candidates(tree, config)})]
    return clusters, table


def choose_by_silhouette(vectors: np.ndarray, tree: Tree, config: ClusterConfig) -> tuple[int, list[dict[str, float]]]:
    """The candidate with the largest mean silhouette; if it is the last one, larger ones follow, up to the cells."""
    table = [describe(vectors, tree, k, config) for k in candidates(tree, config)]
    best = max(table, key=lambda row: row["silhouette"])
    while best is table[-1] and best["clusters"] < tree.size and not config.candidates:
        last = int(best["clusters"])
        table.append(describe(vectors, tree, min(tree.size, max(last + 1, round(FURTHER * last))), config))
        best = max(best, table[-1], key=lambda row: row["silhouette"])
    return int(best["clusters"]), table


def choose_by_stability(vectors: np.ndarray, tree: Tree, config: ClusterConfig) -> tuple[int, list[dict[str, float]]]:
    """The candidate whose clusters agree best (adjusted Rand index) between two random subsamples.

    Each subsample holds 80 % of the utterances and is clustered by itself; the clusters are compared on the utterances
    in both (Ben-Hur et al. 2002).
    """
    rng = np.random.default_rng(config.seed)
    counts = candidates(tree, config)
    agreement = np.zeros((config.repeats, len(counts)))
    for repeat in range(config.repeats):
        one, other = (np.sort(rng.permutation(len(vectors))[: round(0.8 * len(vectors))]) for _ in range(2))
        common = np.intersect1d(one, other, assume_unique=True, return_indices=True)[1:]
        halves = [(rows, grow(vectors[rows], config), both) for rows, both in zip((one, other), common, strict=True)]
        for column, k in enumerate(counts):
            agreement[repeat, column] = adjusted_rand_score(
                *(partition(vectors[rows], half, k, config)[both] for rows, half, both in halves)
            )
    table = [
        describe(vectors, tree, k, config) | {"stability": float(score)}
        for k, score in zip(counts, agreement.mean(axis=0), strict=True)
    ]
    return int(max(table, key=lambda row: row["stability"])["clusters"]), table


def candidates(tree: Tree, config: ClusterConfig, number: int = 24) -> list[int]:
    """Candidate numbers of clusters: `config.candidates`, or `number` of them in geometric progression.

    They run from the square root of the utterances to half of the cells. Fewer clusters would separate sexes or
    recording conditions, more clearly than speakers.
    """
    if config.candidates:
        if max(config.candidates) > tree.size or min(config.candidates) < 2:
            raise UserError(f"candidates is {config.candidates}; each must be from 2 to the {tree.size:,} centroids")
        return sorted(config.candidates)
    high = max(2, tree.size // 2)
    low = min(high, max(2, round(len(tree.cells) ** 0.5)))
    return sorted({round(k) for k in np.geomspace(low, high, number)})


def describe(vectors: np.ndarray, tree: Tree, clusters: int, config: ClusterConfig) -> dict[str, float]:
    """One row of the table: statistics of a cut of the tree, without labels."""
    last = tree.similarities[tree.size - clusters - 1] if clusters < tree.size else 1.0
    labels = partition(vectors, tree, clusters, config)
    sizes = np.bincount(labels)
    return {
        "clusters": clusters,
        "similarity": float(last),
        "median_size": float(np.median(sizes)),
        "singletons": int(np.count_nonzero(sizes == 1)),
        "silhouette": silhouette(vectors, labels, config.sample, config.seed),
    }


def statistics(vectors: np.ndarray, labels: np.ndarray, config: ClusterConfig) -> dict[str, float]:
    """Sizes and quality of the clusters `labels` [n], from 0 without gaps, -1 for none, of unit vectors [n, E]."""
    sizes = np.bincount(labels[labels >= 0])
    return {
        "clusters": len(sizes),
        "median_size": float(np.median(sizes)) if len(sizes) else 0.0,
        "rejected": int(np.count_nonzero(labels < 0)),
        "quality": quality(vectors, labels, config),
    }


def quality(vectors: np.ndarray, labels: np.ndarray, config: ClusterConfig) -> float:
    """Mean silhouette of unit vectors [n, E], 0 for those of label -1; see `Clustering`."""
    clustered = labels >= 0
    if not clustered.any():
        return 0.0
    return float(clustered.mean() * silhouette(vectors[clustered], labels[clustered], config.sample, config.seed))


def silhouette(vectors: np.ndarray, labels: np.ndarray, sample: int, seed: int = 0) -> float:
    """Mean silhouette (Rousseeuw 1987) with cosine distance, over a random sample of utterances.

    vectors [n, E] of unit length, labels int [n] from 0 without gaps. The value of each sampled utterance is exact: its
    mean distance to a cluster follows from the sum of the cluster. It is 0 for a cluster of one utterance, and when
    there is a single cluster.
    """
    sums, counts = group_sums(vectors, labels)
    if len(counts) < 2:
        return 0.0
    rows = np.random.default_rng(seed).permutation(len(vectors))[:sample]
    values = [
        _silhouettes(vectors[rows[i : i + BLOCK]], labels[rows[i : i + BLOCK]], sums, counts)
        for i in range(0, len(rows), BLOCK)
    ]
    return float(np.concatenate(values).mean())


def _silhouettes(vectors: np.ndarray, labels: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    products = vectors @ sums.T
    rows, sizes = np.arange(len(vectors)), counts[labels]
    inside = 1 - (products[rows, labels] - 1) / np.maximum(sizes - 1, 1)  # without the utterance itself
    distances = 1 - products / counts
    distances[rows, labels] = np.inf
    outside = distances.min(axis=1)
    larger = np.maximum(np.maximum(inside, outside), 1e-12)
    return np.where(sizes > 1, (outside - inside) / larger, 0.0)


# ---- labels ----


def posteriors(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Posterior of each vector's own cluster, float32 [n], under one Gaussian per cluster with priors by size.

    vectors [n, E] of unit length, labels int [n] from 0 without gaps. The lab of Cho et al. (2022) filters by this
    posterior in a later recipe, with a diagonal covariance per cluster. Here all clusters share one: ten utterances are
    too few to estimate hundreds of variances.
    """
    sums, counts = group_sums(vectors, labels)
    means = sums / counts[:, None]
    deviation = np.sqrt((vectors**2).mean(0) - (counts[:, None] * means**2).sum(0) / len(vectors)) + 1e-6
    scaled, centres = vectors / deviation, (means / deviation).astype(np.float32)
    offsets = np.log(counts / counts.sum()) - (centres**2).sum(1) / 2
    own = []
    for i in range(0, len(vectors), BLOCK):
        likelihoods = log_softmax(scaled[i : i + BLOCK] @ centres.T + offsets, axis=1)
        own.append(likelihoods[np.arange(len(likelihoods)), labels[i : i + BLOCK]])
    return np.exp(np.concatenate(own)).astype(np.float32)


def by_size(labels: np.ndarray, min_size: int = 1) -> np.ndarray:
    """Labels renumbered by decreasing size (ties by first utterance); -1 for clusters smaller than `min_size`."""
    names, first, inverse, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    sizes[names < 0] = 0
    order = np.lexsort((first, -sizes))
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    rank[sizes < max(1, min_size)] = -1
    return rank[inverse]


def compare(labels: Sequence[Any], others: Sequence[Any]) -> dict[str, float]:
    """NMI, ARI and purity of `labels` against `others`, in the same order of utterances; 1 for equal partitions.

    Purity is the proportion of utterances that belong to the most frequent of `others` in their cluster. Comparison
    with true speakers is for diagnosis only; comparison with the previous round shows, without labels, whether the
    rounds have converged.
    """
    table = contingency_matrix(others, labels, sparse=True).tocsc()
    return {
        "nmi": float(normalized_mutual_info_score(others, labels)),
        "ari": float(adjusted_rand_score(others, labels)),
        "purity": float(table.max(axis=0).sum() / table.sum()),
    }


def summary(result: Clustering, config: ClusterConfig) -> dict[str, Any]:
    """The content of clusters.json."""
    return {
        "utterances": len(result.labels),
        "clusters": result.clusters,
        "chosen": result.chosen,
        "rejected": result.rejected,
        "quality": result.quality,
        "table": result.table,
        "config": to_dict(config),
    }
