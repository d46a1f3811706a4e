"""The separative encoder: its parts, and independence of padding, level and batch."""

import pytest
import torch
from torch import nn

from cslib.config import UserError
from cslib.models import galr
from cslib.models.galr import Config, GlobalNorm, build, fitted_energy, overlap_add, segment
from cslib.models.layers.levels import at_level_inside

POOLINGS = ["mean", "statistics", "attentive"]


def network(seed=0, **values):
    torch.manual_seed(seed)
    small = {
        "filters": 12,
        "features": 8,
        "hidden": 6,
        "segment": 8,
        "low_dim": 3,
        "heads": 2,
        "shared_blocks": 1,
        "speech_blocks": 1,
        "speaker_blocks": 1,
        "embedding_size": 6,
    }
    return build(Config(**{**small, **values})).eval()


def noise(*shape, seed=1):
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("frames", [1, 7, 8, 9, 40, 41])
def test_overlap_add_undoes_segment_apart_from_a_factor_of_two(frames):
    values = noise(2, frames, 3)
    torch.testing.assert_close(overlap_add(segment(values, 8), frames), 2 * values)


@pytest.mark.parametrize("frames", [1, 8, 9, 41])
def test_every_frame_lies_in_two_neighbouring_segments(frames):
    numbers = torch.arange(1.0, frames + 1)[None, :, None]
    segments = segment(numbers, 8)[0, :, :, 0]
    for number in range(1, frames + 1):
        places = (segments == number).nonzero()
        assert len(places) == 2 and places[1, 0] - places[0, 0] == 1
        assert places[0, 1] - places[1, 1] == 4  # half a segment apart


