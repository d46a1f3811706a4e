"""Negatives: folders of recordings, and networks that enhance pairs mixed for every crop."""

import json

import numpy as np
import pytest
import soundfile
import torch

from cslib import checkpoints
from cslib.config import UserError
from cslib.data.pairs import PairedUtterances
from cslib.datasets.augmentation import to_float
from cslib.evaluation.speech_quality import si_sdr
from cslib.models.layers.levels import at_level_of_first
from cslib.objectives.ccr.loss import reconstruction_loss
from cslib.objectives.ccr.objective import Ccr
from tests.objectives.ccr.tiny_ccr import (
    batch_of,
    config_of,
    logged,
    mixed_config_and_task,
    mixed_objective,
    objective,
    trained,
)
from tests.tiny_run import encoder, log, run_script, train_on_two_processes


def test_networks_enhance_the_negatives_of_fresh_mixtures(data, mixing):
    made = mixed_objective(data, mixing).eval()
    batch = batch_of(made)
    assert batch["negatives"].shape[1] == 0
    losses = made(batch)
    noisy, clean = at_level_of_first(to_float(torch.stack([batch["noisy"], batch["clean"]], 1))).unbind(1)
    networks = [checkpoints.load_encoder(path) for path in made.config.negatives]
    negatives = [network(noisy) for network in networks]
    value, _ = made.regulariser(made.network(noisy), clean, noisy, negatives)
    native, _ = reconstruction_loss(made.network(noisy), clean)
    torch.testing.assert_close(losses.total, native + made.config.regulariser.weight * value)
    pairs = PairedUtterances.open(data / "valid")
    signals = [pairs.read(row) for row in made.validation.rows]
    expected = [
        np.mean(
            [
                si_sdr(clean, network.enhance(to_float(torch.from_numpy(noisy[None])))[0].numpy())
                for noisy, clean in signals
            ]
        )
        for network in networks
    ]
    assert made.regulariser.curriculum.qualities.tolist() == pytest.approx(expected, abs=1e-3)
    assert abs(expected[0] - expected[1]) > 0.01


def test_negative_networks_are_in_the_digests_but_not_in_the_checkpoint(data, mixing):
    made = mixed_objective(data, mixing).train()
    made(batch_of(made)).total.backward()
    assert {name.partition(".")[0] for name, _ in made.named_parameters()} == {"network"}
    assert all(p.grad is None for network in made.negatives.networks for p in network.parameters())
    assert not any(network.training for network in made.negatives.networks)
    assert made.state_dict().keys() == objective(data).state_dict().keys()
    both, one = made.digests()["negatives"], mixed_objective(data, mixing, negatives=["late"]).digests()["negatives"]
    assert len(set(both)) == 2 and both[1:] == one
    assert "negatives" not in mixed_objective(data, mixing, "cr").digests()


@pytest.mark.parametrize("mode, expected", [("cr", 0), ("positive", 0), ("ccr", 4), ("cr_matched", 2)])
def test_negative_networks_run_only_in_steps_that_use_them(data, mixing, mode, expected):
    made = mixed_objective(data, mixing, mode).train()
    runs = []
    for network in made.negatives.networks:
        network.register_forward_hook(lambda *_: runs.append(1))
    made.validation, made.config.regulariser.measure_every = None, 2
    for made.step in range(2):
        made(batch_of(made)).total.backward()
    assert len(runs) == expected


def test_negative_networks_move_to_the_device_of_the_audio(data, mixing, monkeypatch):
    made = mixed_objective(data, mixing)
    moved = []
    for network in made.negatives.networks:
        monkeypatch.setattr(network, "to", lambda device, network=network: moved.append(device) or network)
    made._qualities()
    made.negatives(torch.randn(1, 4000))
    assert moved == 4 * [torch.device("cpu")]
    assert not any(p.requires_grad for network in made.negatives.networks for p in network.parameters())


def test_resumed_run_has_the_mixtures_of_an_uninterrupted_run(data, mixing, tmp_path, monkeypatch):
    config, task = mixed_config_and_task(data, mixing)
    whole = trained(data, tmp_path / "whole", config, task=task)
    trained(data, tmp_path / "run", config, monkeypatch, stop=4, task=task)
    resumed = trained(data, tmp_path / "run", config, task=task)
    assert logged(tmp_path / "run") == logged(tmp_path / "whole") and len(logged(tmp_path / "run")) == 6
    mine, its = resumed.state_dict(), whole.state_dict()
    assert all(torch.equal(mine[name], its[name]) for name in its)


@pytest.mark.slow
def test_two_processes_compute_what_one_computes(data, mixing, tmp_path):
    # Not adam: it blows rounding errors up, where a gradient is zero, to steps of full size.
    config = tmp_path / "config.yaml"
    config.write_text(f"""
objective:
  name: ccr
  pairs: {{crop_seconds: 0.25}}
  regulariser:
    weight: 0.5
    delay_steps: 0
    warmup_steps: 0
    measure_every: 2
    feature_space: {{name: logmel, groups: 2}}
  validation: {{pairs: {data / "valid"}, measure: si_sdr, recordings: 4, every: 2}}
network: {{name: mask_gru, hidden: 4}}
training: {{steps: 6, batch_size: 4, optimiser: sgd, learning_rate: 0.01, checkpoint_every: 3, log_every: 1,
           workers: 0}}
""")
    networks = json.dumps([str(mixing / name / "checkpoints/final.pt") for name in ("early", "late")])
    folders = json.dumps([str(data / name) for name in ("poor", "good")])
    runs = {
        "ccr": ["--data", data / "train/clean", "--noise", mixing / "noise", "--objective.negatives", networks],
        "cr_matched": ["--data", data / "train", "--objective.negatives", folders],
    }

    def command(mode, exp):
        return [
            "local/train.py",
            "--config",
            str(config),
            "--exp",
            str(exp),
            "--device",
            "cpu",
            "--objective.regulariser.mode",
            mode,
            *map(str, runs[mode]),
        ]

    train_on_two_processes(tmp_path / "two.py", [command(mode, tmp_path / f"two-{mode}") for mode in runs])
    for mode in runs:
        one, two = run_script(command(mode, tmp_path / mode)), tmp_path / f"two-{mode}"
        for part in ("loss", "regulariser", "quality", "best_quality", "quality_1", "beaten", "regulariser_gradient"):
            assert [line[part] for line in log(two)] == pytest.approx([line[part] for line in log(one)], rel=1e-4), (
                mode,
                part,
            )
        mine, its = encoder(one), encoder(two)
        assert all(torch.allclose(its[key], mine[key], atol=1e-5) for key in mine), mode
        assert len({line["quality"] for line in log(one)}) > 2  # the networks do learn


def test_fresh_mixtures_do_not_depend_on_the_mode(data, mixing):
    cr, ccr = mixed_objective(data, mixing, "cr"), mixed_objective(data, mixing)
    assert all(map(torch.equal, cr.network.parameters(), ccr.network.parameters()))
    assert torch.equal(batch_of(cr)["noisy"], batch_of(ccr)["noisy"])


def test_negatives_are_in_a_folder_with_the_name_of_the_set(data, tmp_path):
    config = config_of(data)
    audio = Ccr.open_data(data / "train", config).read(0)
    assert len(audio) == 4 and np.array_equal(audio[2], soundfile.read(data / "poor/train/u00.wav", dtype="int16")[0])
    config.negatives.append(tmp_path / "absent")
    with pytest.raises(UserError, match="absent/train"):
        Ccr.open_data(data / "train", config)
    config.regulariser.mode = "cr"
    assert len(Ccr.open_data(data / "train", config).read(0)) == 2
