"""Identity attention in its lean form against the literal definition, which builds every global vector."""

import math

import pytest
import torch
import torch.nn.functional as F

from cslib.objectives.csc.identity_attention import ABSENT, IdentityAttention

QUERIES, IDENTITIES, ENTRIES, SIZE = 5, 11, 4, 8


def case(attention=True, chunk=16384, sharpness=3.0):
    """Attention with sharp preferences, queries, bank and a mask that leaves identity 3 without any entry."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layer = IdentityAttention(SIZE, attention, chunk)
    if attention:
        layer.query.weight.data *= sharpness * 3
    queries = F.normalize(torch.randn(QUERIES, SIZE, generator=generator), dim=-1).requires_grad_()
    bank = F.normalize(torch.randn(IDENTITIES, ENTRIES, SIZE, generator=generator), dim=-1)
    allowed = torch.rand(QUERIES, IDENTITIES, ENTRIES, generator=generator) > 0.3
    allowed[..., 0] = True
    allowed[:, 3] = False
    return layer, queries, bank, allowed


def literal(layer, queries, bank, allowed):
    """Equation by equation in float64: project, attend inside each identity, sum, normalise, compare."""
    queries, bank = queries.detach().double(), bank.double()
    cosines = torch.full(allowed.shape[:2], ABSENT, dtype=torch.float64)
    entropy = torch.zeros(allowed.shape[:2], dtype=torch.float64)
    for n, query in enumerate(queries):
        for j, entries in enumerate(bank):
            entries = entries[allowed[n, j]]
            if not len(entries):
                continue
            scores = torch.zeros(len(entries), dtype=torch.float64)
            if layer.attention:
                asked, keys = layer.query.weight.double() @ query, entries @ layer.key.weight.double().T
                scores = keys @ asked / math.sqrt(SIZE)
            weights = torch.softmax(scores, 0)
            cosines[n, j] = query @ F.normalize(weights @ entries, dim=0)
            entropy[n, j] = -(weights * weights.log()).sum() / math.log(max(2, len(entries)))
    return cosines.detach(), entropy.detach()


@pytest.mark.parametrize("attention", [True, False])
def test_memory_efficient_form_equals_the_definition(attention):
    layer, queries, bank, allowed = case(attention)
    cosines, entropy = layer.cosines(queries, bank, allowed)
    expected, expected_entropy = literal(layer, queries, bank, allowed)
    torch.testing.assert_close(cosines.double(), expected, atol=2e-6, rtol=0)
    there = allowed.any(-1)
    torch.testing.assert_close(entropy.double()[there], expected_entropy[there], atol=1e-5, rtol=0)


def test_without_attention_the_global_vector_is_the_mean_of_the_allowed_entries():
    layer, queries, bank, allowed = case(attention=False)
    assert not list(layer.parameters())
    mean = F.normalize((allowed[..., None] * bank).sum(2), dim=-1)
    expected = torch.einsum("ne,nje->nj", queries, mean).masked_fill(~allowed.any(-1), ABSENT)
    torch.testing.assert_close(layer.cosines(queries, bank, allowed)[0], expected)


def test_cosine_to_one_identity_per_query_is_that_of_the_whole_table():
    layer, queries, bank, allowed = case()
    own = torch.tensor([0, 3, 10, 5, 5])
    rows = torch.arange(QUERIES)
    cosines, entropy = layer.cosines(queries, bank, allowed)
    found, found_entropy = layer.cosines_to(queries, bank[own], allowed[rows, own])
    torch.testing.assert_close(found, cosines[rows, own])
    torch.testing.assert_close(found_entropy, entropy[rows, own])


@pytest.mark.parametrize("chunk", [1, 4, 10])
def test_chunked_sum_equals_the_whole_one_forward_and_backward(chunk):
    results = []
    for size in (16384, chunk):
        layer, queries, bank, allowed = case(chunk=size)
        scale = torch.tensor(7.0, requires_grad=True)
        log_sum, largest, present = layer.log_partition(queries, scale, bank, lambda part, a=allowed: a[:, part])
        (log_sum * torch.arange(1.0, QUERIES + 1)).sum().backward()
        results.append(
            (
                log_sum,
                largest,
                present,
                queries.grad,
                scale.grad,
                layer.query.weight.grad,
                layer.key.weight.grad,
            )
        )
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-5)


def test_sum_runs_over_every_identity_with_an_allowed_entry_and_no_other():
    layer, queries, bank, allowed = case(chunk=4)
    allowed[2, 7] = False
    log_sum, largest, present = layer.log_partition(queries, torch.tensor(7.0), bank, lambda part: allowed[:, part])
    expected, _ = literal(layer, queries, bank, allowed)
    there = allowed.any(-1)
    for n in range(QUERIES):
        cosines = expected[n, there[n]]
        assert log_sum[n].item() == pytest.approx(math.log((7 * cosines).exp().sum()), abs=1e-5)
        assert largest[n].item() == pytest.approx(cosines.max().item(), abs=1e-5)
        assert present[n] == len(cosines) == (IDENTITIES - 2 if n == 2 else IDENTITIES - 1)


def test_query_without_allowed_entries_stays_finite():
    layer, queries, bank, allowed = case(chunk=4)
    allowed[0] = False
    log_sum, _, present = layer.log_partition(queries, torch.tensor(7.0), bank, lambda part: allowed[:, part])
    log_sum[1:].sum().backward()
    assert log_sum.isfinite().all() and present[0] == 0
    assert queries.grad.isfinite().all() and layer.query.weight.grad.isfinite().all()


def test_query_and_both_projections_learn_and_the_bank_does_not():
    layer, queries, bank, allowed = case()
    layer.cosines(queries, bank, allowed)[0].masked_select(allowed.any(-1)).sum().backward()
    assert all(value.grad.abs().max() > 1e-4 for value in (queries, layer.query.weight, layer.key.weight))
    assert bank.grad is None and not bank.requires_grad


def test_gradient_is_that_of_the_definition():
    layer, queries, bank, allowed = case(sharpness=1.0)
    layer, bank, queries = layer.double(), bank.double(), queries.detach().double().requires_grad_()

    def attended(queries, query_weight, key_weight):
        scores = torch.einsum("ne,jme->njm", queries @ query_weight.T, bank @ key_weight.T) / math.sqrt(SIZE)
        weights = torch.softmax(scores.masked_fill(~allowed, -math.inf), -1)
        vectors = F.normalize(torch.einsum("njm,jme->nje", weights, bank), dim=-1)
        return torch.einsum("ne,nje->nj", queries, vectors)

    allowed[:, 3, 0] = True
    inputs = queries, layer.query.weight, layer.key.weight
    expected = torch.autograd.grad(attended(*inputs).square().sum(), inputs)
    single = layer.float()
    found_inputs = queries.detach().float().requires_grad_(), single.query.weight, single.key.weight
    cosines, _ = single.cosines(found_inputs[0], bank.float(), allowed)
    found = torch.autograd.grad(cosines.square().sum(), found_inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other.double(), atol=1e-4, rtol=1e-3)


def test_entropy_is_one_for_equal_weights_and_zero_for_a_single_entry():
    layer, queries, bank, _ = case()
    all_allowed = torch.ones(QUERIES, IDENTITIES, ENTRIES, dtype=torch.bool)
    copies = bank[:, :1].expand(-1, ENTRIES, -1)
    torch.testing.assert_close(layer.cosines(queries, copies, all_allowed)[1], torch.ones(QUERIES, IDENTITIES))
    layer.query.weight.data *= 1e5  # picks one entry
    assert layer.cosines(queries, bank, all_allowed)[1].max() < 1e-3
    one_only = all_allowed & (torch.arange(ENTRIES) == 2)
    assert layer.cosines(queries, bank, one_only)[1].abs().max() < 1e-6


def test_autocast_does_not_lower_the_precision():
    layer, queries, bank, allowed = case()
    expected = layer.cosines(queries, bank, allowed)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = layer.cosines(queries, bank, allowed)[0]
        single, _ = layer.cosines_to(queries, bank[:QUERIES], allowed[:, 0])
    assert found.dtype == single.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
