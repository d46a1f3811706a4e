"""Tables of several runs: a line for each system, or for each start of the rounds."""

import re
from statistics import mean

import pytest

from cslib.config import UserError
from cslib.evaluation import run_folders
from cslib.files import read_json, write_json
from local import tabulate_runs
from tests.local.scored_runs import write_scored, write_trial_list

RATES = {
    "csc": {"floor": 30.0, "csc": 20.0, "round1": 18.0, "final": 15.0},
    "floor": {"floor": 30.0, "round1": 25.0, "round2": 24.0, "final": 22.0},
}


@pytest.fixture
def runs(tmp_path):
    """Two seeds of both methods; those of the second one are a point better. The floor never changes."""
    folders = []
    for method, rates in RATES.items():
        for seed in (1, 2):
            rows = [
                {
                    "system": system,
                    "trials": trials,
                    "scoring": scoring,
                    "min_dcf_0.01": 0.5,
                    "targets": 10,
                    "nontargets": 1000,
                    "eer": rate + 2 - (seed if system != "floor" else 2),
                }
                for system, rate in rates.items()
                for trials in ("clean", "adverse")
                for scoring in ("cosine", "asnorm")
            ]
            folders.append(tmp_path / f"{method}_{seed}")
            write_json(folders[-1] / "results.json", {"corpus": "mini", "method": method, "seed": seed, "rows": rows})
    return ",".join(map(str, folders))


def tabulate(runs, tmp_path, **options):
    tabulate_runs.main(tabulate_runs.Options(runs, tmp_path / "table.md", **options))
    return (tmp_path / "table.md").read_text().splitlines()


def test_every_system_list_and_scoring_has_a_line_with_each_seed(runs, tmp_path):
    lines = tabulate(runs, tmp_path)
    assert len(lines) == 2 + (4 + 4) * 2 * 2
    assert "| mini | csc | round1 | adverse | cosine | 18.50 | 19.00 (1), 18.00 (2) | 0.500 | 10 / 1,000 |" in lines


def test_starts_have_a_line_each_and_a_column_for_every_round(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folders, "DRAWS", 40)
    separations = {
        "csc": {"floor": 1.0, "csc": 1.5, "round1": 2.0, "final": 3.0},
        "floor": {"floor": 1.0, "round1": 1.5, "round2": 2.0},
    }
    lists = [write_trial_list(tmp_path, name) for name in ("clean", "adverse")]
    folders = []
    for method, systems in separations.items():
        for seed in (1, 2):
            folders.append(tmp_path / f"{method}_{seed}")
            rows = [
                write_scored(folders[-1], system, path, seed, separation)
                for system, separation in systems.items()
                for path in lists
            ]
            write_json(folders[-1] / "results.json", {"method": method, "seed": seed, "rows": rows})
    header, _, *lines = tabulate(",".join(map(str, folders)), tmp_path, layout="starts")
    assert header == "| trials | start from | start | round1 | round2 | final |"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [line[:2] for line in cells] == [
        ["adverse", "csc"],
        ["adverse", "floor"],
        ["clean", "csc"],
        ["clean", "floor"],
    ]
    assert cells[0][4] == "" and cells[1][5] == ""  # csc had no second round, floor no final network
    value, low, high = map(float, re.findall(r"[0-9.]+", cells[0][3]))
    rates = [
        row["eer"]
        for folder in folders[:2]
        for row in read_json(folder / "results.json")["rows"]
        if row["system"] == "round1" and row["trials"] == "adverse"
    ]
    assert value == pytest.approx(mean(rates), abs=0.006) and low < value < high


def test_unknown_layout_is_refused(runs, tmp_path):
    with pytest.raises(UserError, match="systems or starts"):
        tabulate(runs, tmp_path, layout="guess")
