"""Res2Net: its size, the receptive fields of its blocks, and independence of padding and batch."""

import pytest
import torch
import torch.nn.functional as F

from cslib.config import UserError
from cslib.models.res2net import Config, Res2Block, build

TINY = {
    "num_mels": 24,
    "channels": [4, 6],
    "blocks": [1, 2],
    "base_width": 32,
    "scale": 3,
    "embedding_size": 8,
}
LENGTHS = [16000, 12345, 8001]


def audio(*shape):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def trained(**values):
    """A network whose batch norms have seen data, so that a leak through them would show."""
    torch.manual_seed(0)
    network = build(Config(**{**TINY, **values}))
    network(audio(6, 16000))
    return network.eval()


def block_parameters(inputs, channels, scale, shortcut):
    """Convolutions have no bias; batch norms have a scale and a shift per channel."""
    width = channels * 26 // 64
    reduce = inputs * scale * width + 2 * scale * width
    cascade = (scale - 1) * (9 * width * width + 2 * width)  # one part has no convolution
    expand = scale * width * 4 * channels + 2 * 4 * channels
    return reduce + cascade + expand + shortcut * (inputs * 4 * channels + 2 * 4 * channels)


@pytest.mark.parametrize("scale, image_millions, total", [(8, 48.40, 56_832_216), (4, 25.70, 34_127_560)])
def test_parameter_count_follows_from_the_architecture(scale, image_millions, total):
    blocks, inputs = 0, 64
    for channels, count in zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True):
        for index in range(count):
            blocks += block_parameters(inputs, channels, scale, shortcut=not index)
            inputs = 4 * channels
    stem = 9 * 64 + 2 * 64
    projection = 2 * 2048 * 10 * 256 + 2 * 256  # mean and deviation of 80 / 8 bands; batch norm
    network = build(Config(scale=scale))
    assert sum(p.numel() for p in network.parameters()) == stem + blocks + projection == total
    # The published networks for images differ in their first and last layer alone.
    image_stem, classifier = 3 * 7 * 7 * 64 + 2 * 64, 2048 * 1000 + 1000
    assert (image_stem + blocks + classifier) / 1e6 == pytest.approx(image_millions, abs=0.005)


@pytest.mark.parametrize("factor, scale", [(3.25, 8), (1.625, 4)])
def test_published_width_factors_give_parts_of_26_channels(factor, scale):
    widths = [Res2Block(8, c, 1, base_width=26, scale=scale).parts[0][0].out_channels for c in (64, 128, 256, 512)]
    assert widths == [factor * c / scale for c in (64, 128, 256, 512)] == [26, 52, 104, 208]


@pytest.mark.parametrize("pooling", ["statistics", "attentive", "context"])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_embeddings_depend_neither_on_padding_nor_on_the_batch(pooling, stem_stride):
    network, batch = trained(pooling=pooling, stem_stride=stem_stride), audio(3, 16000)
    together = network.embed(batch, torch.tensor(LENGTHS))
    for row, length in enumerate(LENGTHS):
        alone = network.embed(batch[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_embedding_does_not_depend_on_the_level():
    network = trained()
    torch.testing.assert_close(network(audio(2, 16000)), network(0.1 * audio(2, 16000)), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("stride, reach", [(1, 4), (2, 1)])
def test_receptive_fields_of_parts_grow_except_in_blocks_with_a_stride(stride, reach):
    torch.manual_seed(0)
    block = Res2Block(16, 8, stride, base_width=64, scale=5).eval()
    x = torch.randn(1, 16, 21, 21, requires_grad=True)
    block(x, None, stride)[0, :, 10 // stride, 10 // stride].sum().backward()
    seen = x.grad[0].abs().sum(0) > 0
    expected = range(10 - reach, 11 + reach)
    assert seen.any(0).nonzero().flatten().tolist() == seen.any(1).nonzero().flatten().tolist() == [*expected]


@pytest.mark.parametrize("stride", [1, 2])
def test_last_part_has_no_convolution(stride):
    torch.manual_seed(0)
    block = Res2Block(16, 8, stride, base_width=64, scale=4).eval()
    assert len(block.parts) == 3
    for parameter in (*block.parts.parameters(), *block.shortcut.parameters()):
        parameter.data.zero_()
    x = torch.randn(1, 16, 9, 9)
    last = F.relu(block.reduce(x))[:, 24:]
    if stride == 2:
        padded = F.pad(last, (1, 1, 1, 1))
        last = torch.stack([padded[..., i : i + 9 : 2, j : j + 9 : 2] for i in range(3) for j in range(3)]).mean(0)
    expected = F.relu(block.expand(torch.cat([torch.zeros(1, 24, *last.shape[2:]), last], dim=1)))
    torch.testing.assert_close(block(x, None, stride), expected)


def test_every_parameter_gets_a_gradient():
    network = build(Config(**TINY, pooling="attentive"))
    network(audio(4, 8000)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_bfloat16_changes_an_embedding_by_little_and_trains():
    network = trained()
    exact = network(audio(3, 16000), torch.tensor(LENGTHS))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(audio(3, 16000), torch.tensor(LENGTHS))
        network.train()(audio(3, 16000)).float().square().sum().backward()
    assert F.cosine_similarity(rounded.float(), exact).min() > 0.99
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [None, torch.tensor(LENGTHS)])
def test_compiles_into_one_graph(lengths):
    network, batch = trained(), audio(3, 16000)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(batch, lengths), network(batch, lengths))


@pytest.mark.parametrize(
    "wrong", [{"pooling": "max"}, {"channels": []}, {"blocks": [1]}, {"scale": 1}, {"base_width": 10}]
)
def test_a_wrong_configuration_is_refused(wrong):
    with pytest.raises(UserError, match="network"):
        build(Config(**(TINY | wrong)))
