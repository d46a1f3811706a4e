"""The description of a checkpoint."""

import pytest
import torch

from cslib.commands import info
from cslib.config import UserError
from cslib.evaluation.calibration import Calibration
from cslib.files import digest
from cslib.inference.shipped import copy_network
from tests.commands.tiny import NETWORKS, build, call, save

CONFIG = {
    "seed": 3,
    "augment": {"reverb_p": 0.25},
    "training": {"steps": 1500, "batch_size": 32, "learning_rate": 0.005},
    "objective": {"name": "dino", "prototypes": 128, "views": {"global_crops": 7}},
}
INPUTS = {
    "utterances": "1d2630fbe9bc8bd98ca5",
    "count": 1000,
    "noise": {"babble": "0a", "rirs": "0b"},
    "labels": None,
    "start_from": "ffee00112233445566",
}


def described(capsys, path):
    call(info, path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(path)
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:]}


@pytest.fixture
def final(tmp_path):
    path = tmp_path / "run/checkpoints/final.pt"
    save(
        path,
        "resnet",
        config=CONFIG,
        identity={"config": {**CONFIG}, "inputs": INPUTS},
        step=1500,
        commit="0123abc-dirty",
    )
    return path


def test_every_line_of_a_finished_training(final, capsys):
    lines = described(capsys, final)
    assert lines["kind"] == "speaker encoder: speech to a vector of 8 numbers"
    parameters = sum(p.numel() for p in build("resnet").parameters())
    assert lines["network"] == (
        "resnet with num_mels 24, channels [4, 6], blocks [1, 1], stem_stride 2, "
        f"embedding_size 8; {parameters:,} parameters"
    )
    assert lines["method"] == "dino with prototypes 128, views.global_crops 7"
    assert lines["training"] == "step 1,500 of 1,500, batches of 32, learning_rate 0.005, seed 3"
    assert lines["code"] == "git commit 0123abc-dirty"
    assert lines["augment"] == "reverb_p 0.25"
    assert lines["data"] == (
        "1,000 recordings; utterances of digest 1d2630fbe9bc; noise: babble, rirs; start_from of digest ffee00112233"
    )
    assert lines["file"].endswith(f"digest {digest(final)}")
    assert lines["threshold"].startswith("none; local/calibrate.py")


def test_threshold_is_shown_if_it_belongs_to_this_checkpoint(final, capsys):
    for known, expected in (
        (
            digest(final),
            "0.41; 1 % of the pairs from different clusters score at least 0.55; from 1,000 recordings in 96 clusters",
        ),
        ("0" * 12, "made for another checkpoint"),
    ):
        Calibration(known, 12.0, -5.0, 0.41, 0.1, 0.1, 0.55, 0.3, 100, 1000, 96, 0).write(
            final.parents[1] / "calibration.json"
        )
        assert expected in described(capsys, final)["threshold"]


def test_a_bound_below_the_threshold_is_not_shown(final, capsys):
    Calibration(digest(final), 12.0, -5.0, 0.41, 0.1, 0.001, 0.35, 0.3, 100, 1000, 96, 0).write(
        final.parents[1] / "calibration.json"
    )
    assert described(capsys, final)["threshold"] == "0.41; from 1,000 recordings in 96 clusters"


def test_a_copy_says_which_system_of_which_run_it_is(final, capsys):
    best = final.parents[1] / "best.pt"
    copy_network(final, best, run="exp/mini_csc", system="final")
    lines, original = described(capsys, best), described(capsys, final)
    assert lines.pop("system") == "final of run exp/mini_csc" and "system" not in original
    differing = {name for name in original if lines[name] != original[name]}
    assert differing == {"file"}


def test_enhancement_network_has_no_threshold(tmp_path, capsys):
    save(tmp_path / "final.pt", "mask_gru")
    lines = described(capsys, tmp_path / "final.pt")
    assert lines["kind"].startswith("enhancement network") and "threshold" not in lines
    assert lines["network"].startswith("mask_gru with hidden 4") and lines["method"] == "not known"
    assert lines["code"] == "not known"


def test_unfinished_training_is_described_as_one(final, capsys):
    state = torch.load(final, weights_only=True)
    torch.save({"step": 250, "identity": {**state["identity"], "config": state["config"]}, "model": {}}, final)
    lines = described(capsys, final)
    assert "of a training that is not finished" in lines["kind"] and lines["training"].startswith("step 250 of 1,500")


def test_what_is_no_checkpoint_is_one_sentence(tmp_path):
    (tmp_path / "a.pt").write_text("hello")
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "b.pt")
    torch.save([1, 2], tmp_path / "c.pt")
    torch.save(
        {"config": {"network": {"name": "resnet", **NETWORKS["resnet"], "colour": 1}}, "encoder": {}}, tmp_path / "d.pt"
    )
    for name, message in (
        ("a", "not a checkpoint of this project"),
        ("b", "not a checkpoint of this project"),
        ("c", "not a checkpoint of this project"),
        ("d", "d.pt: there is no option colour"),
        ("e", "there is no such checkpoint"),
    ):
        with pytest.raises(UserError, match=message) as error:
            call(info, tmp_path / f"{name}.pt")
        assert "\n" not in str(error.value)