@pytest.mark.parametrize("samples", [1, 15, 16, 17, 999, 1000, 1001])
def test_streams_are_as_long_as_the_mixture(samples):
    streams, embeddings = network()(noise(2, samples))
    assert streams.shape == (2, 2, samples) and embeddings.shape == (2, 2, 6)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(2, 2))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"compression": "log"},
        {"compression": "centred", "speaker_streams": "masked"},
        {"speaker_streams": "masked"},
        {"embedding_norm": "batch"},
        *({"pooling": pooling} for pooling in POOLINGS),
    ],
)
def test_padding_changes_neither_embeddings_nor_streams(values):
    model, length = network(**values), 777
    for module in model.modules():  # zero biases would hide a leak from the padding
        if isinstance(module, (nn.Linear, GlobalNorm)) and module.bias is not None:
            nn.init.normal_(module.bias)
    batch, lengths = noise(3, 2000), torch.tensor([2000, length, 1500])  # garbage beyond each length
    alone, together = model(batch[1:2, :length]), model(batch, lengths)
    torch.testing.assert_close(together[0][1, :, :length], alone[0][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together[1][1], alone[1][0], atol=1e-5, rtol=1e-4)
    assert not together[0][1, :, length:].any()
    torch.testing.assert_close(
        model.embed(batch, lengths)[1], model.embed(batch[1:2, :length])[0], atol=1e-5, rtol=1e-4
    )


def test_lengths_have_an_effect():
    model, batch = network(), noise(1, 2000)
    assert not torch.allclose(model(batch, torch.tensor([1000]))[1], model(batch)[1], atol=1e-3)


def test_embedding_does_not_depend_on_the_level():
    model, audio = network(), noise(2, 3000)
    lengths = torch.tensor([3000, 1700])
    torch.testing.assert_close(
        model.embed(audio * torch.tensor([[0.01], [30.0]]), lengths),
        model.embed(audio, lengths),
        atol=1e-5,
        rtol=1e-4,
    )


def test_silence_gives_finite_streams_and_embeddings():
    streams, embeddings = network()(torch.zeros(2, 1000))
    assert streams.isfinite().all() and embeddings.isfinite().all()
    assert network().embed(torch.zeros(2, 1000)).isfinite().all()


def test_parameter_count_of_the_default_configuration_follows_from_the_architecture():
    filters, window, width, hidden, size, low, embedding, streams = 128, 16, 128, 128, 64, 8, 128, 2
    one_direction = 4 * hidden * (width + hidden) + 2 * 4 * hidden  # torch keeps two biases per gate
    local = 2 * one_direction + 2 * hidden + (2 * hidden * width + width) + 2 * width
    attention = 4 * (width * width + width) + 2 * 2 * width  # q, k, v, output; two LayerNorms
    block = local + (size * low + low) + attention + (low * size + size) + 2 * width
    ends = 2 * filters * window + filters * width
    speech = 1 + streams * width * (width + 1) + 2 * width * (width + 1) + width * filters
    speaker = 1 + streams * embedding * (width + 1) + embedding * (embedding + 1)
    assert parameters(build(Config())) == 8 * block + ends + speech + speaker == 3_076_546


@pytest.mark.parametrize("width, millions", [(64, 1.46), (128, 2.28)])
def test_separator_has_the_size_of_the_published_networks(width, millions):
    config = Config(features=width, filters=width, segment=100, low_dim=32, speaker_blocks=0)
    model = build(config)
    separator = parameters(model) - parameters(model.speaker_split) - parameters(model.pool)
    assert separator / 1e6 == pytest.approx(millions, rel=0.03)


def test_sigmoid_masks_start_from_the_mixture_and_never_amplify():
    model, mixture = network(filterbank="fourier", window=400, mask="sigmoid", compression="log"), noise(2, 8000)
    streams = model(mixture)[0]
    assert torch.nn.functional.cosine_similarity(streams, mixture[:, None], dim=-1).min() > 0.99
    loud = at_level_inside(mixture, torch.tensor([8000, 8000]))
    assert (streams.square().sum(-1) <= loud.square().sum(-1)[:, None]).all()


def test_released_residual_leaves_the_input_of_the_attention_out():
    standard, released = network(residual="standard"), network(residual="released")
    released.load_state_dict(standard.state_dict())
    block, twin = standard.shared[0], released.shared[0]
    segments, mask = segment(noise(2, 40, 8), 8), segment(torch.ones(2, 40, 1), 8)
    assert not torch.allclose(block(segments, mask), twin(segments, mask), atol=1e-3)
    with torch.no_grad():  # an attention that gives nothing out: only the standard residual still carries
        for attention in (block.attention, twin.attention):
            attention.out_proj.weight.zero_()
            attention.out_proj.bias.zero_()
    assert twin._global(segments, mask).std(1).max() < 1e-5 < 1e-2 < block._global(segments, mask).std(1).max()


def test_global_norm_without_padding_is_group_norm_with_one_group():
    mine, theirs = GlobalNorm(8), nn.GroupNorm(1, 8)
    for norm in (mine, theirs):
        norm.weight.data, norm.bias.data = noise(8, seed=2), noise(8, seed=3)
    values = 5 * noise(2, 6, 4, 8) + 3
    expected = theirs(values.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(mine(values, torch.ones(2, 6, 4, 1)), expected)


def test_louder_source_has_more_energy_whatever_the_scale_of_its_stream():
    sources = noise(2, 2, 4000, seed=4) * torch.tensor([[[1.0], [0.5]], [[0.5], [1.0]]])
    louder = torch.tensor([0, 1])
    for scales in ([1.0, 1.0], [0.01, 100.0], [100.0, 0.01], [-1.0, 3.0]):
        streams = sources * torch.tensor(scales)[:, None]
        energy = fitted_energy(streams, sources.sum(1))
        assert torch.equal(energy.argmax(1), louder)
        torch.testing.assert_close(energy, sources.square().sum(-1), rtol=0.05, atol=0)


def test_identical_or_silent_streams_have_finite_energies():
    source = noise(1, 1, 4000)
    assert fitted_energy(torch.cat([source, source], 1), source[:, 0]).isfinite().all()
    energy = fitted_energy(torch.cat([torch.zeros_like(source), source], 1), source[:, 0])
    assert energy.isfinite().all() and energy.argmax(1) == 1


def test_embed_takes_the_embedding_of_the_louder_stream(monkeypatch):
    model = network()
    first, second = noise(1, 4000, seed=5)[0], noise(1, 4000, seed=6)[0]
    mixtures = torch.stack([first + 0.3 * second, 0.3 * first + second])
    streams = torch.stack([first * 0.01, second * 10]).expand(2, 2, -1)  # misleading scales
    embeddings = torch.nn.functional.normalize(noise(2, 2, 6), dim=-1)
    monkeypatch.setattr(model, "forward", lambda mixture, lengths=None: (streams, embeddings))
    chosen = model.embed(mixtures)
    torch.testing.assert_close(chosen, torch.stack([embeddings[0, 0], embeddings[1, 1]]))
    torch.testing.assert_close(model.embed_streams(mixtures), embeddings)


def test_long_recordings_are_embedded_in_half_overlapping_windows(monkeypatch):
    monkeypatch.setattr(galr, "LONG_WINDOW", 2000)  # one every 1,000
    model, audio = network(max_seconds=0.2), noise(2, 5500)
    windows = [model.embed(audio[:, start : start + 2000]) for start in (0, 1000, 2000, 3000, 4000)]
    expected = torch.nn.functional.normalize(sum(windows), dim=-1)
    torch.testing.assert_close(model.embed(audio), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("length", [500, 3200, 3201, 3999, 4000, 4001, 5000])
def test_windows_of_an_item_do_not_depend_on_the_batch(monkeypatch, length):
    monkeypatch.setattr(galr, "LONG_WINDOW", 2000)
    model, audio = network(max_seconds=0.2), noise(2, 7300)  # windows beyond 3,200 samples
    together = model.embed(audio, torch.tensor([length, 7300]))
    torch.testing.assert_close(together[0], model.embed(audio[:1, :length])[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together[1], model.embed(audio[1:])[0], atol=1e-5, rtol=1e-4)


def test_max_seconds_may_be_shorter_than_a_window():
    assert network(max_seconds=0.05).embed(noise(1, 1000)).isfinite().all()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "compression": "log",
            "filterbank": "fourier",
            "window": 32,
            "embedding_norm": "batch",
            "pooling": "attentive",
            "speaker_streams": "masked",
        },
    ],
)
def test_bfloat16_training_step_is_finite(values):
    model = network(**values).train()
    with torch.autocast("cpu", torch.bfloat16):
        streams, embeddings = model(noise(2, 1001))
    assert embeddings.dtype == torch.float32
    (streams.float().square().sum() + embeddings[..., 0].sum()).backward()
    assert streams.isfinite().all() and embeddings.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_gradient_reaches_every_parameter():
    model = network(pooling="attentive").train()
    streams, embeddings = model(noise(2, 1001))
    (streams.square().sum() + embeddings[..., 0].sum()).backward()
    # A bias on all scores of a softmax over frames has no effect.
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert idle <= {"pool.score.2.bias"}


@pytest.mark.parametrize(
    "values",
    [
        {"residual": "post"},
        {"pooling": "max"},
        {"compression": "sqrt"},
        {"filterbank": "mel"},
        {"embedding_norm": "layer"},
        {"speaker_streams": "both"},
    ],
)
def test_an_unknown_choice_is_refused_with_the_known_ones(values):
    ((name, value),) = values.items()
    with pytest.raises(UserError, match=rf"network\.{name} is {value}; it must be one of "):
        build(Config(**values))


@pytest.mark.parametrize("values", [{"window": 15}, {"segment": 9}, {"features": 10, "heads": 4}])
def test_sizes_that_do_not_divide_are_refused(values):
    with pytest.raises(UserError, match="must be an even number|must be a divisor"):
        Config(**values)
