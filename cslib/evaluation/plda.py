"""Simplified PLDA, learnt from pseudo-labels: how much likelier two utterances are of one speaker than of two.

Whitened and brought to length 1 (Garcia-Romero and Espy-Wilson 2011), an embedding [R] is taken for

    x = centre + V y + e        y ~ N(0, I) [q] is the speaker's, e ~ N(0, W) [R] the utterance's own

(Kenny 2010, with a full W), so that B = V V' is the covariance between speakers and W the one within them. Whoever
calls this gives clusters for speakers: with true ones it would be supervised.

There is a basis in which W is the identity and B is diagonal. Of a direction in which speakers vary by b, the numbers
u and v of two utterances then give the log-likelihood ratio

    u v b / (1 + 2 b)  -  (u^2 + v^2) b^2 / (2 (1 + b) (1 + 2 b))  +  log (1 + b)  -  log (1 + 2 b) / 2

and those of different directions add up: a trial costs one product of two vectors [q].
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

BLOCK = 1 << 16  # utterances whose numbers are held in float64 at a time
ROUNDING = 1e-8  # of the largest variance: directions that vary less are left out


@dataclass
class Plda:
    """A trained model; `fit_plda` makes it.

    mean       [E] of the training embeddings
    whitening  [E, R] makes their covariance the identity
    centre     [R] mean of what comes out, at length 1
    basis      [R, q] in which speakers vary by `between` and utterances of one speaker by 1
    between    [q] falling, above 0
    """

    mean: np.ndarray
    whitening: np.ndarray
    centre: np.ndarray
    basis: np.ndarray
    between: np.ndarray

    def positions(self, embeddings: np.ndarray) -> np.ndarray:
        """[n, E] -> float64 [n, q] in that basis. Raises ValueError for numbers that are not finite."""
        return (unit_whitened(embeddings, self.mean, self.whitening) - self.centre) @ self.basis

    def scores(self, embeddings: np.ndarray, enrol: np.ndarray, test: np.ndarray, device: str = "cpu") -> np.ndarray:
        """[n] float32 log-likelihood ratio, in nats, of every trial.

        embeddings    [u, E]
        enrol, test   [n] rows of `embeddings`
        """
        b = self.between
        scaled = self.positions(embeddings) * np.sqrt(b / (1 + 2 * b))
        own = scaled**2 @ (b / (2 + 2 * b))
        # What scores unit vectors by their cosine multiplies any two vectors, block by block.
        products = cosine_scores(torch.from_numpy(scaled).to(device), enrol, test)
        constant = np.sum(np.log1p(b) - np.log1p(2 * b) / 2)
        return (products - (own[enrol] + own[test]) + constant).astype(np.float32)


def fit_plda(embeddings: np.ndarray, labels: np.ndarray, size: int) -> Plda:
    """A model of the labelled utterances.

    embeddings  [n, E]
    labels      int [n] cluster of each; what is labelled -1 is left out
    size        dimensions q of the speaker subspace. There are fewer where E, or the number of clusters, or how
                little they differ, allow no more: look at len(between)
    Raises UserError where there are too few utterances or clusters, or these do not differ; ValueError for numbers
    that are not finite.
    """
    kept = labels >= 0
    clusters, labels = np.unique(labels[kept], return_inverse=True)
    if len(clusters) < 2:
        raise UserError(
            "plda: it learns from the differences between clusters, and there are fewer than two; "
            "give other pseudo-labels, or leave plda out"
        )
    embeddings = embeddings[kept]
    mean, whitening = whiten(embeddings)
    if len(labels) - len(clusters) < whitening.shape[1]:
        raise UserError(
            f"plda: {len(labels):,} utterances in {len(clusters):,} clusters are too few to tell how "
            f"embeddings of {len(mean):,} numbers vary within one; give fewer clusters, or leave plda out"
        )
    centre, within, between = covariances(unit_whitened(embeddings, mean, whitening, np.float32), labels)
    # Directions in which W is 1 and B is diagonal; where that is not above 0, clusters differ by chance alone.
    variances, basis = scipy.linalg.eigh(between, within)
    chosen = np.flatnonzero(variances > 0)[::-1][:size]
    if not len(chosen):
        raise UserError(
            "plda: the clusters differ no more from each other than utterances of one do; "
            "give other pseudo-labels, or leave plda out"
        )
    return Plda(mean, whitening, centre, basis[:, chosen], variances[chosen])


def whiten(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [E] of embeddings [n, E], and the matrix [E, R] that makes their covariance the identity.

    Raises UserError when they are all alike.
    """
    mean = embeddings.mean(axis=0, dtype=np.float64)
    variances, directions = scipy.linalg.eigh(_scatter(embeddings, mean) / len(embeddings))
    if not variances[-1] > 0:
        raise UserError("plda: the labelled embeddings are all alike; take another checkpoint, or leave plda out")
    kept = variances > ROUNDING * variances[-1]
    return mean, directions[:, kept] / np.sqrt(variances[kept])


def unit_whitened(
    embeddings: np.ndarray, mean: np.ndarray, whitening: np.ndarray, kind: type = np.float64
) -> np.ndarray:
    """[n, E] -> [n, R] of length 1. Raises ValueError for numbers that are not finite."""
    unit = np.empty((len(embeddings), whitening.shape[1]), kind)
    for start, block in _blocks(embeddings):
        block = (block - mean) @ whitening
        lengths = np.linalg.norm(block, axis=1, keepdims=True)
        if not np.isfinite(lengths).all():
            raise ValueError("embeddings hold numbers that are not finite")
        unit[start : start + len(block)] = block / np.maximum(lengths, 1e-12)
    return unit


def covariances(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [R], covariance W [R, R] within clusters and B [R, R] between them, both unbiased.

    vectors  [n, R]
    labels   int [n] 0 .. clusters - 1, at least two, none of them empty
    By analysis of variance (Searle, Casella and McCulloch 1992, chapter 3): a closed form, to which EM added nothing
    on the mini corpus. B has negative directions where clusters differ less than by chance.
    """
    membership = csr_matrix((np.ones(len(labels), vectors.dtype), labels, np.arange(len(labels) + 1)))
    sums, counts = membership.T @ vectors, np.bincount(labels)
    total, clusters = len(labels), len(counts)
    centre = sums.sum(axis=0, dtype=np.float64) / total
    means = sums / counts[:, None] - centre
    of_means = (means.T * counts) @ means
    within = (_scatter(vectors, centre) - of_means) / (total - clusters)
    size = (total - np.sum(counts**2) / total) / (clusters - 1)  # of clusters, where they differ in it
    return centre, within, (of_means / (clusters - 1) - within) / size


def _scatter(vectors: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """[R, R] sum of (x - centre) (x - centre)'"""
    scatter = np.zeros((vectors.shape[1], vectors.shape[1]))
    for _, block in _blocks(vectors):
        scatter += (block - centre).T @ (block - centre)
    return scatter


def _blocks(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, some rows in float64)"""
    for start in range(0, len(vectors), BLOCK):
        yield start, vectors[start : start + BLOCK].astype(np.float64)
