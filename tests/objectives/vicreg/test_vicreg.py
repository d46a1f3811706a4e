"""VICReg against its equations, transcribed literally."""

import pytest
import torch

from cslib.config import UserError
from cslib.objectives.crops import augmented, embed_each
from cslib.objectives.vicreg.loss import vicreg_terms
from tests.objectives.tiny_siamese import batch_of, make_task, objective, unit_vectors


@pytest.fixture
def task(tmp_path):
    return make_task(tmp_path)


def literal_terms(first, second):
    """Equations 1 to 6 of Bardes et al. (2022), one number at a time; invariance is also divided by the dimensions."""
    count, size = first.shape

    def mean_of(z, j):
        return sum(z[i, j] for i in range(count)) / count

    def covariance(z, j, k):
        products = [(z[i, j] - mean_of(z, j)) * (z[i, k] - mean_of(z, k)) for i in range(count)]
        return sum(products) / (count - 1)

    def v(z):
        deviations = [(covariance(z, j, j) + 1e-4).sqrt() for j in range(size)]
        return sum(torch.clamp(1 - deviation, min=0) for deviation in deviations) / size

    def c(z):
        return sum(covariance(z, j, k) ** 2 for j in range(size) for k in range(size) if j != k) / size

    distance = sum((first[i, j] - second[i, j]) ** 2 for i in range(count) for j in range(size)) / count
    return {"invariance": distance / size, "variance": v(first) + v(second), "covariance": c(first) + c(second)}


@pytest.mark.parametrize("scale", [0.1, 3.0])
@pytest.mark.parametrize("count, size", [(2, 3), (6, 4)])
def test_terms_and_gradients_are_those_of_the_equations(count, size, scale):
    leaf, points = unit_vectors(count, 2, size)
    first, second = (scale * points).unbind(1)
    wanted, found = literal_terms(first, second), vicreg_terms(first, second)
    assert wanted.keys() == found.keys()
    for term in wanted:
        torch.testing.assert_close(found[term], wanted[term])
        (gradient,) = torch.autograd.grad(wanted[term], leaf, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(found[term], leaf, retain_graph=True)[0], gradient)


def test_one_point_for_all_crops_has_a_variance_term_of_two():
    terms = vicreg_terms(torch.ones(6, 3), torch.ones(6, 3))
    assert terms["invariance"] == 0 and terms["covariance"] == 0 and terms["variance"].item() == pytest.approx(1.98)


def test_loss_of_a_step_is_the_weighted_sum_of_the_terms_of_unnormalised_points(task):
    weights = {"invariance_weight": 25.0, "variance_weight": 3.0, "covariance_weight": 0.5}
    vicreg = objective("vicreg", task, projector=[10, 6], **weights)
    batch = batch_of(vicreg)
    with torch.no_grad():
        embeddings = embed_each(vicreg.encoder, augmented(batch, "global"))
        points = vicreg.projector(embeddings.flatten(0, 1)).unflatten(0, (8, 2)).double()
    terms = literal_terms(*points.unbind(1))
    told = vicreg(batch)
    wanted = 25 * terms["invariance"] + 3 * terms["variance"] + 0.5 * terms["covariance"]
    assert told.total.item() == pytest.approx(wanted.item(), rel=1e-4)
    for term, value in told.parts.items():
        assert value.item() == pytest.approx(terms[term].item(), rel=1e-4)


def test_a_negative_weight_is_refused(task):
    with pytest.raises(UserError, match="objective.covariance_weight is -1.0; it must be at least 0"):
        objective("vicreg", task, covariance_weight=-1.0)
