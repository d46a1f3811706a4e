"""Filterbanks: from waveform to frames and back."""

import pytest
import torch
import torch.nn.functional as F

from cslib.models.layers.filterbanks import FourierFilterbank, LearntFilterbank


@pytest.mark.parametrize("window", [16, 400, 512])
def test_a_mask_of_one_reconstructs_the_signal(window):
    signal = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    bank = FourierFilterbank(window)
    padded = F.pad(signal, (window // 2, window))
    magnitudes, spectrum = bank.analyse(padded)
    back = bank.synthesise(torch.ones(2, magnitudes.shape[1], 3, bank.bands), spectrum)
    inside = slice(window // 2, window // 2 + 3000)
    assert torch.allclose(back[:, 2, inside], signal, atol=1e-5)


def test_magnitudes_are_those_of_the_fourier_transform_under_a_root_hann_window():
    signal = torch.randn(1, 400, generator=torch.Generator().manual_seed(1))
    magnitudes, _ = FourierFilterbank(400).analyse(signal)
    expected = torch.fft.rfft(signal * torch.hann_window(400).sqrt()).abs()
    assert torch.allclose(magnitudes[:, 0], expected, rtol=1e-3, atol=1e-4)


def test_each_stream_has_its_own_mask():
    bank = LearntFilterbank(8, 16)
    frames, carrier = bank.analyse(torch.randn(1, 160))
    masks = torch.stack([torch.ones_like(frames), torch.zeros_like(frames)], dim=2)
    streams = bank.synthesise(masks, carrier)
    assert streams.shape[:2] == (1, 2)
    assert streams[0, 0].abs().max() > 0 and streams[0, 1].abs().max() == 0


def test_a_silent_frame_has_a_finite_gradient():
    signal = torch.zeros(1, 800, requires_grad=True)
    magnitudes, _ = FourierFilterbank(400).analyse(signal)
    magnitudes.sum().backward()
    assert signal.grad.isfinite().all()
