"""SI-SNR and the permutation of the streams, against their definitions."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from cslib.objectives.csc.loss import best_permutation, pairwise_si_snr, without_outliers
from tests.objectives.csc.tiny_csc import (
    LABELS,
    batch_of,
    objective,
    take_steps,
)


def scalar_si_snr(estimate, source):
    estimate = [value - sum(estimate) / len(estimate) for value in estimate]
    source = [value - sum(source) / len(source) for value in source]
    gain = sum(e * s for e, s in zip(estimate, source, strict=True)) / sum(s * s for s in source)
    target = [gain * s for s in source]
    noise = [e - t for e, t in zip(estimate, target, strict=True)]
    return 10 * math.log10(sum(t * t for t in target) / sum(n * n for n in noise))


def test_si_snr_equals_its_definition_number_by_number():
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(2, 3, 200, generator=generator, dtype=torch.float64) + 0.2
    estimates = torch.randn(2, 3, 200, generator=generator, dtype=torch.float64)
    estimates[:, 0] += 5 * sources[:, 1]
    found = pairwise_si_snr(estimates, sources)
    for b, stream, speaker in itertools.product(range(2), range(3), range(3)):
        expected = scalar_si_snr(estimates[b, stream].tolist(), sources[b, speaker].tolist())
        assert found[b, stream, speaker].item() == pytest.approx(expected, abs=1e-3)
    torch.testing.assert_close(pairwise_si_snr(-7 * estimates + 1, sources), found, atol=1e-3, rtol=0)


def test_si_snr_of_a_good_separation_is_exact_under_autocast():
    sources = 0.1 * torch.randn(1, 2, 4000, generator=torch.Generator().manual_seed(0))
    estimates = sources + 1e-4 * torch.randn(1, 2, 4000, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        found = pairwise_si_snr(estimates, sources)[0].diagonal()
    assert (found - 60).abs().max() < 1


@pytest.mark.parametrize("silent", [(0,), (1,), (0, 1)])
def test_si_snr_of_silence_is_finite_and_so_is_its_gradient(silent):
    estimates, sources = torch.randn(1, 2, 50), torch.randn(1, 2, 50)
    if 0 in silent:
        estimates[:, 0] = 0
    if 1 in silent:
        sources[:, 0] = 0
    estimates.requires_grad_()
    found = pairwise_si_snr(estimates, sources)
    found.sum().backward()
    assert found.isfinite().all() and estimates.grad.isfinite().all()


def test_gradient_of_a_faint_stream_does_not_outweigh_all_others():
    sources = torch.randn(8, 2, 400, generator=torch.Generator().manual_seed(0))
    loudness = torch.ones(8, 2, 1)
    loudness[3, 1] = 1e-4
    streams = (loudness * (sources + sources.flip(1))).requires_grad_()
    streams.register_hook(without_outliers)
    pairwise_si_snr(streams, sources).diagonal(dim1=1, dim2=2).sum().backward()
    norms = streams.grad.norm(dim=-1)
    assert norms[3, 1].item() == pytest.approx(10 * norms.median().item(), rel=0.1)
    others = norms[loudness[..., 0] == 1]
    assert others.max() < 2 * others.min()
    assert not without_outliers(torch.zeros(2, 2, 5)).any()


def test_permutation_equals_brute_force_over_active_speakers():
    agreement = torch.randn(200, 3, 3, generator=torch.Generator().manual_seed(0))
    active = torch.rand(200, 3, generator=torch.Generator().manual_seed(1)) > 0.3
    for found, scores, speaks in zip(best_permutation(agreement, active), agreement, active, strict=True):
        totals = {
            order: sum(scores[stream, speaker].item() for speaker, stream in enumerate(order) if speaks[speaker])
            for order in itertools.permutations(range(3))
        }
        assert sorted(found.tolist()) == [0, 1, 2]
        assert totals[tuple(found.tolist())] == pytest.approx(max(totals.values()), abs=1e-5)


class Swapped(nn.Module):
    """The same network with its streams, and the embeddings with them, in another order."""

    def __init__(self, encoder, order):
        super().__init__()
        self.encoder, self.order, self.embedding_size = encoder, order, encoder.embedding_size

    def forward(self, mixture):
        streams, embeddings = self.encoder(mixture)
        return streams[:, self.order], embeddings[:, self.order]


@pytest.mark.parametrize("streams, order", [(2, [1, 0]), (3, [2, 0, 1])])
def test_one_permutation_serves_both_heads(corpus, streams, order):
    plain = objective(corpus, streams=streams, bank="fifo", labels=LABELS, mixtures={"single_p": 0.0})
    swapped = copy.deepcopy(plain)
    swapped.encoder = Swapped(swapped.encoder, order)
    for one, other in zip(take_steps(plain, 12), take_steps(swapped, 12), strict=True):
        torch.testing.assert_close(one.total, other.total)
    assert one.diagnostics["counted"] > 0.5
    torch.testing.assert_close(plain._last[0], swapped._last[0])  # embedding c belongs to speaker c


def test_embeddings_follow_the_order_of_the_speakers(corpus):
    csc = objective(corpus, bank="fifo", labels=LABELS, mixtures={"single_p": 0.0})
    batch = batch_of(csc)
    batch["noise"].zero_()
    batch["sir"].zero_()
    turned = {
        name: value.flip(1) if torch.is_tensor(value) and value.ndim > 1 and name != "sir" else value
        for name, value in batch.items()
    }
    with torch.no_grad():
        csc(batch)
        first = csc._last
        csc(turned)
    torch.testing.assert_close(csc._last[0], first[0].flip(1), atol=1e-4, rtol=1e-3)
    assert torch.equal(csc._last[1], first[1].flip(1))


def test_streams_can_be_assigned_by_contrast(corpus):
    csc = objective(corpus, bank="fifo", labels=LABELS, entries=3, permutation="contrast", mixtures={"single_p": 0.0})
    reference = objective(corpus, bank="fifo", labels=LABELS, entries=3, mixtures={"single_p": 0.0})
    with torch.no_grad():
        one, other = take_steps(csc, 1)[0], take_steps(reference, 1)[0]
        assert not csc.bank.ready and one.total == other.total  # no global vectors yet: SI-SNR
        take_steps(csc, 14, 1)
        assert csc.bank.ready
        csc.step, batch = 15, batch_of(csc, 15)
        _, embeddings = csc.encoder(csc._mix(batch)[0])
        csc(batch)
        for chosen, found, identity, origin in zip(
            csc._last[0], embeddings, batch["identity"], batch["origin"], strict=True
        ):
            if (identity < 0).any():
                continue
            totals = {
                order: csc._true_cosine(found[list(order)], identity, origin)[0].sum().item()
                for order in ((0, 1), (1, 0))
            }
            assert torch.equal(chosen, found[list(max(totals, key=totals.get))])


def test_silent_speaker_counts_in_neither_loss(corpus):
    csc = objective(corpus, bank="fifo", labels=LABELS, entries=3, mixtures={"single_p": 1.0})
    with torch.no_grad():
        take_steps(csc, 60)
        assert csc.bank.ready
        batch = batch_of(csc, 60)
        assert batch["active"].tolist() == [[True, False]] * 4
        one = csc(batch)
        batch["sources"][:, 1] = torch.randint(-3000, 3000, batch["sources"][:, 1].shape)
        batch["identity"][:, 1] = (batch["identity"][:, 1] + 1) % 4
        other = csc(batch)
    assert one.total == other.total and torch.isfinite(one.total)
    assert one.diagnostics["counted"] == pytest.approx((batch["identity"][:, 0] >= 0).sum().item() / 8)
    assert csc._last[-1][:, 1].sum() == 0  # nor does it enter the bank


def test_digital_silence_is_an_inactive_speaker(corpus):
    csc = objective(corpus, bank="batch", batch_size=4, mixtures={"single_p": 0.0})
    batch = batch_of(csc)
    batch["sources"][0, 1], batch["sources"][1, 0] = 0, 0
    losses = csc(batch)
    losses.total.backward()
    assert losses.total.isfinite() and all(value.isfinite() for value in losses.diagnostics.values())
    assert csc._last[-1].tolist() == [[True, False], [False, True], [True, True], [True, True]]
    assert losses.diagnostics["si_snr"] > -50  # silence would be far below
