"""egs/voxceleb/run.sh for somebody who has recordings and nothing else: no test speakers, no noises."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.recipes.test_end_to_end import ENVIRONMENT, ROOT, STAGES, recordings, scripts

pytestmark = pytest.mark.end_to_end
SIGNS = ["system", "network", "halves", "retrieval", "clusters", "quality", "nmi"]


def run(folder: Path, *options: str) -> str:
    done = subprocess.run(
        [
            "bash",
            ROOT / "egs/voxceleb/run.sh",
            "--corpus",
            "folder",
            "--train-dir",
            "learn",
            "--config",
            "conf/csc.yaml",
        ]
        + ["--data", "data", "--exp", "exp", "--gpus", "0", *options],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder of the finished run, what it printed)"""
    folder = tmp_path_factory.mktemp("recipe")
    recordings(folder)
    shutil.rmtree(folder / "mini")
    shutil.copytree(Path(__file__).parent / "conf", folder / "conf")
    (folder / "conf/clusters.yaml").write_text("choose: density\ndensity_sizes: [2, 3]\ncompare: true\n")
    return folder, run(folder, "--pieces", "yes")


def test_recipe_without_a_test_set_ends_with_label_free_signs(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    results = json.loads((folder / "exp/results.json").read_text())
    assert results["rows"] == [] and set(results["seconds"]) == {str(stage) for stage in range(1, STAGES)}
    second = [] if (folder / "exp/round2/settled").exists() else ["round2"]
    signs = results["label_free"]
    assert [row["system"] for row in signs] == ["floor", "csc", "round1", *second, "final"]
    assert all(list(row) == SIGNS and 0 <= row["halves"] <= 1 for row in signs)
    assert all(row["clusters"] > 1 and -1 <= row["quality"] <= 1 for row in signs[1:-1])
    assert signs[0]["network"] is None and all(Path(row["network"]).is_file() for row in signs[1:])
    assert signs[2]["nmi"] is not None  # of the clusters made from round1 and those made from csc
    compared = json.loads((folder / "exp/final/clusters.json").read_text())["systems"]
    assert {"round1", "floor", "exp"} <= {name for row in compared for name in row["system"].split(" + ")}
    assert "halves found %" in printed and (folder / "exp/best.pt").is_file()


def test_what_needs_trials_is_left_out_and_that_is_said_once(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    assert len(re.findall("no --test-dir: ", printed)) == 1
    assert not {"make_adverse", "score_trials", "make_results"} & set(scripts(printed))
    assert not [*folder.glob("data/test*"), *folder.glob("exp/scores"), *folder.glob("exp/*.png")]
    assert all((folder / "exp" / system / "calibration.json").exists() for system in (".", "round1", "final"))


def test_finished_recipe_runs_nothing_again(finished: tuple[Path, str]) -> None:
    assert scripts(run(finished[0], "--pieces", "yes")) == []


def test_pieces_are_learnt_from_like_recordings(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    assert "recordings (" in printed and " pieces of 2 to 15 s" in printed
    lines = (folder / "exp/embeddings/train.scp").read_text().splitlines()
    assert len(lines) > 1 and all(re.fullmatch(r"train-\d{6}-\d{7} .*", line) for line in lines)


def test_added_test_set_is_scored_and_trains_nothing_again(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    ran = scripts(run(folder, "--pieces", "yes", "--test-dir", "speakers"))
    assert "score_trials" in ran and not {"train", "cluster_embeddings", "prepare_noise"} & set(ran)
    results = json.loads((folder / "exp/results.json").read_text())
    assert {row["trials"] for row in results["rows"]} == {"clean", "adverse"} and "label_free" not in results
