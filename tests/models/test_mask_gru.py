"""The magnitude-mask network: its size, and that it only attenuates.

What it shares with other enhancement networks is in test_spectra.py.
"""

import pytest
import torch

from cslib.config import UserError
from cslib.models.layers.spectra import analyse
from cslib.models.mask_gru import Config, build


@pytest.mark.parametrize("hidden", [100, 24])
def test_parameter_count_follows_from_the_architecture(hidden):
    bands = 257

    def direction(inputs):
        return 3 * hidden * (inputs + hidden + 2)  # torch keeps two biases per gate

    expected = 2 * direction(bands) + 2 * direction(2 * hidden) + 2 * hidden * bands + bands
    total = sum(p.numel() for p in build(Config(hidden=hidden)).parameters())
    assert total == expected and (hidden == 24 or round(total / 1e6, 2) == 0.45)


def test_bands_are_only_attenuated_and_phases_kept():
    torch.manual_seed(0)
    model = build(Config(hidden=8))
    spectrum = analyse(0.1 * torch.randn(1, 4000), 512, 128)
    ratio = model.estimate(spectrum, None) / spectrum
    assert ratio.imag.abs().max() < 1e-4 and ratio.real.min() > 0 and ratio.real.max() < 1


def test_it_depends_on_the_past_and_the_future():
    torch.manual_seed(0)
    model = build(Config(hidden=8))
    audio = 0.1 * torch.randn(1, 6000)
    other = audio.clone()
    other[:, 5000:] *= -3
    assert (model(other) - model(audio))[:, :1000].abs().max() > 1e-6


@pytest.mark.parametrize("values", [{"hidden": 0}, {"layers": 0}])
def test_a_wrong_configuration_is_refused(values):
    with pytest.raises(UserError, match="must be at least 1"):
        build(Config(**values))
