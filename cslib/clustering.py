"""Pseudo-labels: k-means to centroids, agglomerative clustering of those, and how many clusters to keep.

The pipeline of iterative pseudo-labelling (IDLab's VoxSRC-20 system; Cho et al. 2021, arXiv 2109.13425):
L2-normalised embeddings, spherical k-means to many small cells, average-linkage clustering of the cells on
the cosine.

Average linkage needs no table of distances when the likeness is a cosine: the mean cosine between two groups
of unit vectors is the dot product of the groups' sums over the product of their sizes. Everything here
therefore holds O(n E) numbers, never n x n (50,000 centroids: 51 MB in place of 10 GB), and is exact: a cell
counts with all its utterances.

True speakers are used by `compare` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.special import log_softmax
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from cslib.config import UserError, to_dict

BLOCK = 1024  # rows compared with all centroids at a time
MAX_CENTROIDS = 50_000
FURTHER = 1.15  # a number of clusters to weigh beyond the last one, in that one


@dataclass
class ClusterConfig:
    clusters: int = 0  # how many; 0 lets `choose` decide, without labels
    choose: str = "silhouette"  # threshold, stability or silhouette
    threshold: float = 0.5  # for choose=threshold: merge while two clusters' mean cosine is above it
    centroids: int = 0  # of the k-means before; 0 is a quarter of the utterances, at most 50,000
    iterations: int = 20  # of k-means
    reassign: int = 5  # times that each utterance then moves to the cluster with the nearest mean; 0 = never
    # numbers of clusters to weigh; empty: 24 of them, from the root of the utterances to half of the centroids
    candidates: list[int] = field(default_factory=list)
    sample: int = 20_000  # utterances that the silhouette is averaged over
    repeats: int = 3  # for choose=stability: pairs of random subsamples
    min_posterior: float = 0.0  # utterances with a smaller probability of their own cluster are rejected: label -1
    min_size: int = 1  # so are those in smaller clusters
    seed: int = 0


@dataclass
class Clustering:
    """Pseudo-labels and how they came about.

    labels    int64 [n], 0 the largest cluster, -1 rejected
    clusters  how many are left, without the rejected ones
    chosen    the candidate they come from
    table     one row per candidate number of clusters, with what it was judged by
    """

    labels: np.ndarray
    clusters: int
    rejected: int
    chosen: int
    table: list[dict[str, float]]


@dataclass
class Tree:
    """An agglomeration of utterances, kept so that any number of clusters can be cut from it.

    cells         int64 [n] the k-means cell of each utterance
    size          how many cells there are (m)
    merges        int64 [m - 1, 2] a cell of either side of each merge, most alike first
    similarities  [m - 1] mean cosine between the two sides, not increasing
    """

    cells: np.ndarray
    size: int
    merges: np.ndarray
    similarities: np.ndarray

    def cut(self, clusters: int) -> np.ndarray:
        """int64 [n] labels: the tree where it has (at least) this many clusters."""
        merges = self.merges[: max(0, self.size - clusters)]
        graph = coo_matrix((np.ones(len(merges), bool), merges.T), shape=(self.size, self.size))
        return connected_components(graph, directed=False)[1].astype(np.int64)[self.cells]

    def clusters_above(self, similarity: float) -> int:
        """How many clusters are left when merging stops at this mean cosine."""
        return self.size - int(np.count_nonzero(self.similarities >= similarity))


def cluster(embeddings: np.ndarray, config: ClusterConfig) -> Clustering:
    """Pseudo-labels of embeddings float32 [n, E].

    Raises UserError when there is nothing to cluster, when more clusters are asked for than there are
    centroids, or when nothing is left in clusters of `min_size`.
    """
    vectors = normalise(embeddings)
    tree = grow(vectors, config)
    chosen, table = choose_clusters(vectors, tree, config)
    labels = partition(vectors, tree, chosen, config)
    if config.min_posterior:
        labels[posteriors(vectors, labels) < config.min_posterior] = -1
    labels = by_size(labels, config.min_size)
    if labels.max() < 0:
        raise UserError(
            f"all {chosen:,} clusters have fewer than {config.min_size} utterances that are let in; lower "
            "--min-size or --min-posterior"
        )
    return Clustering(labels, int(labels.max()) + 1, int(np.count_nonzero(labels < 0)), chosen, table)


def normalise(embeddings: np.ndarray) -> np.ndarray:
    """Rows of length one, float32 [n, E]. Raises UserError for another shape or a row of zeros."""
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise UserError(
            f"embeddings of shape {embeddings.shape}: clustering takes two or more vectors, one an utterance"
        )
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise UserError("an embedding is all zeros; the network that made it has collapsed, take another checkpoint")
    return (embeddings / lengths).astype(np.float32, copy=False)  # a gigabyte for VoxCeleb2


def grow(vectors: np.ndarray, config: ClusterConfig) -> Tree:
    """k-means cells of unit vectors [n, E], and their agglomeration."""
    centroids = config.centroids or min(MAX_CENTROIDS, max(2, len(vectors) // 4))
    cells = spherical_kmeans(vectors, min(centroids, len(vectors)), config.iterations, config.seed)
    sums, counts = group_sums(vectors, cells)
    merges, similarities = average_linkage(sums, counts)
    return Tree(cells, len(counts), merges, similarities)


def spherical_kmeans(vectors: np.ndarray, centroids: int, iterations: int, seed: int) -> np.ndarray:
    """int64 [n]: the cell of each unit vector, numbered from 0 without gaps (an empty cell is dropped)."""
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
    """Sum [m, E] and count [m] of the vectors of each label 0..m-1; rows labelled -1 are left out."""
    kept = labels >= 0
    counts = np.bincount(labels[kept])
    members = coo_matrix(
        (np.ones(kept.sum(), vectors.dtype), (labels[kept], np.flatnonzero(kept))),
        shape=(len(counts), len(vectors)),
    ).tocsr()
    return members @ vectors, counts


def average_linkage(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Agglomerate groups of unit vectors by the mean cosine between them, the pair most alike first.

    sums    [m, E] the vectors of each group added up
    counts  [m] how many they are
    Returns merges int64 [m - 1, 2] (a group of either side) and similarities [m - 1], falling.
    Nearest-neighbour chain (Murtagh 1983): about 2 m products [m, E] x [E], exact for average linkage.
    """
    sums, counts = sums.copy(), counts.astype(sums.dtype)
    names = np.arange(len(sums))  # the group that each live row stands for
    live = np.ones(len(sums), dtype=bool)
    merges, similarities = [], []
    chain, likeness = [], []  # rows, and the similarity of each but the first to the one before
    for _ in range(len(sums) - 1):
        if not chain:
            chain = [int(np.argmax(live))]
        while True:
            similarity = sums @ sums[chain[-1]] / (counts * counts[chain[-1]])
            similarity[~live] = -np.inf
            similarity[chain] = -np.inf  # by rounding alone could one of these come out ahead
            best = int(np.argmax(similarity))
            if likeness and similarity[best] <= likeness[-1]:
                break
            chain.append(best)
            likeness.append(float(similarity[best]))
        gone, kept = chain.pop(), chain.pop()
        merges.append((names[kept], names[gone]))
        similarities.append(likeness.pop())
        del likeness[-1:]
        sums[kept] += sums[gone]
        counts[kept] += counts[gone]
        live[gone] = False
        if np.count_nonzero(live) < len(live) // 2:  # so that a product shrinks with what is left
            row = np.cumsum(live) - 1
            chain = [int(row[index]) for index in chain]
            sums, counts, names, live = sums[live], counts[live], names[live], live[live]
    order = np.argsort(-np.array(similarities), kind="stable")
    return np.array(merges, dtype=np.int64).reshape(-1, 2)[order], np.array(similarities)[order]


