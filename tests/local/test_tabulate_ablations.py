"""The table of the ablation study: which arm is better, by how much, and who was told the speakers."""

import json

import pytest

from cslib.config import UserError
from cslib.evaluation import run_folders
from cslib.files import write_json, write_lines
from local import tabulate_ablations
from tests.local.scored_runs import write_scored, write_trial_list


@pytest.fixture
def trial_list(tmp_path):
    return write_trial_list(tmp_path)


def run_folder(trial_list, arm, seed, separation, identity="utterance"):
    """What one run leaves behind; the larger `separation`, the fewer errors."""
    folder = trial_list.parents[3] / f"{arm}_{seed}"
    row = write_scored(folder, arm, trial_list, seed, separation)
    write_json(folder / "results.json", {"method": arm, "seed": seed, "rows": [row]})
    write_lines(folder / "config.yaml", [f"objective: {{name: csc, identity: {identity}}}"])
    write_lines(
        folder / "log.jsonl",
        [
            json.dumps({"step": step, "si_snr_improvement": seed + step, "mi_bound": 1.0, "nearest_identity": 0.25})
            for step in (1, 2)
        ],
    )
    return folder


def cells(folders, out):
    tabulate_ablations.main(tabulate_ablations.Options(",".join(map(str, folders)), out))
    lines = out.read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def bounds(cell):
    value, rest = cell.split(" [")
    return (float(value), *map(float, rest.rstrip("]").split(",")))


@pytest.fixture
def folders(trial_list, monkeypatch):
    monkeypatch.setattr(run_folders, "DRAWS", 40)
    return [
        run_folder(trial_list, arm, seed, separation, identity)
        for seed in (2, 1)
        for arm, separation, identity in (
            ("attention", 2.0, "utterance"),
            ("same", 2.0, "utterance"),
            ("worse", 1.0, "utterance"),
            ("told", 3.0, "speaker"),
        )
    ]


def test_arms_are_compared_with_the_first_by_paired_differences(folders, tmp_path):
    header, _, *lines = cells(folders, tmp_path / "table.md")
    assert header[:3] == ["arm", "EER % clean (each seed)", "minus attention, clean"]
    attention, same, worse, told = lines
    assert attention[2] == ""
    assert bounds(same[2]) == (0, 0, 0)  # the same scores: paired, nothing is left to chance
    value, low, high = bounds(worse[2])
    assert 0 < low < value < high
    assert bounds(told[2])[2] < 0
    means = [float(line[1].split()[0]) for line in (attention, worse)]
    assert value == pytest.approx(means[1] - means[0], abs=0.011)
    assert attention[3:] == ["3.50", "1.00", "0.25"]  # last lines: (1 + 2 + 2 + 2) / 2


def test_runs_pair_by_seed_whatever_their_order(folders, tmp_path):
    (attention_2, same_2), (attention_1, same_1) = folders[:2], folders[4:6]
    lines = cells([attention_2, attention_1, same_1, same_2], tmp_path / "table.md")[2:]
    assert lines[0][1] == lines[1][1] and bounds(lines[1][2]) == (0, 0, 0)


def test_the_arm_that_was_told_the_speakers_says_so_loudly(folders, tmp_path):
    _, _, *lines = cells(folders, tmp_path / "table.md")
    assert [line[0] for line in lines] == ["attention", "same", "worse", "**told: with true speaker labels**"]
    assert "**Trained with true speaker labels: told.**" in (tmp_path / "table.md").read_text()
    cells(folders[:3], tmp_path / "table.md")
    assert "speaker labels" not in (tmp_path / "table.md").read_text()


def test_arms_of_different_seeds_are_not_compared(folders, tmp_path):
    with pytest.raises(UserError, match="same has the seeds 2, and attention 1, 2"):
        cells([*folders[:2], folders[4]], tmp_path / "table.md")
