"""ECAPA-TDNN: its published sizes, the receptive fields of its blocks, and independence of padding and batch."""

import pytest
import torch
import torch.nn.functional as F

from cslib.config import UserError
from cslib.models.ecapa import Config, SERes2Block, build

TINY = {
    "num_mels": 24,
    "channels": 16,
    "scale": 4,
    "squeeze": 6,
    "aggregation": 12,
    "attention": 5,
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


@pytest.mark.parametrize("channels, millions", [(512, 6.2), (1024, 14.7)])
def test_parameter_counts_are_the_published_ones(channels, millions):
    mels, scale, squeeze, joined, attention, embedding = 80, 8, 128, 1536, 128, 192
    part = channels // scale
    stem = mels * channels * 5 + channels + 2 * channels  # weights, biases; scale and shift of the batch norm
    mixing = channels * channels + channels + 2 * channels
    cascade = (scale - 1) * (3 * part * part + part + 2 * part)  # one part has no convolution
    excitation = (channels * squeeze + squeeze) + (squeeze * channels + channels)
    block = mixing + cascade + mixing + excitation
    aggregation = 3 * channels * joined + joined
    pooling = (3 * joined * attention + attention) + (attention * joined + joined)  # frame, mean, deviation
    projection = 2 * 2 * joined + (2 * joined * embedding + embedding) + 2 * embedding
    expected = stem + 3 * block + aggregation + pooling + projection
    assert sum(p.numel() for p in build(Config(channels=channels)).parameters()) == expected
    assert expected / 1e6 == pytest.approx(millions, rel=0.003)


@pytest.mark.parametrize("pooling", ["statistics", "attentive", "context"])
@pytest.mark.parametrize("stem_stride", [1, 2, 3])
def test_embeddings_depend_neither_on_padding_nor_on_the_batch(pooling, stem_stride):
    network, batch = trained(pooling=pooling, stem_stride=stem_stride), audio(3, 16000)
    together = network.embed(batch, torch.tensor(LENGTHS))
    for row, length in enumerate(LENGTHS):
        alone = network.embed(batch[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_embedding_does_not_depend_on_the_level():
    network = trained()
    torch.testing.assert_close(network(audio(2, 16000)), network(0.1 * audio(2, 16000)), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("dilation", [1, 3])
def test_receptive_field_of_each_part_is_one_dilation_wider_than_of_the_one_before(dilation):
    torch.manual_seed(0)
    block, centre, scale = SERes2Block(40, 5, 6, dilation).eval(), 20, 5
    for parameter in block.excite.parameters():
        parameter.data.zero_()  # no view of the utterance as a whole
    x = torch.randn(1, 40, 41, requires_grad=True)
    block(x, None, 1)[0, :, centre].sum().backward()
    seen = x.grad[0].abs().sum(0).nonzero().flatten().tolist()
    assert seen == [centre + step * dilation for step in range(1 - scale, scale)]


def test_squeeze_excitation_depends_on_all_frames():
    torch.manual_seed(0)
    x = torch.randn(1, 16, 60, requires_grad=True)
    SERes2Block(16, 4, 6, 2).eval()(x, None, 1)[0, :, 0].sum().backward()
    assert (x.grad[0].abs().sum(0) > 0).all()


def test_input_of_a_block_is_the_sum_of_all_before_it():
    network, seen = trained(), []
    for layer in (network.stem, *network.blocks):
        layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    network(audio(2, 8000))
    for index in range(1, 4):
        torch.testing.assert_close(seen[index][0], sum(output for _, output in seen[:index]))


def test_every_parameter_gets_a_gradient():
    network = build(Config(**TINY))
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


@pytest.mark.parametrize("wrong", [{"pooling": "max"}, {"dilations": []}, {"scale": 1}, {"scale": 5}, {"scale": 0}])
def test_a_wrong_configuration_is_refused(wrong):
    with pytest.raises(UserError, match="network"):
        build(Config(**(TINY | wrong)))
