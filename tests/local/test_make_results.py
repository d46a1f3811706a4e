"""results.json, its table and pictures; and the table over several runs."""

import json

import numpy as np
import pytest

from cslib.config import UserError
from cslib.data.trials import read_trials, write_trials
from cslib.evaluation.score_files import write_scores
from cslib.files import write_json
from cslib.provenance import commit
from local import make_results, tabulate_runs

PNG = b"\x89PNG\r\n"


@pytest.fixture
def run_folder(tmp_path):
    return scored_run(tmp_path, "run", seed=0)


def scored_run(folder, name, seed):
    """A run folder as score_trials.py leaves it, with three systems on one trial list."""
    rng = np.random.default_rng(seed)
    trials_path = folder / "clean.txt"
    write_trials(
        trials_path, [f"u{n % 20}" for n in range(200)], [f"u{20 + n}" for n in range(200)], np.arange(200) % 4 == 0
    )
    trials = read_trials(trials_path)
    for at, system in enumerate(["round10", "floor", "round2"]):
        for scoring in ("asnorm", "cosine"):
            path = folder / name / "scores" / f"{system}_clean_{scoring}.txt"
            write_scores(path, trials, rng.standard_normal(200) + 2 * trials.targets)
            row = {
                "system": system,
                "trials": "clean",
                "scoring": scoring,
                "eer": 10.0 + at + seed,
                "eer_ci95": [9.0, 14.5],
                "min_dcf_0.01": 0.5,
                "targets": 50,
                "nontargets": 150,
            }
            write_json(path.with_suffix(".json"), {"row": row, "trial_list": str(trials_path), "score_file": path.name})
    return folder / name


def options(folder, seed=0, **more):
    return make_results.Options(folder, "voxceleb", "mini", "csc", seed, **more)


def test_results_json_has_the_promised_keys_in_reading_order(run_folder, tmp_path, capsys):
    write_json(tmp_path / "seconds.json", {"train": 480.5})
    make_results.main(options(run_folder, seconds=tmp_path / "seconds.json"))
    results = json.loads((run_folder / "results.json").read_text())
    assert list(results) == ["recipe", "corpus", "method", "seed", "commit", "commits", "seconds", "rows"]
    assert results["seconds"] == {"train": 480.5} and results["seed"] == 0
    assert [(row["system"], row["scoring"]) for row in results["rows"]] == [
        (system, scoring) for system in ("floor", "round2", "round10") for scoring in ("cosine", "asnorm")
    ]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 7 and len({len(line) for line in printed}) == 1  # aligned
    assert "11.00" in printed[1] and "[9.00, 14.50]" in printed[1]


def test_pictures_are_drawn(run_folder):
    make_results.main(options(run_folder))
    for name in ("det.png", "histograms.png"):
        assert (run_folder / name).read_bytes().startswith(PNG)


def test_missing_seconds_are_no_error_and_missing_scores_are(run_folder, tmp_path):
    make_results.main(options(run_folder, seconds=tmp_path / "none.json"))
    assert json.loads((run_folder / "results.json").read_text())["seconds"] == {}
    with pytest.raises(UserError, match="has no scores"):
        make_results.main(options(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="--plot-scoring is mean; .* has only asnorm, cosine"):
        make_results.main(options(run_folder, plot_scoring="mean"))


def test_commits_of_the_parts_stand_beside_that_of_the_scoring(run_folder, tmp_path):
    made = {"csc": "1" * 40, "final": "2" * 40 + "-dirty"}
    write_json(tmp_path / "commits.json", made)
    make_results.main(options(run_folder, commits=tmp_path / "commits.json"))
    results = json.loads((run_folder / "results.json").read_text())
    assert results["commits"] == made and results["commit"] == commit()
    make_results.main(options(run_folder, commits=tmp_path / "none.json"))
    assert json.loads((run_folder / "results.json").read_text())["commits"] == {}
    for wrong in ([1], {"csc": 3}):
        write_json(tmp_path / "commits.json", wrong)
        with pytest.raises(UserError, match="commits.json: must be a JSON object with a commit"):
            make_results.main(options(run_folder, commits=tmp_path / "commits.json"))


def test_scores_of_an_earlier_call_are_left_out(run_folder, tmp_path):
    """There were more rounds, an enhancer or another scoring then, such as PLDA."""
    path = run_folder / "scores/floor_clean_cosine.json"
    other = json.loads(path.read_text())
    other["row"]["trials"] = "adverse_ccr"
    write_json(run_folder / "scores/floor_adverse_ccr_cosine.json", other)
    make_results.main(options(run_folder, systems="floor,round2", trials="clean"))
    rows = json.loads((run_folder / "results.json").read_text())["rows"]
    assert [(row["system"], row["trials"]) for row in rows] == 2 * [("floor", "clean")] + 2 * [("round2", "clean")]
    make_results.main(options(run_folder))
    assert len(json.loads((run_folder / "results.json").read_text())["rows"]) == 7
    make_results.main(options(run_folder, scorings="cosine"))
    rows = json.loads((run_folder / "results.json").read_text())["rows"]
    assert {row["scoring"] for row in rows} == {"cosine"}
    with pytest.raises(UserError, match="--systems: .* has no scores of csc; it has those of floor, round2, round10"):
        make_results.main(options(run_folder, systems="floor,csc"))
    with pytest.raises(UserError, match="--trials: .* has no scores of vox1_o; it has those of adverse_ccr, clean"):
        make_results.main(options(run_folder, trials="vox1_o"))
    with pytest.raises(UserError, match="--scorings: .* has no scores of plda; it has those of "):
        make_results.main(options(run_folder, scorings="cosine,plda"))
    with pytest.raises(UserError, match="no scores of round2 on adverse_ccr"):
        make_results.main(options(run_folder, systems="round2", trials="adverse_ccr"))


@pytest.mark.slow
def test_runs_are_averaged_in_one_markdown_table(tmp_path, capsys):
    for seed in (1, 2):
        folder = scored_run(tmp_path, f"run{seed}", seed)
        make_results.main(options(folder, seed))
    capsys.readouterr()
    tabulate_runs.main(tabulate_runs.Options(f"{tmp_path}/run1,{tmp_path}/run2", tmp_path / "table.md"))
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len(lines) == 2 + 6
    assert len({line.count("|") for line in lines}) == 1
    floor = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert floor == ["mini", "csc", "floor", "clean", "cosine", "12.50", "12.00 (1), 13.00 (2)", "0.500", "50 / 150"]


def test_a_run_without_results_is_named(tmp_path):
    with pytest.raises(UserError, match="results.json"):
        tabulate_runs.main(tabulate_runs.Options(str(tmp_path), tmp_path / "table.md"))
