"""The time-frequency conformer: its size, and its parts.

What it shares with other enhancement networks is in test_spectra.py.
"""

import pytest
import torch
from torch import nn

from cslib.config import UserError
from cslib.models.layers.spectra import analyse
from cslib.models.tf_conformer import Attention, Config, Conformer, Convolution, DenseBlock, build

TINY = {"channels": 8, "blocks": 1, "heads": 2, "dense_layers": 2, "kernel": 7}


def noise(*shape, seed=1):
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("values", [{}, TINY])
def test_parameter_count_follows_from_the_architecture(values):
    config = Config(**values)
    width, layers, kernel = config.channels, config.dense_layers, config.kernel

    def convolution(inputs, outputs, size):
        return inputs * outputs * size + outputs

    norm_and_prelu = 3 * width
    dense = sum(convolution(width * depth, width, 2 * 3) + norm_and_prelu for depth in range(1, layers + 1))
    encoder = convolution(3, width, 1) + dense + convolution(width, width, 3) + 2 * norm_and_prelu
    decoders = 2 * (dense + convolution(width, width, 3) + norm_and_prelu) + convolution(width, 3, 1)
    feed_forward = 2 * width + convolution(width, 4 * width, 1) + convolution(4 * width, width, 1)
    attention = 2 * width + convolution(width, 3 * width, 1) + convolution(width, width, 1)
    gated = (
        2 * width
        + convolution(width, 4 * width, 1)
        + 2 * width * (kernel + 1)
        + 4 * width
        + convolution(2 * width, width, 1)
    )
    conformer = 2 * feed_forward + attention + gated + 2 * width
    total = sum(p.numel() for p in build(config).parameters())
    assert total == encoder + decoders + 101 * width + 2 * config.blocks * conformer
    assert values or round(total / 1e6, 2) == 1.24


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    mine, theirs, rows = Attention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True), noise(3, 9, 8)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = mine.project.weight.data, mine.project.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = mine.output.weight.data, mine.output.bias.data
    inside = torch.arange(9) < torch.tensor([[9], [4], [1]])
    query = mine.norm(rows)
    for mask in (None, inside):
        expected, _ = theirs(query, query, query, key_padding_mask=None if mask is None else ~mask)
        torch.testing.assert_close(mine(rows, mask), expected)


def test_depthwise_convolution_is_that_of_each_channel():
    torch.manual_seed(0)
    part, rows = Convolution(4, 5), noise(2, 9, 4)
    gated = nn.functional.glu(part.gate(part.norm_in(rows)), dim=-1)
    padded, weight = nn.functional.pad(gated, (0, 0, 2, 2)), part.depthwise.weight[:, 0]
    mixed = sum(padded[:, tap : tap + 9] * weight[:, tap] for tap in range(5)) + part.depthwise.bias
    torch.testing.assert_close(part(rows, None), part.output(nn.functional.silu(part.norm_out(mixed))))


def test_padding_of_rows_is_left_out():
    torch.manual_seed(0)
    part, rows = Conformer(Config(**TINY)).eval(), noise(2, 9, 8)
    together = part(rows, torch.arange(9) < torch.tensor([[9], [5]]))
    torch.testing.assert_close(together[1:, :5], part(rows[1:, :5], None))


def test_dense_block_looks_back_by_the_sum_of_its_dilations():
    torch.manual_seed(0)
    block, x = DenseBlock(4, 3).eval(), noise(1, 4, 20, 5)
    other = x.clone()
    other[:, :, 8] += 1
    changed = (block(other) - block(x)).abs().amax((0, 1, 3)) > 1e-6
    assert changed.nonzero().flatten().tolist() == list(range(8, 8 + 1 + 2 + 4 + 1))


def test_residual_can_add_what_a_mask_cannot():
    torch.manual_seed(0)
    model, spectrum = build(Config(**TINY)).eval(), analyse(noise(1, 2000), 400, 100)
    spectrum[:, :, 50] = 0
    with torch.no_grad():
        model.to_residual[-1].bias.copy_(torch.tensor([0.5, -0.5]))
    enhanced = model.estimate(spectrum, None)
    assert enhanced[:, :, 50].abs().min() > 1e-3
    assert not model.estimate(torch.zeros_like(spectrum), None).abs().any()


def test_bands_have_vectors_of_their_own():
    torch.manual_seed(0)
    model = build(Config(**TINY)).eval()
    spectrum = torch.ones(1, 30, 201, dtype=torch.complex64)
    before = model.estimate(spectrum, None)
    with torch.no_grad():
        model.band[40] += 1.0
    assert (model.estimate(spectrum, None) - before)[0, 15, 80].abs() > 1e-4


@pytest.mark.parametrize(
    "values", [{"heads": 3}, {"kernel": 4}, {"dropout": 1.0}, {"channels": 0}, {"blocks": -1}, {"dense_layers": 0}]
)
def test_a_wrong_configuration_is_refused(values):
    with pytest.raises(UserError, match="must be"):
        build(Config(**values))
