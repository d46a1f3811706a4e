"""Losses on the covariance of embeddings over a batch: dimensions in use, and independent of each other.

variance_and_covariance_losses     as in VICReg (Bardes et al. 2022, arXiv 2105.04906, equations 1 to 4)
frobenius_loss, off_diagonal_loss  of the covariance whatever its scale

Shapes: B points of E dimensions, B >= 2. Everything is computed in the precision of the points, under autocast too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def covariance_of(points: Tensor) -> Tensor:
    """Unbiased covariance [E, E] of points [B, E]."""
    with torch.autocast(points.device.type, enabled=False):
        centred = points - points.mean(0)
        return centred.T @ centred / (len(centred) - 1)


def variance_and_covariance_losses(points: Tensor) -> tuple[Tensor, Tensor]:
    """Two scalars, of points [B, E]:

    mean shortfall of the standard deviations below 1: from 0 to 1, where all points are the same
    sum of the squared covariances of different dimensions, divided by E
    """
    covariance = covariance_of(points)
    variance = covariance.diagonal()
    shortfall = F.relu(1 - (variance + 1e-4).sqrt()).mean()
    return shortfall, (covariance.square().sum() - variance.square().sum()) / len(covariance)


def frobenius_loss(points: Tensor) -> Tensor:
    """log of the squared Frobenius norm of the covariance, scaled to trace 1, of points [B, E].

    It is minus the log of the effective rank: 0 when all points lie on a line, -ln E when all dimensions are
    independent and equally large. (FroSSL: Skean et al. 2024, arXiv 2310.02903, has one such term for each crop.)
    """
    return _of_trace_one(covariance_of(points)).square().sum().log()


def off_diagonal_loss(points: Tensor) -> Tensor:
    """Sum of the squared covariances of different dimensions, divided by E, at a mean variance of 1; points [B, E]."""
    covariance = len(points.T) * _of_trace_one(covariance_of(points))
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / len(covariance)


def _of_trace_one(covariance: Tensor) -> Tensor:
    return covariance / covariance.trace().clamp(min=1e-12)
