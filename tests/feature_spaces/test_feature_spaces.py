"""Feature spaces: frozen, differentiable, the same for an item whatever stands beside it; and the check of a space."""

import math
from itertools import pairwise

import pytest
import torch
import torchaudio

from cslib import checkpoints
from cslib.config import UserError
from cslib.data.pairs import PairedUtterances
from cslib.feature_spaces.base import FeatureSpaceConfig, distances, open_feature_space
from cslib.feature_spaces.check import check_feature_space, doubts, table
from cslib.feature_spaces.torchaudio import LayerGroups
from cslib.models import galr, mask_gru, resnet
from tests.tiny_pairs import make_negative, make_pairs

NETWORKS = {
    "resnet": (resnet, resnet.Config(num_mels=24, channels=[4, 6], blocks=[2, 1], embedding_size=8)),
    "galr": (
        galr,
        galr.Config(
            window=64,
            filters=12,
            features=8,
            hidden=6,
            segment=8,
            low_dim=3,
            heads=2,
            shared_blocks=3,
            speech_blocks=1,
            speaker_blocks=2,
            embedding_size=6,
            dropout=0.3,
        ),
    ),
    "mask_gru": (mask_gru, mask_gru.Config(hidden=4)),
}
TINY = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(8, 10, 5), (8, 8, 64)],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 8,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 4,
    "encoder_pos_conv_groups": 2,
    "encoder_num_layers": 5,
    "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 8,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.5,
    "aux_num_out": None,
}
WAVLM = {name: value for name, value in TINY.items() if name != "aux_num_out"} | {
    "encoder_num_buckets": 8,
    "encoder_max_distance": 16,
    "aux_num_out": None,
}


def noise(*shape, seed=1):
    return 0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def final(folder, name):
    """final.pt of a network that was made, not trained, but whose batch norms have seen something."""
    module, config = NETWORKS[name]
    torch.manual_seed(0)
    network = module.build(config)
    network(noise(4, 8000))
    values = {"name": name, **vars(config)}
    checkpoints.save(folder / "final.pt", {"config": {"network": values}, "encoder": network.state_dict()})
    return folder / "final.pt"


def bundle_of(monkeypatch, tmp_path, params=TINY, kind="Wav2Vec2", normalise=False):
    """A bundle with a model of a few thousand weights, and the file that holds them."""
    bundle = torchaudio.pipelines.Wav2Vec2Bundle("tiny.pth", params, 16000, normalise, kind)
    monkeypatch.setattr(torchaudio.pipelines, "WAV2VEC2_BASE", bundle)
    factory = {"Wav2Vec2": torchaudio.models.wav2vec2_model, "WavLM": torchaudio.models.wavlm_model}[kind]
    torch.manual_seed(0)
    torch.save(factory(**params).state_dict(), tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


@pytest.fixture(params=["resnet", "galr", "logmel", "wav2vec2", "wavlm", "large"])
def space(request, tmp_path, monkeypatch):
    kind = request.param
    if kind in NETWORKS:
        return open_feature_space(FeatureSpaceConfig("encoder", final(tmp_path, kind)))
    if kind == "logmel":
        return open_feature_space(FeatureSpaceConfig("logmel", groups=3))
    variants = {
        "wav2vec2": (TINY, "Wav2Vec2", False),
        "large": (TINY, "Wav2Vec2", True),
        "wavlm": (WAVLM, "WavLM", False),
    }
    return open_feature_space(
        FeatureSpaceConfig("torchaudio", bundle_of(monkeypatch, tmp_path, *variants[kind]), groups=2)
    )


def test_gradient_reaches_the_audio_and_not_the_network(space):
    before = [value.clone() for value in space.network.state_dict().values()]
    audio = noise(2, 8000).requires_grad_()
    with torch.no_grad():
        clean = space.features(noise(2, 8000, seed=2))
    assert len(clean) == space.groups
    for group, other in zip(space.features(audio), clean, strict=True):
        gradient = torch.autograd.grad((group - other).abs().mean(), audio, retain_graph=True)[0]
        assert gradient.isfinite().all() and (gradient.norm(dim=1) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in space.network.parameters())
    assert all(map(torch.equal, before, space.network.state_dict().values()))


def test_features_of_an_item_do_not_depend_on_its_neighbours(space):
    loud = torch.cat([noise(1, 8000), 10 * noise(2, 8000, seed=2)])
    for together, alone in zip(space.features(loud), space.features(loud[:1]), strict=True):
        torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-4)


