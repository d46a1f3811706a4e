"""The objective around the regulariser: what is trained, logged, kept and resumed."""

import pytest
import torch

from cslib import checkpoints
from cslib.datasets.augmentation import to_float
from cslib.evaluation.validation import Validation
from cslib.feature_spaces.base import FeatureSpaceConfig
from cslib.models import resnet
from cslib.models.layers.levels import LEVEL_RMS, at_level_of_first
from cslib.objectives.ccr.loss import reconstruction_loss
from cslib.objectives.ccr.objective import build
from cslib.objectives.ccr.regulariser import (
    MODES,
)
from tests.objectives.ccr.tiny_ccr import batch_of, config_of, logged, noise, objective, task_of, trained


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_the_network_and_nothing_else(data, mode):
    made = objective(data, mode).train()
    losses = made(batch_of(made))
    losses.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in made.network.parameters())
    assert {name.partition(".")[0] for name, _ in made.named_parameters()} == {"network"}
    assert not any("space" in name for name in made.state_dict())
    assert ("regulariser" in losses.parts) == (mode != "none")
    assert all(torch.as_tensor(value).isfinite().all() for value in (losses.parts | losses.diagnostics).values())


def test_the_total_is_the_native_loss_and_lambda_times_the_regulariser(data):
    made = objective(data, weight=0.3).eval()
    batch = batch_of(made)
    losses = made(batch)
    stacked = torch.cat([batch["noisy"][:, None], batch["clean"][:, None], batch["negatives"]], 1)
    noisy, clean, *negatives = at_level_of_first(to_float(stacked)).unbind(1)
    enhanced = made.network(noisy)
    native, parts = reconstruction_loss(enhanced, clean)
    value, _ = made.regulariser(enhanced, clean, noisy, negatives)
    torch.testing.assert_close(losses.total, native + 0.3 * value)
    assert losses.parts["regulariser"].item() == pytest.approx(0.3 * value.item(), rel=1e-5)
    assert parts.keys() < losses.parts.keys()


def test_all_modes_see_the_same_crops_and_start_from_the_same_weights(data):
    none, ccr = objective(data, "none"), objective(data, "ccr")
    assert all(map(torch.equal, none.network.parameters(), ccr.network.parameters()))
    mine, its = batch_of(none), batch_of(ccr)
    assert torch.equal(mine["noisy"], its["noisy"]) and torch.equal(mine["clean"], its["clean"])
    assert mine["negatives"].shape[1] == 0 and its["negatives"].shape[1] == 2


def test_one_gain_brings_the_noisy_speech_of_an_item_to_the_level():
    given = torch.stack([noise(3, 800), 4 * noise(3, 800, seed=2)])
    given[1, 0] = 0  # no level at all
    scaled = at_level_of_first(given)
    assert scaled[0, 0].square().mean().sqrt().item() == pytest.approx(LEVEL_RMS, rel=1e-4)
    gains = scaled[0] / given[0]
    torch.testing.assert_close(gains, gains[0, 0].expand_as(gains))
    assert torch.equal(scaled[1], given[1])


def test_gradients_of_both_losses_are_measured_every_few_steps(data):
    made = objective(data, weight=0.5).train()
    first = made(batch_of(made)).diagnostics
    assert first["native_gradient"] > 0 and first["regulariser_gradient"] > 0
    made.step = 1
    assert made(batch_of(made, 3)).diagnostics["native_gradient"] == first["native_gradient"]
    made.step = 2
    assert made(batch_of(made, 3)).diagnostics["native_gradient"] != first["native_gradient"]
    assert made.state_dict()["gradient_norms"][0] > 0


@pytest.mark.parametrize("delay", [0, 7])
def test_lambda_is_zero_at_first_and_rises_over_the_warm_up(data, delay):
    made = objective(data, weight=0.2, delay_steps=delay, warmup_steps=4)
    found = []
    for made.step in (delay // 2 - 1, delay, delay + 1, delay + 3, delay + 50):
        found.append(made.weight())
    assert found == pytest.approx([0.0, 0.05, 0.1, 0.2, 0.2])


@pytest.mark.parametrize("mode", ["ccr", "cr_matched"])
def test_a_resumed_run_equals_an_uninterrupted_run(data, tmp_path, monkeypatch, mode):
    config = config_of(data, mode, weight=0.5)
    whole = trained(data, tmp_path / "whole", config)
    trained(data, tmp_path / "run", config, monkeypatch, stop=5)
    monkeypatch.setattr(Validation, "of_recordings", lambda _: pytest.fail("rated again"))
    resumed = trained(data, tmp_path / "run", config)
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")
    mine, its = resumed.state_dict(), whole.state_dict()
    assert mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)
    assert mine["regulariser.curriculum.best"].isfinite() and mine["rated"]
    assert [line["step"] for line in logged(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_only_the_enhancement_network_is_kept_in_every_mode(data, tmp_path):
    sizes = {}
    for mode in ("none", "ccr"):
        made = trained(data, tmp_path / mode, config_of(data, mode))
        network = checkpoints.load_encoder(tmp_path / mode / "checkpoints/final.pt")
        sizes[mode] = {name: value.shape for name, value in network.state_dict().items()}
        audio = noise(2, 6000)
        torch.testing.assert_close(network.enhance(audio), made.network.eval().enhance(audio))
        assert network.enhance(audio).shape == audio.shape
    assert sizes["none"] == sizes["ccr"]


def test_training_needs_neither_test_set_nor_speakers(data, tmp_path):
    """The fixture has neither; the curriculum knows the validation set alone."""
    assert sorted(path.name for path in data.iterdir()) == ["good", "poor", "train", "valid"]
    made = trained(data, tmp_path / "run", config_of(data))
    line = logged(tmp_path / "run")[-1]
    assert line["quality_1"] == pytest.approx(made.regulariser.curriculum.qualities[0].item(), rel=1e-4)
    assert {"quality", "best_quality", "beaten", "weight_noisy", "native_gradient"} <= line.keys()


def test_digests_change_with_feature_space_and_validation_set(data, tmp_path):
    made = objective(data, "cr")
    assert made.digests()["feature_space"] is None and len(made.digests()["validation"]) == 64
    network = resnet.Config(num_mels=24, channels=[4], blocks=[1], embedding_size=4)
    path = tmp_path / "final.pt"
    checkpoints.save(
        path,
        {"config": {"network": {"name": "resnet", **vars(network)}}, "encoder": resnet.build(network).state_dict()},
    )
    config = config_of(data, "cr")
    config.regulariser.feature_space = FeatureSpaceConfig("encoder", path)
    first = build(config, task_of(data, config)).digests()["feature_space"]
    saved = checkpoints.load(path)
    checkpoints.save(path, {**saved, "step": 1})  # the same weights
    assert first and first == build(config, task_of(data, config)).digests()["feature_space"]
    checkpoints.save(path, {**saved, "encoder": {name: value + 1 for name, value in saved["encoder"].items()}})
    assert first != build(config, task_of(data, config)).digests()["feature_space"]
