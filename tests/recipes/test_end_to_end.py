"""egs/voxceleb/run.sh from recordings to results.json: eight synthetic speakers, networks of a few weights.

The recordings come from the mini corpus and enter as somebody's own folders, so that both ways in are walked.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import soundfile
import torch

from cslib.models import mask_gru

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
STAGES = 8

pytestmark = pytest.mark.end_to_end


def recordings(folder: Path) -> None:
    """folder/learn/*.flac and folder/speakers/<speaker>/*.flac"""
    subprocess.run(
        [
            sys.executable,
            "local/prepare_mini.py",
            "--out",
            folder / "mini",
            "--train-speakers",
            "8",
            "--train-utterances",
            "2",
            "--test-speakers",
            "4",
            "--test-sessions",
            "2",
            "--test-utterances",
            "2",
        ],
        cwd=ROOT,
        env=ENVIRONMENT,
        check=True,
    )
    (folder / "mini" / "train" / "audio").rename(folder / "learn")
    with open(folder / "mini" / "test" / "speakers.tsv", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            speaker = folder / "speakers" / row["speaker"]
            speaker.mkdir(parents=True, exist_ok=True)
            name = f"{row['utterance']}.flac"
            (folder / "mini" / "test" / "audio" / name).rename(speaker / name)


def run(folder: Path, *options: str) -> str:
    done = subprocess.run(
        [
            "bash",
            ROOT / "egs" / "voxceleb" / "run.sh",
            "--corpus",
            "folder",
            "--train-dir",
            "learn",
            "--test-dir",
            "speakers",
            "--config",
            "conf/csc.yaml",
            "--data",
            "data",
            "--exp",
            "exp",
            "--gpus",
            "0",
            *options,
        ],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def systems_and_lists(results: dict) -> set[tuple[str, str]]:
    return {(row["system"], row["trials"]) for row in results["rows"] if row["scoring"] == "cosine"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder of the finished run, what it printed)"""
    folder = tmp_path_factory.mktemp("recipe")
    recordings(folder)
    shutil.copytree(Path(__file__).parent / "conf", folder / "conf")
    return folder, run(folder)


def test_recipe_ends_with_results_of_every_system_and_list(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    results = json.loads((folder / "exp" / "results.json").read_text())
    assert {key: results[key] for key in ("recipe", "corpus", "method", "seed")} == {
        "recipe": "voxceleb",
        "corpus": "folder",
        "method": "csc",
        "seed": 1,
    }
    # A second round whose labels are those of the first one is not trained.
    second = [] if (folder / "exp" / "round2" / "settled").exists() else ["round2"]
    assert (folder / "exp" / "round2" / "checkpoints").exists() == bool(second)
    assert systems_and_lists(results) == {
        (system, trials) for system in ("floor", "csc", "round1", *second, "final") for trials in ("clean", "adverse")
    }
    assert set(results["seconds"]) == {str(stage) for stage in range(1, STAGES)}
    for row in results["rows"]:
        assert 0 <= row["eer_ci95"][0] <= row["eer"] <= 100 and row["targets"] > 0 and row["nontargets"] > 0
    assert (folder / "exp" / "det.png").stat().st_size > 0
    assert all((folder / "exp" / system / "calibration.json").exists() for system in (".", "round1", "final"))
    best = torch.load(folder / "exp" / "best.pt", weights_only=True)
    assert best["system"] == "final" and (folder / "exp" / "best.calibration.json").exists()
    assert f"{folder}/exp/final/checkpoints/final.pt; copied to {folder}/exp/best.pt, the network to use" in printed
    assert "EER" in printed


def test_recipe_writes_only_into_its_two_folders(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} == {"mini", "learn", "speakers", "conf", "data", "exp"}
    assert not list(folder.rglob("*.new")) and not list(folder.rglob(".writing-*"))


def scripts(printed: str) -> list[str]:
    """The scripts that ran, in order."""
    return re.findall(r"python local/(\w+)\.py", printed)


def trained(folder: Path) -> dict[Path, int]:
    """When each checkpoint and each list of pseudo-labels was written."""
    found = [*folder.rglob("checkpoints/*.pt"), *folder.rglob("pseudo_labels.tsv")]
    return {path: path.stat().st_mtime_ns for path in found}


@pytest.mark.parametrize("spelt", ["data", "./data/", "{}/data"])
def test_finished_recipe_runs_nothing_again(finished: tuple[Path, str], spelt: str) -> None:
    folder, _ = finished
    times = trained(folder)
    printed = run(folder, "--data", spelt.format(folder))
    assert printed.count(": done already; to run it again delete ") == STAGES
    assert scripts(printed) == []
    assert times == trained(folder)


def test_added_enhancer_makes_only_what_is_new(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    network = {"hidden": 4, "layers": 1}
    torch.save(
        {
            "config": {"network": {"name": "mask_gru", **network}},
            "encoder": mask_gru.build(mask_gru.Config(**network)).state_dict(),
        },
        folder / "conf" / "enhancer.pt",
    )
    shutil.copy(folder / "conf" / "enhancer.pt", folder / "conf" / "other.pt")
    times, before = trained(folder), json.loads((folder / "exp" / "results.json").read_text())
    printed = run(folder, "--enhance", "conf/enhancer.pt,other=conf/other.pt")
    systems = {row["system"] for row in before["rows"]}
    expected = Counter(enhance=2, extract_floor=2, extract_embeddings=2 * (len(systems) - 1), make_results=1)
    assert Counter(scripts(printed)) == expected + Counter(score_trials=2 * len(systems))
    assert times == trained(folder)
    results = json.loads((folder / "exp" / "results.json").read_text())
    lists = ("clean", "adverse", "adverse_enhanced", "adverse_other")
    assert systems_and_lists(results) == {(system, trials) for system in systems for trials in lists}
    rates = {
        row["trials"]: (row["eer"], row["targets"])
        for row in results["rows"]
        if row["system"] == "floor" and row["scoring"] == "cosine"
    }
    assert rates["adverse"][1] == rates["adverse_enhanced"][1]
    assert rates["adverse"] != rates["adverse_enhanced"] == rates["adverse_other"]  # twice the same network
    assert scripts(run(folder)) == ["make_results"]  # without them, the results are those of before
    assert json.loads((folder / "exp" / "results.json").read_text())["rows"] == before["rows"]


def test_deleted_network_is_made_again_from_its_last_checkpoint_and_nothing_else(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    final = folder / "exp" / "round1" / "checkpoints" / "final.pt"
    before, steps = final.read_bytes(), (folder / "exp" / "round1" / "log.jsonl").read_text()
    final.unlink()
    printed = run(folder)
    assert [name for name in scripts(printed) if name != "make_results"] == ["train"]
    assert final.read_bytes() == before
    assert (folder / "exp" / "round1" / "log.jsonl").read_text() == steps


def test_replaced_audio_of_the_same_length_trains_again(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    path = sorted((folder / "learn").glob("*.flac"))[0]
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples[::-1].copy(), rate)
    printed = run(folder, "--stop-stage", "3")
    assert scripts(printed)[0] == "prepare_folder" and scripts(printed)[-1] == "train"
    assert "held another run (inputs.utterances" in printed


def test_results_name_the_commit_of_every_part(finished: tuple[Path, str]) -> None:
    results = json.loads((finished[0] / "exp" / "results.json").read_text())
    parts = [part.split()[0] for part in results["commits"]]
    assert parts == [str(stage) for stage in range(1, STAGES)]
    assert set(results["commits"].values()) == {results["commit"]}


def test_changed_config_trains_again_on_the_same_data(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    config = folder / "conf" / "csc.yaml"
    config.write_text(config.read_text().replace("steps: 3", "steps: 2"))
    printed = run(folder, "--stop-stage", "3")
    assert printed.count("done already") == 2
    assert "python local/train.py" in printed
    assert len((folder / "exp" / "log.jsonl").read_text().splitlines()) == 1


def run_apart(folder: Path, method: str, *options: str) -> tuple[str, dict]:
    """A run of one round with `method`: what it printed, and its results. Its folder is deleted."""
    exp = folder / f"exp_{method}"
    printed = run(
        folder,
        "--method",
        method,
        "--config",
        f"conf/{method}.yaml",
        "--exp",
        exp.name,
        "--rounds",
        "1",
        "--final",
        "no",
        *options,
    )
    results = json.loads((exp / "results.json").read_text())
    shutil.rmtree(exp)
    return printed, results


def of_round(printed: str) -> str:
    """The command that trained the round."""
    return next(line for line in printed.splitlines() if "local/train.py" in line and "/round1" in line)


@pytest.mark.parametrize("method, systems", [("dino", ["floor", "dino", "round1"]), ("floor", ["floor", "round1"])])
def test_rounds_start_from_any_embeddings(finished: tuple[Path, str], method: str, systems: list[str]) -> None:
    printed, results = run_apart(finished[0], method, "--plda", "yes")
    assert systems_and_lists(results) == {(system, trials) for system in systems for trials in ("clean", "adverse")}
    scorings = {system: {row["scoring"] for row in results["rows"] if row["system"] == system} for system in systems}
    plain = {"cosine", "mean", "asnorm"}
    assert scorings == {system: plain if system == "floor" else {*plain, "plda"} for system in systems}
    # The round has the network of dino: it goes on with it. Of the floor there is nothing to go on with.
    assert ("--start-from" in of_round(printed)) == (method == "dino")


def test_round_may_separate_too(finished: tuple[Path, str]) -> None:
    printed, results = run_apart(finished[0], "csc", "--round-config", "conf/round_csc.yaml")
    assert "conf/round_csc.yaml" in of_round(printed) and "--start-from" in of_round(printed)
    assert ("round1", "adverse") in systems_and_lists(results)