def partition(vectors: np.ndarray, tree: Tree, clusters: int, config: ClusterConfig) -> np.ndarray:
    """int64 [n] labels without gaps: a cut of the tree, then a few rounds of spherical k-means from there.

    The tree never undoes an early merge; moving each utterance to the nearest mean does.
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


# ---- how many clusters, without labels ----


def choose_clusters(vectors: np.ndarray, tree: Tree, config: ClusterConfig) -> tuple[int, list[dict[str, float]]]:
    """The number of clusters, and a table of the candidates with what each was judged by.

    Raises UserError when `config` asks for more clusters than the tree has cells, or for an unknown way to
    choose.
    """
    if config.clusters > tree.size:
        raise UserError(f"{config.clusters:,} clusters of {tree.size:,} centroids; ask for fewer, or raise --centroids")
    ways = {
        "threshold": choose_by_threshold,
        "stability": choose_by_stability,
        "silhouette": choose_by_silhouette,
    }
    if config.choose not in ways:
        raise UserError(f"--choose {config.choose}: it is one of {', '.join(ways)}")
    if config.clusters:
        return config.clusters, [describe(vectors, tree, config.clusters, config)]
    return ways[config.choose](vectors, tree, config)


def choose_by_threshold(vectors: np.ndarray, tree: Tree, config: ClusterConfig) -> tuple[int, list[dict[str, float]]]:
    """Merge until no two clusters have a mean cosine above `config.threshold`."""
    clusters = tree.clusters_above(config.threshold)
    table = [describe(vectors, tree, k, config) for k in sorted({clusters, *candidates(tree, config)})]
    return clusters, table


def choose_by_silhouette(vectors: np.ndarray, tree: Tree, config: ClusterConfig) -> tuple[int, list[dict[str, float]]]:
    """The candidate with the largest mean silhouette; where that is the last one, more are weighed, up to the cells."""
    table = [describe(vectors, tree, k, config) for k in candidates(tree, config)]
    best = max(table, key=lambda row: row["silhouette"])
    while best is table[-1] and best["clusters"] < tree.size and not config.candidates:
        more = min(tree.size, max(best["clusters"] + 1, round(FURTHER * best["clusters"])))
        table.append(describe(vectors, tree, more, config))
        best = max(best, table[-1], key=lambda row: row["silhouette"])
    return best["clusters"], table


def choose_by_stability(vectors: np.ndarray, tree: Tree, config: ClusterConfig) -> tuple[int, list[dict[str, float]]]:
    """The candidate whose clusters come out most alike (ARI) from two random subsamples.

    They are compared on what both contain. Each holds 80 % of the utterances and has its own k-means and
    tree (Ben-Hur et al. 2002).
    """
    rng = np.random.default_rng(config.seed)
    counts = candidates(tree, config)
    agreement = np.zeros((config.repeats, len(counts)))
    for repeat in range(config.repeats):
        chosen = [np.sort(rng.permutation(len(vectors))[: round(0.8 * len(vectors))]) for _ in range(2)]
        common = np.intersect1d(*chosen, assume_unique=True, return_indices=True)[1:]
        halves = [(rows, grow(vectors[rows], config), both) for rows, both in zip(chosen, common, strict=True)]
        for column, k in enumerate(counts):
            agreement[repeat, column] = adjusted_rand_score(
                *(partition(vectors[rows], half, k, config)[both] for rows, half, both in halves)
            )
    table = [
        describe(vectors, tree, k, config) | {"stability": float(score)}
        for k, score in zip(counts, agreement.mean(axis=0), strict=True)
    ]
    return max(table, key=lambda row: row["stability"])["clusters"], table


def candidates(tree: Tree, config: ClusterConfig, number: int = 24) -> list[int]:
    """The numbers of clusters to weigh: those given, else geometric from the root of the utterances to half the cells.

    Below the root lie the sexes and the kinds of recording: the clearest clusters of all, and none of them a speaker.
    """
    if config.candidates:
        if max(config.candidates) > tree.size or min(config.candidates) < 2:
            raise UserError(f"--candidates: each must lie between 2 and the {tree.size:,} centroids")
        return sorted(config.candidates)
    high = max(2, tree.size // 2)
    low = min(high, max(2, round(len(tree.cells) ** 0.5)))
    return sorted({round(k) for k in np.geomspace(low, high, number)})


def describe(vectors: np.ndarray, tree: Tree, clusters: int, config: ClusterConfig) -> dict[str, float]:
    """One row of the table: how a cut of the tree looks, by itself."""
    labels = partition(vectors, tree, clusters, config)
    sizes = np.bincount(labels)
    last = tree.similarities[tree.size - clusters - 1] if clusters < tree.size else 1.0
    return {
        "clusters": clusters,
        "similarity": float(last),
        "median_size": float(np.median(sizes)),
        "singletons": int(np.count_nonzero(sizes == 1)),
        "silhouette": silhouette(vectors, labels, config.sample, config.seed),
    }


def silhouette(vectors: np.ndarray, labels: np.ndarray, sample: int, seed: int = 0) -> float:
    """Mean silhouette (Rousseeuw 1987), by cosine distance, of a random sample of utterances.

    vectors [n, E] of unit length, labels int [n] from 0 without gaps. Exact for each sampled utterance: its
    mean distance to a cluster follows from the cluster's sum. 0 for an utterance alone in its cluster, and
    when there is one cluster.
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
    """float32 [n]: probability of each vector's own cluster, under a Gaussian for each cluster and weights by size.

    vectors [n, E] of unit length, labels int [n] from 0 without gaps. The lab of Cho et al. (2022) filters by it in a
    later recipe, with a diagonal covariance for every cluster. Here all share one: clusters of ten utterances tell
    little of the spread in each of hundreds of dimensions.
    """
    sums, counts = group_sums(vectors, labels)
    means = sums / counts[:, None]
    spread = np.sqrt((vectors**2).mean(0) - (counts[:, None] * means**2).sum(0) / len(vectors)) + 1e-6
    scaled, centres = vectors / spread, (means / spread).astype(np.float32)
    offsets = np.log(counts / counts.sum()) - (centres**2).sum(1) / 2
    own = []
    for i in range(0, len(vectors), BLOCK):
        likelihoods = log_softmax(scaled[i : i + BLOCK] @ centres.T + offsets, axis=1)
        own.append(likelihoods[np.arange(len(likelihoods)), labels[i : i + BLOCK]])
    return np.exp(np.concatenate(own)).astype(np.float32)