def test_features_are_the_same_each_time_and_float32_under_autocast(space):
    first = space.features(noise(2, 8000))
    with torch.autocast("cpu", torch.bfloat16):
        again = space.features(noise(2, 8000))
    assert all(group.dtype == torch.float32 for group in again)
    assert distances(first, again).max() == 0


@pytest.mark.parametrize("faint", [0.0, 1e-5])
def test_the_gradient_in_silence_is_bounded(space, faint):
    audio = (noise(1, 8000) * torch.where(torch.arange(8000) < 4000, 1.0, faint)).requires_grad_()
    clean = noise(1, 8000, seed=2)
    distances(space.features(audio), space.features(clean)).sum().backward()
    sound, silence = audio.grad[0, :3500].norm(), audio.grad[0, 4500:].norm()
    assert audio.grad.isfinite().all() and silence < 500 * sound


def test_stages_of_a_resnet_end_with_what_is_pooled(tmp_path):
    network = checkpoints.load_encoder(final(tmp_path, "resnet"))
    seen = []
    network.pool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    stages = network.stages(noise(2, 8000))
    network.embed(noise(2, 8000))
    assert [stage.shape[1] for stage in stages] == [4, 6] and torch.equal(stages[-1].flatten(1, 2), seen[0])


def test_stages_of_a_separative_encoder_are_outputs_of_its_blocks(tmp_path):
    network = checkpoints.load_encoder(final(tmp_path, "galr"))
    seen = {}
    for name in ("shared.0", "shared.2", "speaker.1"):
        network.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    with torch.no_grad():
        network.embed(noise(2, 8000))
        expected, stages = list(seen.values()), network.stages(noise(2, 8000))
    assert stages[0].shape == (2, 251, 12) and len(stages) == 4
    for stage, output in zip(stages[1:], expected, strict=True):
        torch.testing.assert_close(stage, output)


@pytest.mark.parametrize("shared, speaker, groups", [(1, 0, 2), (1, 1, 3), (0, 1, 2), (0, 0, 1), (4, 2, 4)])
def test_no_stage_is_returned_twice(shared, speaker, groups):
    config = galr.Config(**vars(NETWORKS["galr"][1]) | {"shared_blocks": shared, "speaker_blocks": speaker})
    assert len(galr.build(config).stages(noise(1, 4000))) == groups


def test_recurrences_alone_are_in_train_mode_and_without_dropout(tmp_path):
    network = open_feature_space(FeatureSpaceConfig("encoder", final(tmp_path, "galr"))).network
    training = [module for module in network.modules() if module.training]
    assert training and all(isinstance(module, torch.nn.LSTM) and module.dropout == 0 for module in training)


def test_a_group_is_the_mean_of_its_layers(monkeypatch, tmp_path):
    space = open_feature_space(FeatureSpaceConfig("torchaudio", bundle_of(monkeypatch, tmp_path), groups=2))
    seen = []
    for layer in space.network.model.encoder.transformer.layers:
        layer.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    first, second = space.features(noise(2, 8000))
    assert len(seen) == 5
    torch.testing.assert_close(first, (seen[0] + seen[1]) / 2)
    torch.testing.assert_close(second, (seen[2] + seen[3] + seen[4]) / 3)


@pytest.mark.parametrize(
    "name, layers, bounds", [("WAV2VEC2_BASE", 12, [0, 3, 6, 9, 12]), ("WAVLM_LARGE", 24, [0, 6, 12, 18, 24])]
)
def test_groups_of_a_published_model_partition_its_layers(name, layers, bounds):
    found = getattr(torchaudio.pipelines, name)._params["encoder_num_layers"]
    model = torchaudio.models.wav2vec2_model(**TINY | {"encoder_num_layers": found})
    assert (found, LayerGroups(model, 4).bounds) == (layers, bounds)
    weights = LayerGroups(model, 4).group_weights
    assert sum(weights) == pytest.approx(1) and [later / earlier for earlier, later in pairwise(weights)] == [2, 2, 2]


