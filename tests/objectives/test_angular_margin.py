"""The angles of angular margins, against acos and cos."""

import math

import pytest
import torch

from cslib.objectives.angular_margin import add_angle, subtract_angle
from cslib.objectives.csc.loss import contrastive_losses
from cslib.objectives.margin.loss import cross_entropies, with_margin

ANGLES = torch.linspace(0.01, math.pi - 0.01, 500, dtype=torch.float64)


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5])
def test_angles_grow_and_shrink_by_the_margin(margin):
    below, above = ANGLES + margin < math.pi, ANGLES - margin > 0
    torch.testing.assert_close(add_angle(ANGLES.cos(), margin)[below], (ANGLES + margin).cos()[below])
    torch.testing.assert_close(subtract_angle(ANGLES.cos(), margin)[above], (ANGLES - margin).cos()[above])


def test_both_fall_with_the_angle_beyond_its_range_too():
    for moved in (add_angle(ANGLES.cos(), 0.5), subtract_angle(ANGLES.cos(), 0.5)):
        assert (moved.diff() < 0).all()


def test_csc_and_margin_have_the_same_loss():
    generator = torch.Generator().manual_seed(0)
    cosines = 2 * torch.rand(50, 7, dtype=torch.float64, generator=generator) - 1
    labels, scale = torch.arange(50) % 7, torch.tensor(20.0, dtype=torch.float64)
    true, log_sum = cosines.gather(1, labels[:, None])[:, 0], (scale * cosines).logsumexp(1)
    for margin in (0.0, 0.2):
        wanted = cross_entropies(scale * with_margin(cosines, labels, margin), labels)
        torch.testing.assert_close(contrastive_losses(true, log_sum, scale, margin), wanted, atol=1e-4, rtol=1e-4)
