"""Density-based clustering of embeddings: HDBSCAN on a graph of nearest neighbours.

HDBSCAN (Campello et al. 2013; McInnes et al. 2017) calls a group a cluster when it stays together over a wide range of
densities. The number of clusters follows from the data, and an utterance in no dense region gets no label. Both suit
pseudo-labels: the remaining labels are purer than those of a partition of all utterances, and rejected utterances can
get a label in a later round, when the embeddings are better.

Distances are cosine distances. Only those of each utterance to its nearest neighbours are kept, so memory is O(n k),
never n x n. Clusters of fewer than k utterances do not depend on longer distances.

Shapes: n utterances, E embedding size, k neighbours.
"""

from __future__ import annotations

import faiss
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import HDBSCAN

MIN_SAMPLES = 2  # the utterance itself and its nearest neighbour: density is the distance between the two
LARGEST = 2.0  # cosine distance of opposite vectors
SMALLEST = 1e-6  # a distance of 0 would be no entry of a sparse matrix


def density_clusters(graph: csr_matrix, min_size: int) -> np.ndarray:
    """Labels int64 [n] without gaps, -1 for an utterance in no dense region.

    graph     see `neighbour_graph`
    min_size  smallest number of utterances of a cluster, at least 2
    """
    model = HDBSCAN(min_cluster_size=min_size, min_samples=MIN_SAMPLES, metric="precomputed", copy=True)
    return model.fit_predict(graph).astype(np.int64)


def neighbour_graph(vectors: np.ndarray, neighbours: int) -> csr_matrix:
    """Symmetric cosine distances, sparse float64 [n, n], of each utterance and its nearest neighbours; one component.

    vectors     float32 [n, E] of unit length
    neighbours  k, at most n - 1 are used
    """
    neighbours = min(neighbours, len(vectors) - 1)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    similarities, columns = index.search(vectors, neighbours + 1)  # the first one is the utterance itself
    distances = np.clip(1 - similarities.astype(np.float64), SMALLEST, LARGEST)
    rows = np.repeat(np.arange(len(vectors)), neighbours + 1)
    graph = csr_matrix((distances.ravel(), (rows, columns.ravel())), shape=(len(vectors),) * 2)
    return _connected(graph.maximum(graph.T))


def _connected(graph: csr_matrix) -> csr_matrix:
    """The graph with its components joined at the largest distance: HDBSCAN builds one tree."""
    count, component = connected_components(graph, directed=False)
    if count == 1:
        return graph
    one_of_each = np.unique(component, return_index=True)[1]
    ends = np.full(count - 1, one_of_each[0]), one_of_each[1:]
    bridges = csr_matrix((np.full(count - 1, LARGEST), ends), shape=graph.shape)
    return (graph + bridges + bridges.T).tocsr()
