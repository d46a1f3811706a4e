"""The run that a folder holds is continued, finished, set aside as another one, or refused as unknown."""

import pytest
import torch
import yaml

from cslib.checkpoints import load_encoder
from cslib.config import UserError
from cslib.training.identity import as_now
from tests.tiny_run import interrupted, log, make_set, run_script, train

pytestmark = pytest.mark.slow  # starts processes that import torch


def test_finished_run_trains_nothing(data, tmp_path, capsys):
    run, steps = tmp_path / "run", ["--training.steps", "3"]
    train(data, run, *steps)
    before = (run / "checkpoints/final.pt").stat().st_mtime_ns
    train(data, run, *steps, "--training.workers", "1", "--training.log_every", "5")
    assert "nothing to train" in capsys.readouterr().out
    assert (run / "checkpoints/final.pt").stat().st_mtime_ns == before and len(log(run)) == 3


@pytest.mark.parametrize("finished", [True, False])
def test_other_config_sets_the_old_checkpoints_aside(data, tmp_path, monkeypatch, capsys, finished):
    run, old = tmp_path / "run", ["--training.learning_rate", "0.5"]
    if finished:
        train(data, run, *old)
    else:
        interrupted(monkeypatch, 4, data, run, *old)
    before = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    beside = {name: (run / name).read_text() for name in ("config.yaml", "log.jsonl")}
    train(data, run, "--training.steps", "3")
    assert "config.training.steps: 8 then, 3 now" in capsys.readouterr().out
    (kept,) = run.glob("checkpoints.until-*")
    assert {path.name: path.read_bytes() for path in kept.glob("*.pt")} == before
    assert {name: (kept / name).read_text() for name in beside} == beside and len(log(run)) == 3
    rates = [
        yaml.safe_load((folder / "config.yaml").read_text())["training"]["learning_rate"] for folder in (kept, run)
    ]
    assert rates == [0.5, 0.01]


@pytest.mark.parametrize("finished", [True, False])
def test_missing_option_of_an_old_run_counts_as_its_default(data, tmp_path, monkeypatch, capsys, finished):
    run, steps = tmp_path / "run", ["--training.steps", "6"]
    if finished:
        train(data, run, *steps)
    else:
        interrupted(monkeypatch, 4, data, run, *steps)
    for path in (run / "checkpoints").iterdir():
        state = torch.load(path, weights_only=True)
        del state["identity"]["config"]["objective"]["mixtures"]["single_p"], state["identity"]["config"]["augment"]
        torch.save(state, path)
    train(data, run, *steps)
    message = capsys.readouterr().out
    assert ("nothing to train" if finished else "continuing after step") in message and "another run" not in message
    train(data, run, *steps, "--objective.mixtures.single_p", "0.3")
    assert "config.objective.mixtures.single_p: 0.2 then, 0.3 now" in capsys.readouterr().out


def test_other_data_make_another_run(tmp_path, capsys):
    data, other = make_set(tmp_path / "one/train"), make_set(tmp_path / "other/train", count=7)
    train(data, tmp_path / "run", "--training.steps", "3")
    train(other, tmp_path / "run", "--training.steps", "3")
    assert "inputs.utterances" in capsys.readouterr().out
    assert len(list((tmp_path / "run").glob("checkpoints.until-*"))) == 1


def test_moved_data_make_the_same_run(tmp_path, capsys):
    data = make_set(tmp_path / "one/train")
    train(data, tmp_path / "run", "--training.steps", "3")
    train(make_set(tmp_path / "moved/train"), tmp_path / "run", "--training.steps", "3")
    assert "nothing to train" in capsys.readouterr().out


def test_last_two_checkpoints_stay(whole):
    names = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert names == ["final.pt", "step-00000006.pt", "step-00000008.pt"]


def rename_option(config, path, name):
    """Give an option of a config, objective.alpha for one, another name."""
    *sections, last = path.split(".")
    for section in sections:
        config = config[section]
    config[name] = config.pop(last)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "path, name, unknown",
    [
        ("objective.mixtures.crop_seconds", "length", "objective.mixtures.length"),
        ("objective.alpha", "inverse_temperature", "objective.inverse_temperature"),
        ("augment", "degrade", "degrade"),
    ],
)
def test_run_with_an_unknown_option_is_refused_and_unchanged(
    data, tmp_path, monkeypatch, path, name, unknown, finished
):
    run = tmp_path / "run"
    if finished:
        train(data, run, "--training.steps", "3")
    else:
        interrupted(monkeypatch, 3, data, run, "--training.steps", "6")
    for saved in (run / "checkpoints").iterdir():
        state = torch.load(saved, weights_only=True)
        rename_option(state["identity"]["config"], path, name)
        if finished and "encoder" in state:
            assert state["config"] == state["identity"]["config"]  # one object in the file
        torch.save(state, saved)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(UserError) as error:
        train(data, run, "--training.steps", "7")
    assert f"the option {unknown}," in str(error.value) and "choose another --exp" in str(error.value)
    assert "\n" not in str(error.value)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    if finished:
        assert load_encoder(run / "checkpoints/final.pt").embedding_size == 8


def test_run_of_an_unknown_objective_is_refused(data, tmp_path):
    final = train(data, tmp_path / "run", "--training.steps", "3") / "checkpoints/final.pt"
    state = torch.load(final, weights_only=True)
    state["identity"]["config"]["objective"]["name"] = "angular"
    torch.save(state, final)
    with pytest.raises(UserError, match="the option objective.name angular, which this version"):
        train(data, tmp_path / "run", "--training.steps", "3")


def test_run_of_another_objective_is_set_aside(data, tmp_path, capsys):
    train(data, tmp_path / "run", "--training.steps", "3")
    config = tmp_path / "margin.yaml"
    config.write_text(
        "objective: {name: margin, crops: {seconds: 0.5}}\n"
        "network: {name: resnet, num_mels: 24, channels: [4, 6], blocks: [1, 1], stem_stride: 2, embedding_size: 8}\n"
        "training: {steps: 2, batch_size: 4, workers: 0}\n"
    )
    arguments = ["local/train.py", "--config", str(config), "--data", str(data), "--exp", str(tmp_path / "run")]
    run_script([*arguments, "--labels", str(make_labels(tmp_path)), "--device", "cpu"])
    assert "held another run (config." in capsys.readouterr().out


def make_labels(folder):
    lines = ["utterance\tlabel", *(f"u{n:02d}\t{n % 3}" for n in range(8))]
    (folder / "labels.tsv").write_text("\n".join(lines) + "\n")
    return folder / "labels.tsv"


def test_checkpoints_name_the_commit_that_is_no_part_of_the_identity(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cslib.training.run_folder.commit", lambda: "abc-dirty")
    run = train(data, tmp_path / "run", "--training.steps", "3")
    for name in ("final", "step-00000003"):
        assert torch.load(run / f"checkpoints/{name}.pt", weights_only=True)["commit"] == "abc-dirty"
    monkeypatch.setattr("cslib.training.run_folder.commit", lambda: "def")
    train(data, run, "--training.steps", "3")
    assert "nothing to train" in capsys.readouterr().out


def test_old_name_of_rirs_makes_the_same_run():
    config = {"seed": 0}
    old = {"config": config, "inputs": {"count": 2, "noise": {"babble": "a", "rooms": "b"}}}
    new = {"config": config, "inputs": {"count": 2, "noise": {"babble": "a", "rirs": "b"}}}
    assert as_now(old, new, {}) == new and "rooms" in old["inputs"]["noise"]
