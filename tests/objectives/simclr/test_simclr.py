"""SimCLR against its equation, transcribed literally."""

import math

import pytest
import torch
import torch.nn.functional as F

from cslib.config import UserError
from cslib.objectives.crops import augmented, embed_each
from cslib.objectives.simclr.loss import nt_xent_loss
from tests.objectives.tiny_siamese import batch_of, make_task, means_of, objective, unit_vectors


@pytest.fixture
def task(tmp_path):
    return make_task(tmp_path)


def literal_nt_xent(points, temperature):
    """Equation 1 and algorithm 1 of Chen et al. (2020); points are in the order x_1, x'_1, x_2, x'_2, ..."""
    total, count = 0.0, len(points)

    def term(i, j):
        cosine = sum(a * b for a, b in zip(points[i], points[j], strict=True))
        return torch.exp(cosine / temperature)

    for i in range(count):
        j = i + 1 if i % 2 == 0 else i - 1
        denominator = sum(term(i, k) for k in range(count) if k != i)
        total = total - torch.log(term(i, j) / denominator)
    return total / count


@pytest.mark.parametrize("temperature", [0.03, 0.5])
@pytest.mark.parametrize("count", [2, 5])
def test_loss_and_gradient_are_those_of_the_equation(count, temperature):
    leaf, points = unit_vectors(count, 2, 4)
    wanted = literal_nt_xent(points.flatten(0, 1), temperature)
    (gradient,) = torch.autograd.grad(wanted, leaf, retain_graph=True)
    found = nt_xent_loss(*points.unbind(1), temperature)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, leaf)[0], gradient)


def test_equal_points_have_the_loss_of_a_guess():
    points = torch.ones(5, 3, dtype=torch.float64) / 3**0.5
    assert nt_xent_loss(points, points, 0.1).item() == pytest.approx(math.log(9))


@pytest.mark.parametrize("widths", [[], [10, 6]])
def test_loss_of_a_step_is_the_equation_of_the_networks_outputs(task, widths):
    simclr = objective("simclr", task, projector=widths, temperature=0.2)
    batch = batch_of(simclr)
    with torch.no_grad():
        embeddings = embed_each(simclr.encoder, augmented(batch, "global")).flatten(0, 1)
        points = F.normalize(simclr.projector(embeddings), dim=-1).double()
    told = simclr(batch)
    assert told.total.item() == pytest.approx(literal_nt_xent(points, 0.2).item(), rel=1e-5)
    cosine = (points[0::2] * points[1::2]).sum(-1).mean()
    assert means_of(told)["positive_cosine"] == pytest.approx(cosine.item(), rel=1e-5)


def test_a_batch_larger_than_the_set_and_a_temperature_of_zero_are_refused(task):
    with pytest.raises(UserError, match="objective.temperature is 0.0; it must be more than 0"):
        objective("simclr", task, temperature=0.0)
    task.batch_size = 9
    with pytest.raises(UserError, match="training.batch_size is 9; it must be at most 8, the utterances to learn from"):
        objective("simclr", task)