def by_size(labels: np.ndarray, min_size: int = 1) -> np.ndarray:
    """Labels renumbered by falling size (0 the largest, equals by first utterance); small clusters, and -1, -> -1."""
    names, first, inverse, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    sizes[names < 0] = 0
    order = np.lexsort((first, -sizes))
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    rank[sizes < max(1, min_size)] = -1
    return rank[inverse]


def compare(labels: Sequence[Any], others: Sequence[Any]) -> dict[str, float]:
    """NMI, ARI (1 = the same partition) and purity of `labels` against `others`, in the same order of
    utterances.

    Purity: share of the utterances that belong to the most frequent of `others` in their cluster. Against
    true speakers this is diagnosis; against the round before it tells, without labels, when the rounds have
    settled.
    """
    table = contingency_matrix(others, labels, sparse=True).tocsc()
    return {
        "nmi": float(normalized_mutual_info_score(others, labels)),
        "ari": float(adjusted_rand_score(others, labels)),
        "purity": float(table.max(axis=0).sum() / table.sum()),
    }


def summary(result: Clustering, config: ClusterConfig) -> dict[str, Any]:
    """What clusters.json holds."""
    return {
        "utterances": len(result.labels),
        "clusters": result.clusters,
        "chosen": result.chosen,
        "rejected": result.rejected,
        "table": result.table,
        "config": to_dict(config),
    }
