"""results.json of an enhancement run: its rows, gains over `none`, and when negatives were beaten."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cslib.config import UserError
from cslib.evaluation.enhanced_folders import Scores
from cslib.evaluation.speech_quality import HEADLINE, MEASURES
from cslib.feature_spaces.base import FeatureSpaceConfig
from cslib.models import mask_gru
from cslib.provenance import commit
from local import make_enhancement_results as script
from local import tabulate_scores
from tests.tiny_pairs import make_pairs


@pytest.fixture
def options(tmp_path):
    """A run with scores of noisy, none, extra and cr: each better than the one before by 0.5 in every measure."""
    test = make_pairs(tmp_path / "data/test", count=4, seconds=0.5)
    (test / "pairs.tsv").write_text("id\tsnr\tnoise\n" + "".join(f"u{n:02d}\t{5 * n}\tcafe\n" for n in range(4)))
    base = np.random.default_rng(0).normal(2, 1, (4, len(MEASURES)))
    for gain, name in enumerate(("noisy", "none", "extra", "cr")):
        reasons = ["", "", "", "PESQ: silent" if name == "cr" else ""]
        path = tmp_path / ("noisy.tsv" if name == "noisy" else f"exp/scores/{name}.tsv")
        Scores([f"u{n:02d}" for n in range(4)], base + 0.5 * gain, reasons).write(path)
    return script.Options(
        exp=tmp_path / "exp", corpus="mini", backbone="crn", seed=3, test=test, noisy=tmp_path / "noisy.tsv"
    )


def log(folder, best):
    """Of the qualities the second is the lower one. That of the noisy speech, which comes first, beats nobody."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "step": 10 * n,
            "beaten": n > 1 and (value > 2) + (value > 3),
            "best_quality": value,
            "quality_1": 3,
            "quality_2": 2,
        }
        for n, value in enumerate(best, 1)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_rows_gains_and_picture(options, capsys):
    log(options.exp / "cr", [2.5, 1.5, 2.2, 3.0])
    config = {"network": {"name": "mask_gru", "hidden": 4, "layers": 1}, "objective": {"regulariser": {"weight": 0.3}}}
    (options.exp / "cr/checkpoints").mkdir(parents=True)
    torch.save(
        {"config": config, "step": 70, "encoder": mask_gru.build(mask_gru.Config(hidden=4, layers=1)).state_dict()},
        options.exp / "cr/checkpoints/final.pt",
    )
    script.main(replace(options, space=FeatureSpaceConfig("logmel"), negatives="10 35"))
    results = json.loads((options.exp / "results.json").read_text())
    costs = {
        row["system"]: (row["parameters"], row["real_time_factor"]) for row in results["rows"] if "parameters" in row
    }
    assert set(costs) == {"cr"} and costs["cr"][0] > 100 and costs["cr"][1] > 0
    assert (results["space"], results["negatives"]) == ("logmel", [10, 35])
    assert (results["rows"][2]["steps"], results["rows"][2]["regulariser_weight"]) == (70, 0.3)
    # u03 failed with cr, so it counts with no system.
    assert results["rows"][0]["pesq"] == pytest.approx(Scores.read(options.noisy).values[:3, 0].mean())
    assert [row["system"] for row in results["rows"]] == ["noisy", "none", "cr", "extra"]
    assert all(set(HEADLINE) <= set(row) and (row["backbone"], row["seed"]) == ("crn", 3) for row in results["rows"])
    assert [(row["files"], row["failed"]) for row in results["rows"]] == [(4, 0), (4, 0), (4, 1), (4, 0)]
    gains = {one["system"]: one for one in results["over_none"]}
    assert set(gains) == {"cr", "extra"}
    assert gains["cr"]["pesq"] == pytest.approx(1.0) and gains["extra"]["si_sdr"] == pytest.approx(0.5)
    assert gains["cr"]["pesq_ci95"] == pytest.approx([1.0, 1.0]), "paired: the spread over recordings is gone"
    assert results["negatives_beaten_at_step"] == {"cr": [None, 30]}
    assert (options.exp / "spectrograms.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "cr over none: PESQ +1.000 [+1.000, +1.000]" in printed
    assert "cr: negatives beaten by step never, 30" in printed


def test_scores_of_systems_that_are_not_asked_for_do_not_count(options):
    script.main(replace(options, systems="none,cr"))
    results = json.loads((options.exp / "results.json").read_text())
    assert [row["system"] for row in results["rows"]] == ["noisy", "none", "cr"]
    with pytest.raises(UserError, match="ccr.tsv: not a table of measures"):
        script.main(replace(options, systems="none,ccr"))


def test_commits_of_the_parts_stand_beside_that_of_the_scoring(options, tmp_path):
    (tmp_path / "commits.json").write_text('{"cr": "abc"}')
    script.main(replace(options, commits=tmp_path / "commits.json"))
    results = json.loads((options.exp / "results.json").read_text())
    assert (results["commits"], results["commit"], results["seconds"]) == ({"cr": "abc"}, commit(), {})


def test_tables_of_one_name_are_both_shown(options, capsys):
    first = options.exp / "scores/none.tsv"
    second = options.exp / "again/none.tsv"
    Scores.read(first).write(second)
    tabulate_scores.main(tabulate_scores.Options(f"{first},{second}"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {first}", f"| {second}"]


def test_a_table_is_read_as_it_was_written(tmp_path):
    values = np.arange(2.0 * len(MEASURES)).reshape(2, -1)
    values[1, 0] = np.nan
    Scores(["a", "b/c d"], values, ["", "PESQ: no"]).write(tmp_path / "t.tsv")
    read = Scores.read(tmp_path / "t.tsv")
    assert (read.names, read.reasons) == (["a", "b/c d"], ["", "PESQ: no"])
    np.testing.assert_array_equal(read.values, values)
    (tmp_path / "t.tsv").write_text("file\tpesq\na\t1\n")
    with pytest.raises(UserError, match="not a table of measures"):
        Scores.read(tmp_path / "t.tsv")


def test_scores_of_other_recordings_are_refused(options):
    scores = Scores.read(options.noisy)
    Scores([f"x{name}" for name in scores.names], scores.values, scores.reasons).write(options.exp / "scores/cr.tsv")
    with pytest.raises(UserError, match="were scored on different recordings"):
        script.main(options)


def test_no_scores_is_one_sentence(options, tmp_path):
    options.exp = tmp_path / "other"
    with pytest.raises(UserError, match="has no scores"):
        script.main(options)
