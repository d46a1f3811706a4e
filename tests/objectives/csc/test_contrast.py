"""The contrastive loss, and how both losses make up the objective."""

import math

import pytest
import torch
import torch.nn.functional as F

from cslib.objectives.csc.identity_attention import IdentityAttention
from tests.objectives.csc.tiny_csc import LABELS, SIZE, batch_of, objective, take_steps


@pytest.mark.parametrize(
    "identities, alpha, floor",
    [
        (251, 1, 3.55),
        (251, 2, 1.72),
        (251, 5, 0.0113),
        (1172, 1, 5.07),
        (1172, 2, 3.11),
        (1172, 5, 0.052),
        (5994, 1, 6.70),
        (5994, 2, 4.71),
        (5994, 5, 0.241),
        (65536, 1, 9.09),
        (65536, 5, 1.38),
        (65536, 10, 0.0001),
    ],
)
def test_loss_floor_of_orthogonal_identities_is_that_of_the_temperature(identities, alpha, floor):
    attention = IdentityAttention(2, attention=False, chunk=5000)
    bank = torch.tensor([[[0.0, 1.0]]]).repeat(identities, 1, 1)
    bank[17] = torch.tensor([[1.0, 0.0]])
    allowed = torch.ones(1, identities, 1, dtype=torch.bool)
    query, scale = torch.tensor([[1.0, 0.0]]), torch.tensor(2.0 * alpha)
    log_sum, largest, _ = attention.log_partition(query, scale, bank, lambda part: allowed[:, part])
    loss = (log_sum - scale * largest).item()
    assert loss == pytest.approx(math.log1p((identities - 1) * math.exp(-2 * alpha)), abs=1e-5)
    assert loss == pytest.approx(floor, rel=0.02, abs=1e-4)


def test_a_constant_per_query_changes_neither_loss_nor_gradient():
    cosines = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    beta = torch.randn(5, 1, generator=torch.Generator().manual_seed(1)).requires_grad_()
    target = torch.arange(5)
    distance = F.cross_entropy(-(10 * (2 - 2 * cosines) + beta), target)  # the distance critic
    torch.testing.assert_close(distance, F.cross_entropy(20 * cosines, target))
    assert torch.autograd.grad(distance, beta)[0].abs().max() < 1e-6


def gradient_of(csc, part):
    """Names of the parameters that a part of the loss moves, after the banks have been filled."""
    with torch.no_grad():
        take_steps(csc, 12)
    csc.step = 12
    csc.config.separation_weight = float(part == "separation")
    csc.config.contrast_weight = (float(part == "contrast"),) * 2
    csc.zero_grad()
    losses = csc(batch_of(csc, 12))
    assert losses.diagnostics["counted"] > 0
    losses.total.backward()
    return {name for name, p in csc.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


@pytest.mark.parametrize(
    "values",
    [{"bank": "swap"}, {"bank": "batch", "entries": 4}, {"bank": "fifo", "labels": LABELS, "entries": 3}],
)
def test_both_losses_train_the_trunk_and_each_its_own_branch(corpus, values):
    found = {part: gradient_of(objective(corpus, batch_size=8, **values), part) for part in ("separation", "contrast")}

    def trained_by(prefix):
        names = {name for name, _ in objective(corpus, **values).named_parameters() if name.startswith(prefix)}
        assert names
        return {part for part, moved in found.items() if names <= moved}, {
            part for part, moved in found.items() if names & moved
        }

    for trunk in ("encoder.filterbank.analysis", "encoder.bottleneck", "encoder.shared"):
        assert trained_by(trunk)[0] == {"separation", "contrast"}
    for branch in ("encoder.speech", "encoder.gate", "encoder.to_mask", "encoder.filterbank.synthesis"):
        assert trained_by(branch) == ({"separation"}, {"separation"})
    for branch in ("encoder.speaker", "encoder.pool", "log_alpha", "attention.query", "attention.key"):
        assert trained_by(branch) == ({"contrast"}, {"contrast"})


@pytest.mark.slow
@pytest.mark.parametrize("values", [{"bank": "swap"}, {"bank": "fifo", "labels": LABELS}, {"global_vector": "table"}])
def test_a_batch_of_one_mixture_works(corpus, values):
    csc = objective(corpus, batch_size=1, mixtures={"single_p": 0.5}, **values)
    with torch.no_grad():
        for losses in take_steps(csc, 50):
            assert losses.total.isfinite() and all(value.isfinite() for value in losses.diagnostics.values())
    assert losses.diagnostics["counted"] > 0
    csc(batch_of(csc, 50)).total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in csc.parameters())


