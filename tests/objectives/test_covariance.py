"""Losses on covariances against eigenvalues and literal sums."""

import math

import numpy as np
import pytest
import torch

from cslib.objectives.covariance import covariance_of, frobenius_loss, off_diagonal_loss
from cslib.objectives.crops import embedding_diagnostics


def points(seed=0):
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([0.2, 1.0, 3.0, 0.5], dtype=torch.float64)
    mix = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    return torch.randn(30, 4, dtype=torch.float64, generator=generator) * spread @ mix + 5


def test_covariance_is_numpys():
    np.testing.assert_allclose(covariance_of(points()).numpy(), np.cov(points().numpy().T))


def test_frobenius_loss_is_minus_the_log_of_the_effective_rank():
    eigenvalues = np.linalg.eigvalsh(np.cov(points().numpy().T))
    rank = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert frobenius_loss(points()).item() == pytest.approx(-math.log(rank))
    watched = embedding_diagnostics(torch.stack([points(), points(1)], dim=1))["effective_rank"]
    assert frobenius_loss(points()).item() == pytest.approx(-math.log(watched.item()))


def test_frobenius_loss_reaches_its_bounds():
    independent = torch.cat([torch.eye(5), -torch.eye(5)]).double()
    assert frobenius_loss(independent).item() == pytest.approx(-math.log(5))
    line = torch.arange(6.0, dtype=torch.float64)[:, None] * torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    assert frobenius_loss(line).item() == pytest.approx(0, abs=1e-9)


def test_off_diagonal_loss_is_the_literal_sum():
    covariance = np.cov(points().numpy().T)
    covariance = covariance / np.mean(np.diag(covariance))
    wanted = sum(covariance[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 4
    assert off_diagonal_loss(points()).item() == pytest.approx(wanted)


@pytest.mark.parametrize("loss", [frobenius_loss, off_diagonal_loss])
def test_scale_does_not_count_and_gradients_are_right(loss):
    assert loss(7 * points()).item() == pytest.approx(loss(points()).item())
    assert torch.autograd.gradcheck(loss, points().requires_grad_())
    collapsed = torch.ones(4, 3, dtype=torch.float64).requires_grad_()
    loss(collapsed + 1e-3 * points()[:4, :3]).backward()
    assert collapsed.grad.isfinite().all()
