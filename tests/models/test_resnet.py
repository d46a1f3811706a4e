"""The residual network: size, gradients, and independence of padding and batch."""

import pytest
import torch

from cslib.config import UserError
from cslib.models.resnet import Config, build

TINY = {"num_mels": 24, "channels": [4, 6], "blocks": [1, 2], "embedding_size": 8}


def audio(*shape):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def trained(config):
    """A network whose batch norms have seen data, so that a leak through them would show."""
    torch.manual_seed(0)
    network = build(config)
    network(audio(6, 16000))
    return network.eval()


def test_light_resnet34_has_two_million_parameters():
    network = build(Config())
    total = sum(p.numel() for p in network.parameters())
    projection = sum(p.numel() for p in network.project.parameters())
    assert round(total / 1e6, 2) == 1.99
    assert round(projection / 1e6, 2) == 0.66
    assert network.project[0].in_features == 2560


def test_full_resnet34_is_that_of_he_et_al_except_for_both_ends():
    """21,797,672 parameters with 1,000 classes and a stem of 7 x 7 on three colours (He et al. 2016, torchvision)."""
    trunk = 21_797_672 - (512 + 1) * 1000 - 7 * 7 * 3 * 64
    stem, projection = 3 * 3 * 64, 2 * 512 * 10 * 256 + 2 * 256
    network = build(Config(channels=[64, 128, 256, 512]))
    assert sum(p.numel() for p in network.parameters()) == trunk + stem + projection == 23_897_792


@pytest.mark.parametrize("pooling", ["statistics", "attentive", "context"])
@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_embeddings_depend_neither_on_padding_nor_on_the_batch(pooling, stem_stride):
    network = trained(Config(**TINY, pooling=pooling, stem_stride=stem_stride))
    lengths = torch.tensor([16000, 12345, 8001])
    batch = audio(3, 16000)
    together = network.embed(batch, lengths)
    for row, length in enumerate(lengths):
        alone = network.embed(batch[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_embedding_does_not_depend_on_the_level():
    network = trained(Config(**TINY))
    torch.testing.assert_close(network(audio(2, 16000)), network(0.1 * audio(2, 16000)), atol=1e-2, rtol=1e-2)


def test_every_parameter_gets_a_gradient():
    network = build(Config(**TINY, pooling="attentive"))
    network(audio(4, 8000)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("wrong", [{"pooling": "max"}, {"channels": []}, {"channels": [4], "blocks": [1, 1]}])
def test_a_wrong_configuration_is_refused(wrong):
    with pytest.raises(UserError, match="network"):
        build(Config(**(TINY | wrong)))