@pytest.mark.parametrize("values", [{"bank": "batch", "entries": 4}, {"global_vector": "table", "table_margin": 0.2}])
def test_bfloat16_changes_the_losses_little_and_leaves_them_finite(corpus, values):
    csc = objective(corpus, batch_size=8, **values)
    batch = batch_of(csc)
    expected = csc(batch)
    with torch.autocast("cpu", torch.bfloat16):
        losses = csc(batch)
    losses.total.backward()
    assert all(p.grad.isfinite().all() for p in csc.parameters() if p.grad is not None)
    assert losses.total.dtype == torch.float32
    assert losses.parts["separation"].item() == pytest.approx(expected.parts["separation"].item(), abs=0.5)
    assert losses.parts["contrast"].item() == pytest.approx(expected.parts["contrast"].item(), abs=0.2)


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_table_with_a_margin_is_aam_softmax(corpus, margin):
    csc = objective(corpus, labels=LABELS, global_vector="table", table_margin=margin, alpha=8.0)
    embeddings = F.normalize(torch.randn(4, 2, SIZE, generator=torch.Generator().manual_seed(0)), dim=-1)
    identity = torch.tensor([[0, 1], [2, 3], [3, -1], [1, 2]])
    active = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    found, _ = csc._contrast(embeddings, identity, torch.arange(8).view(4, 2), active)
    expected = []
    for v, y in zip(embeddings[active & (identity >= 0)], identity[active & (identity >= 0)], strict=True):
        angles = torch.arccos(F.normalize(csc.table, dim=-1) @ v)
        widened = angles + margin * F.one_hot(y, 4)
        expected.append(F.cross_entropy(16 * torch.cos(widened), y))
    torch.testing.assert_close(found, torch.stack(expected).mean(), atol=1e-4, rtol=1e-4)


def test_weight_of_the_contrast_rises_over_the_first_half(corpus):
    csc, found = objective(corpus, steps=200, contrast_weight=(1.0, 5.0)), []
    for step in (0, 25, 50, 100, 199):
        csc.step = step
        found.append(csc.contrast_weight())
    assert found == pytest.approx([1, 2, 3, 5, 5])


def test_total_is_the_weighted_sum_of_its_parts(corpus):
    csc = objective(corpus, bank="batch", separation_weight=0.5, contrast_weight=(3.0, 3.0))
    losses = csc(batch_of(csc))
    torch.testing.assert_close(losses.total, 0.5 * losses.parts["separation"] + 3 * losses.parts["contrast"])


def test_inverse_temperature_is_learnt_clamped_and_can_return(corpus):
    csc = objective(corpus, bank="batch", alpha=7.0)
    assert csc.scale.item() == pytest.approx(14)
    csc.log_alpha.data += 10
    take_steps(csc, 1)
    assert csc.scale.item() == pytest.approx(100)
    optimiser = torch.optim.SGD([csc.log_alpha], lr=1e-3)
    csc(batch_of(csc)).total.backward()  # an untrained network: too sure of itself at this alpha
    assert csc.log_alpha.grad > 1
    optimiser.step()
    csc.after_step()
    assert csc.scale.item() < 99.9
