"""The reconstruction loss: what it is made of, where it is least, and that faint speech does no harm."""

import math

import pytest
import torch

from cslib.objectives.ccr.loss import reconstruction_loss, si_snr_loss, spectral_errors
from cslib.objectives.csc.objective import pairwise_si_snr

LEVEL = 10 ** (-25 / 20)


def speech(*shape, seed=1):
    return LEVEL * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_loss_is_zero_at_the_clean_speech():
    clean = speech(3, 8001)
    total, parts = reconstruction_loss(clean.clone(), clean)
    assert 0 <= total < 1e-3 and parts["complex"] == parts["magnitude"] == 0
    assert reconstruction_loss(torch.zeros(2, 800), torch.zeros(2, 800))[0] == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda clean: clean + 0.01 * speech(3, 8001, seed=2),
        lambda clean: 1.1 * clean,
        lambda clean: 0.9 * clean,
        lambda clean: -clean,
        lambda clean: clean.roll(5, 1),
        torch.zeros_like,
    ],
)
def test_any_change_has_a_positive_loss(change):
    clean = speech(3, 8001)
    assert reconstruction_loss(change(clean), clean)[0] > reconstruction_loss(clean, clean)[0] + 0.01


def test_more_noise_has_a_larger_loss():
    clean, noise = speech(3, 8000), speech(3, 8000, seed=2)
    losses = [reconstruction_loss(clean + gain * noise, clean)[0] for gain in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)]
    assert losses == sorted(losses)


def test_descending_from_noise_leads_to_the_clean_speech():
    clean = speech(1, 1000)
    estimate = (clean + speech(1, 1000, seed=2)).requires_grad_()
    optimiser = torch.optim.Adam([estimate], lr=3e-3)
    for _ in range(150):
        optimiser.zero_grad()
        reconstruction_loss(estimate, clean)[0].backward()
        optimiser.step()
    assert pairwise_si_snr(estimate[None], clean[None]).item() > 20
    assert estimate.detach().norm() / clean.norm() == pytest.approx(1, abs=0.05)


def test_the_parts_are_weighted_errors_of_compressed_spectra_and_si_snr():
    clean, enhanced = speech(2, 4096), speech(2, 4096) + 0.3 * speech(2, 4096, seed=2)

    def literal(audio):
        padded = torch.nn.functional.pad(audio, (384, 384))
        spectrum = torch.stft(padded, 512, 128, window=torch.hann_window(512), center=False, return_complex=True)
        return torch.polar(spectrum.abs() ** 0.3, spectrum.angle())

    difference, magnitudes = literal(enhanced) - literal(clean), literal(enhanced).abs() - literal(clean).abs()
    total, parts = reconstruction_loss(enhanced, clean)
    spectral = 30 * ((difference.real**2).mean() + (difference.imag**2).mean())
    torch.testing.assert_close(parts["complex"], spectral, rtol=1e-3, atol=0)
    torch.testing.assert_close(parts["magnitude"], 70 * (magnitudes**2).mean(), rtol=1e-3, atol=0)
    assert total == pytest.approx(float(sum(parts.values())), rel=1e-6)
    assert not any(part.requires_grad for part in parts.values())


@pytest.mark.parametrize("gain", [0.1, 1.0, 10.0])
def test_si_snr_is_in_tens_of_decibels_below_30(gain):
    clean = speech(1, 16000)
    enhanced = gain * (clean + 0.3 * speech(1, 16000, seed=2)) + 0.1
    si_snr = pairwise_si_snr(enhanced[None], clean[None]).item()
    assert si_snr_loss(enhanced, clean).item() == pytest.approx((30 - si_snr) / 10, abs=0.02)


def test_si_snr_is_bounded_from_both_sides():
    clean = speech(1, 16000)
    assert si_snr_loss(clean, clean) < 1e-3
    orthogonal = torch.sin(2 * math.pi * 40 * torch.arange(16000) / 16000)[None]
    assert 3 < si_snr_loss(orthogonal, torch.sin(2 * math.pi * 80 * torch.arange(16000) / 16000)[None]) < 10


def test_gradients_are_finite_in_silence_and_at_the_clean_speech():
    some, silent = speech(1, 4000), torch.zeros(1, 4000)
    for enhanced, clean in ((silent, silent), (silent, some), (some, silent), (some, some)):
        enhanced = enhanced.clone().requires_grad_()
        reconstruction_loss(enhanced, clean)[0].backward()
        assert enhanced.grad.isfinite().all()


def test_faint_speech_does_not_take_the_whole_gradient():
    clean = speech(2, 4000) * torch.tensor([[1.0], [1e-4]])
    enhanced = (clean + 0.3 * speech(2, 4000, seed=2)).requires_grad_()
    si_snr_loss(enhanced, clean).backward()
    loud, faint = enhanced.grad.norm(dim=1)
    assert faint < 0.1 * loud


def test_everything_is_in_float32_under_autocast():
    clean, enhanced = speech(1, 4000), speech(1, 4000) + 0.1 * speech(1, 4000, seed=2)
    expected = reconstruction_loss(enhanced, clean)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert reconstruction_loss(enhanced, clean)[0] == expected
        assert spectral_errors(enhanced.double(), clean)[0].dtype == torch.float32
