"""A trained network to the small files that come with the project, and to <run>/best.pt."""

import subprocess

import numpy as np
import pytest
import torch

from cslib.checkpoints import load, load_speaker_encoder
from cslib.config import UserError, parse
from cslib.evaluation.calibration import Calibration, Uncalibrated, read_calibration
from cslib.files import digest
from cslib.inference import shipped
from local import keep_best, ship_network
from tests.commands.tiny import NETWORKS, save
from tests.tiny_run import ROOT, make_set

# Wide enough for matrices that are stored in half precision.
WIDE = {**NETWORKS["resnet"], "channels": [16, 32], "embedding_size": 32}
INPUTS = {"utterances": "1d2630fbe9bc", "count": 9, "noise": {}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = {"identity": {"config": {}, "inputs": INPUTS}, "step": 7, "commit": "0123abc", "generators": [1, 2]}
    save(tmp_path / "exp/checkpoints/final.pt", "resnet", WIDE, config={"seed": 3}, **more)
    calibration(tmp_path / "exp/checkpoints/final.pt").write(tmp_path / "exp/calibration.json")
    make_set(tmp_path / "data", count=6, seconds=1.2)
    return tmp_path


def calibration(checkpoint):
    return Calibration(digest(checkpoint), 10.0, -4.0, 0.4, 0.1, 0.1, 0.5, 0.3, 100, 50, 5, 0)


def ship(*more):
    words = ["--checkpoint", "exp/checkpoints/final.pt", "--data", "data", "--out", "models/speaker.pt", *more]
    ship_network.main(parse(ship_network.Options, words))


def test_shipped_network_is_small_and_embeds_alike(folder, capsys):
    ship()
    state, original = load(folder / "models/speaker.pt"), load(folder / "exp/checkpoints/final.pt")
    assert set(state) == {"config", "identity", "step", "commit", "encoder"}
    assert state["identity"] == {"inputs": INPUTS}
    for name, weights in original["encoder"].items():
        stored = state["encoder"][name]
        halved = weights.numel() >= shipped.FEW and weights.is_floating_point()
        assert stored.dtype == (torch.float16 if halved else weights.dtype)
        torch.testing.assert_close(stored.to(weights.dtype), weights, rtol=1e-3, atol=1e-4)
    assert any(weights.dtype == torch.float16 for weights in state["encoder"].values())
    network = load_speaker_encoder(folder / "models/speaker.pt")
    assert all(weights.dtype == torch.float32 for weights in network.parameters())  # computing is in single precision
    made = digest(folder / "models/speaker.pt")
    assert read_calibration(folder / "models/speaker.calibration.json", made).threshold == 0.4
    told = capsys.readouterr().out
    assert f"MB in half precision, digest {made}" in told and "changes the cosines of 6 recordings by at most" in told
    first = (folder / "models/speaker.pt").read_bytes()
    ship()
    assert (folder / "models/speaker.pt").read_bytes() == first


def test_weights_stay_in_single_precision_where_half_changes_the_cosines(folder, capsys, monkeypatch):
    monkeypatch.setattr(ship_network, "TOLERATED", 0.0)
    ship()
    state, original = load(folder / "models/speaker.pt"), load(folder / "exp/checkpoints/final.pt")
    assert all(torch.equal(state["encoder"][name], weights) for name, weights in original["encoder"].items())
    assert "MB in single precision" in capsys.readouterr().out
    assert read_calibration(folder / "models/speaker.calibration.json", digest(folder / "models/speaker.pt"))


def test_numbers_beyond_half_precision_are_kept():
    weights = torch.full((100, 100), 1e6)
    assert shipped._half(weights) is weights and shipped._half(weights / 1e6).dtype == torch.float16
    assert shipped._half(torch.ones(10)).dtype == torch.float32


def test_the_largest_change_is_that_of_all_pairs():
    class Turned:
        embedding_size = 2

        def __init__(self, angle):
            self.angle = angle

        def embed(self, audio):
            angle = audio[:, 0] * (1 + self.angle)
            return torch.stack([angle.cos(), angle.sin()], dim=1)

    recordings = [torch.tensor([[angle]]) for angle in (0.0, 0.5, 2.0)]
    change = shipped.largest_change(Turned(0.0), Turned(0.1), recordings)
    pairs = np.array([0.5, 1.5, 2.0])
    assert change == pytest.approx(np.abs(np.cos(pairs) - np.cos(1.1 * pairs)).max(), abs=1e-6)


def test_what_cannot_be_shipped_is_one_sentence(folder, monkeypatch):
    (folder / "exp/calibration.json").rename(folder / "kept.json")
    with pytest.raises(UserError, match="calibration.json: there is no such file"):
        ship()
    (folder / "exp/calibration.json").write_text('{"uncalibrated": "no clusters"}')
    with pytest.raises(Uncalibrated, match="no clusters"):
        ship()
    (folder / "kept.json").rename(folder / "exp/calibration.json")
    with pytest.raises(UserError, match="which is the checkpoint"):
        ship("--out", "exp/checkpoints/final.pt")
    monkeypatch.setattr(ship_network, "LARGEST", 1000)
    with pytest.raises(UserError, match="more than 0 MB; ship a smaller network"):
        ship()
    assert not list((folder / "models").iterdir())


def keep(run="exp", networks="csc=exp/other.pt,final=exp/checkpoints/final.pt"):
    keep_best.main(parse(keep_best.Options, ["--run", run, "--networks", networks]))


def test_the_last_system_of_a_run_is_kept_as_best(folder, capsys):
    for run in ("exp", str(folder / "exp")):
        keep(run)
        state = load(folder / "exp/best.pt")
        assert (state["run"], state["system"]) == ("exp", "final")
    assert read_calibration(folder / "exp/best.calibration.json", digest(folder / "exp/best.pt")).threshold == 0.4
    weights = load(folder / "exp/checkpoints/final.pt")["encoder"]
    assert all(torch.equal(state["encoder"][name], value) for name, value in weights.items())
    (folder / "exp/calibration.json").unlink()
    keep()
    assert not (folder / "exp/best.calibration.json").exists()


def test_each_system_of_a_run_is_shown_with_its_network(folder, capsys):
    keep()
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "system  network",
        "csc     exp/other.pt",
        "final   exp/checkpoints/final.pt; copied to exp/best.pt, the network to use",
    ]
    (folder / "exp/calibration.json").unlink()
    keep()
    assert "copied to exp/best.pt (no calibration), the network to use" in capsys.readouterr().out
    for wrong in ("exp/best.pt", "=exp/best.pt", "final=", ","):
        with pytest.raises(UserError, match="--networks is .*; it must be a list such as"):
            keep(networks=wrong)


def test_a_copy_names_no_place_of_this_machine(folder, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert keep_best.public_name(folder / "exp") == "exp"


def test_git_takes_the_shipped_network(tmp_path):
    listed = subprocess.run(["git", "check-ignore", "models/speaker.pt", "models/speaker.calibration.json"], cwd=ROOT)
    assert listed.returncode != 0
