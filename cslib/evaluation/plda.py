"""Simplified PLDA: the log-likelihood ratio of "same speaker" to "different speakers" for two utterances.

An embedding is whitened and scaled to length 1 (Garcia-Romero and Espy-Wilson 2011). The model of the result, [R], is

    x = centre + V y + e        speaker factor y ~ N(0, I) [q], residual of the utterance e ~ N(0, W) [R]

(Kenny 2010, with a full W): B = V V' is the between-speaker covariance and W the within-speaker covariance. Training
needs a label for each utterance. Here these are pseudo-labels; with true speakers it would be supervised.

A change of basis makes W the identity and B diagonal. In a direction with between-speaker variance b, the coordinates
u and v of two utterances have the log-likelihood ratio

    u v b / (1 + 2 b)  -  (u^2 + v^2) b^2 / (2 (1 + b) (1 + 2 b))  +  log (1 + b)  -  log (1 + 2 b) / 2

and the directions add up: a trial costs one product of two vectors [q].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from scipy.sparse import csr_matrix

from cslib.config import UserError
from cslib.evaluation.cosine import cosine_scores

BLOCK = 1 << 16  # utterances held in float64 at a time
ROUNDING = 1e-8  # of the largest variance; directions of less are dropped


@dataclass
class Plda:
    """A trained model; `fit_plda` makes it.

    mean       [E] of the training embeddings
    whitening  [E, R] makes their covariance the identity
    centre     [R] mean of the whitened embeddings of length 1
    basis      [R, q] in which the within-speaker covariance is the identity
    between    [q] between-speaker variances in that basis, in descending order, all positive
    """

    mean: np.ndarray
    whitening: np.ndarray
    centre: np.ndarray
    basis: np.ndarray
    between: np.ndarray

    def positions(self, embeddings: np.ndarray) -> np.ndarray:
        """Embeddings [n, E] -> coordinates float64 [n, q]. Raises ValueError for values that are not finite."""
        return (unit_whitened(embeddings, self.mean, self.whitening) - self.centre) @ self.basis

    def scores(
        self, embeddings: np.ndarray, enrol: np.ndarray, test: np.ndarray, device: torch.device | str = "cpu"
    ) -> np.ndarray:
        """[n] float32 log-likelihood ratio, in nats, of every trial.

        embeddings    [u, E]
        enrol, test   [n] rows of `embeddings`
        """
        b = self.between
        scaled = self.positions(embeddings) * np.sqrt(b / (1 + 2 * b))
        own = scaled**2 @ (b / (2 + 2 * b))
        # cosine_scores computes dot products block by block, of vectors of any length.
        products = cosine_scores(torch.from_numpy(scaled).to(device), enrol, test)
        constant = np.sum(np.log1p(b) - np.log1p(2 * b) / 2)
        return (products - (own[enrol] + own[test]) + constant).astype(np.float32)


def fit_plda(embeddings: np.ndarray, labels: np.ndarray, size: int) -> Plda:
    """Train a model on the labelled utterances.

    embeddings  [n, E]
    labels      int [n] cluster of each; utterances of -1 are ignored
    size        dimensions q of the speaker subspace. len(between) is less if the embedding size, the number of clusters
                or the differences between them support no more
    Raises UserError when there are too few utterances or clusters, or these do not differ; ValueError for values that
    are not finite.
    """
    kept = labels >= 0
    clusters, labels = np.unique(labels[kept], return_inverse=True)
    if len(clusters) < 2:
        raise UserError("plda: needs at least two clusters; give other pseudo-labels, or leave plda out")
    embeddings = embeddings[kept]
    mean, whitening = whiten(embeddings)
    if len(labels) - len(clusters) < whitening.shape[1]:
        raise UserError(
            f"plda: {len(labels):,} utterances in {len(clusters):,} clusters are too few to estimate the "
            f"within-cluster covariance of embeddings of size {len(mean):,}; give fewer clusters, or leave plda out"
        )
    centre, within, between = covariances(unit_whitened(embeddings, mean, whitening, np.float32), labels)
    # The basis in which W is the identity and B is diagonal. Where B is not positive, clusters differ by chance alone.
    variances, basis = scipy.linalg.eigh(between, within)
    chosen = np.flatnonzero(variances > 0)[::-1][:size]
    if not len(chosen):
        raise UserError(
            "plda: clusters differ from each other no more than utterances of one cluster do; "
            "give other pseudo-labels, or leave plda out"
        )
    return Plda(mean, whitening, centre, basis[:, chosen], variances[chosen])


def whiten(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [E] of embeddings [n, E], and the matrix [E, R] that makes their covariance the identity.

    Raises UserError when they are all equal.
    """
    mean = embeddings.mean(axis=0, dtype=np.float64)
    variances, directions = scipy.linalg.eigh(_scatter(embeddings, mean) / len(embeddings))
    if not variances[-1] > 0:
        raise UserError("plda: the labelled embeddings are all equal; use another checkpoint, or leave plda out")
    kept = variances > ROUNDING * variances[-1]
    return mean, directions[:, kept] / np.sqrt(variances[kept])


def unit_whitened(
    embeddings: np.ndarray, mean: np.ndarray, whitening: np.ndarray, kind: type = np.float64
) -> np.ndarray:
    """Embeddings [n, E] -> whitened [n, R] of length 1. Raises ValueError for values that are not finite."""
    unit: np.ndarray = np.empty((len(embeddings), whitening.shape[1]), kind)
    for start, block in _blocks(embeddings):
        block = (block - mean) @ whitening
        lengths = np.linalg.norm(block, axis=1, keepdims=True)
        if not np.isfinite(lengths).all():
            raise ValueError("embeddings have values that are not finite")
        unit[start : start + len(block)] = block / np.maximum(lengths, 1e-12)
    return unit


def covariances(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [R], within-cluster covariance W [R, R] and between-cluster covariance B [R, R], both unbiased.

    vectors  [n, R]
    labels   int [n] 0 .. clusters - 1: at least two clusters, none of them empty
    In closed form, by analysis of variance (Searle, Casella and McCulloch 1992, chapter 3); EM did not improve on it. B
    has negative eigenvalues where clusters differ less than by chance.
    """
    membership = csr_matrix((np.ones(len(labels), vectors.dtype), labels, np.arange(len(labels) + 1)))
    sums, counts = membership.T @ vectors, np.bincount(labels)
    total, clusters = len(labels), len(counts)
    centre = sums.sum(axis=0, dtype=np.float64) / total
    means = sums / counts[:, None] - centre
    of_means = (means.T * counts) @ means
    within = (_scatter(vectors, centre) - of_means) / (total - clusters)
    size = (total - np.sum(counts**2) / total) / (clusters - 1)  # of a cluster, corrected for unequal sizes
    return centre, within, (of_means / (clusters - 1) - within) / size


def _scatter(vectors: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """[R, R] sum of (x - centre) (x - centre)'"""
    scatter = np.zeros((vectors.shape[1], vectors.shape[1]))
    for _, block in _blocks(vectors):
        scatter += (block - centre).T @ (block - centre)
    return scatter


def _blocks(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number of the first row, a block of rows in float64)."""
    for start in range(0, len(vectors), BLOCK):
        yield start, vectors[start : start + BLOCK].astype(np.float64)