def test_the_bundle_itself_would_normalise_over_the_batch(monkeypatch, tmp_path):
    path = bundle_of(monkeypatch, tmp_path, normalise=True)
    bundled = torchaudio.pipelines.WAV2VEC2_BASE.get_model(
        dl_kwargs={"model_dir": str(path.parent), "file_name": path.name}
    )
    space = open_feature_space(FeatureSpaceConfig("torchaudio", path, groups=1))
    audio = torch.cat([noise(1, 8000), 10 * noise(1, 8000, seed=2)])
    assert space.network.normalised and not hasattr(space.network.model, "normalize_waveform")
    together, alone = bundled.extract_features(audio)[0][0][:1], bundled.extract_features(audio[:1])[0][0]
    assert (together - alone).abs().max() > 1e-3


@pytest.mark.parametrize(
    "values, told",
    [
        ({"name": "encoder"}, "checkpoint of the feature space"),
        ({"name": "encoder", "checkpoint": "absent.pt"}, "absent.pt: there is no such checkpoint"),
        ({"name": "torchaudio"}, "nothing is downloaded"),
        ({"name": "torchaudio", "checkpoint": "absent.pth"}, "absent.pth.*WAV2VEC2_BASE"),
        ({"name": "torchaudio", "bundle": "WAV2VEC3"}, "WAV2VEC2_BASE"),
        ({"name": "mel"}, "encoder, logmel, torchaudio"),
        (
            {"name": "encoder", "checkpoint": "a.pt", "groups": 2},
            "groups of the feature space: encoder does not use it",
        ),
        ({"name": "logmel", "checkpoint": "a.pt"}, "checkpoint of the feature space: logmel does not use it"),
    ],
)
def test_missing_weights_are_one_sentence_and_never_downloaded(values, told, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("fetched"))
    if "checkpoint" in values:
        values["checkpoint"] = tmp_path / values["checkpoint"]
    with pytest.raises(UserError, match=told) as error:
        open_feature_space(FeatureSpaceConfig(**values))
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_kind_is_refused(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="MaskGru, has no stages"):
        open_feature_space(FeatureSpaceConfig("encoder", final(tmp_path, "mask_gru")))
    path = bundle_of(monkeypatch, tmp_path)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "damaged.pth").write_bytes(b"PK damaged")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("other.pth", "damaged.pth", "list.pth"):
        with pytest.raises(UserError, match="damaged, or not the weights of WAV2VEC2_BASE"):
            open_feature_space(FeatureSpaceConfig("torchaudio", tmp_path / name))
    with pytest.raises(UserError, match="6 groups of 5 layers"):
        open_feature_space(FeatureSpaceConfig("torchaudio", path, groups=6))
    with pytest.raises(UserError, match="groups of the feature space is 0; it must be at least 1"):
        FeatureSpaceConfig("logmel", groups=0)


def test_distances_are_means_over_each_item():
    ours, others = [noise(3, 5, 7), noise(3, 4)], [noise(3, 5, 7, seed=2), noise(3, 4, seed=2)]
    found = distances(ours, others)
    assert found.shape == (3, 2)
    assert found[1, 0].item() == pytest.approx((ours[0][1] - others[0][1]).abs().mean().item())


def test_check_reports_how_distances_follow_noise_and_level(tmp_path):
    pairs = make_pairs(tmp_path / "valid", count=6)
    folders = [make_negative(tmp_path / f"times{factor}", pairs, factor) / "valid" for factor in (0.3, 3.0)]
    opened = PairedUtterances.open(pairs, folders)
    logmel = check_feature_space(open_feature_space(FeatureSpaceConfig("logmel", groups=2)), opened, range(6))
    assert len(logmel) == 2
    for check in logmel:
        assert check.distance > 0 and check.snr_correlation < -0.9
        assert check.closer == [1.0, 0.0] and check.gain_change > 0.05
    invariant = check_feature_space(
        open_feature_space(FeatureSpaceConfig("encoder", final(tmp_path, "galr"))), opened, [0, 3, 5]
    )
    assert max(check.gain_change for check in invariant) < 0.03
    told = doubts(logmel)
    assert len(told) == 1 and told[0].startswith(
        "negative 2 is closer to the clean speech than the noisy speech is in only 0% to 0% of the recordings"
    )
    for correlation, sentence in ((-0.1, "group 1 hardly separates"), (math.nan, "there are too few recordings")):
        told = doubts([logmel[0]._replace(snr_correlation=correlation, closer=[1.0])])
        assert len(told) == 1 and told[0].startswith(sentence)
    lines = table(logmel).splitlines()
    assert len(lines) == 3 and "100% 0%" in lines[1] and not any(map(math.isnan, (c.distance for c in logmel)))
