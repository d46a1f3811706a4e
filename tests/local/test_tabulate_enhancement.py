"""Runs of several seeds in one table: means over seeds, and gains paired by recording."""

import numpy as np
import pytest

from cslib.config import UserError
from cslib.evaluation.enhanced_folders import Scores
from cslib.evaluation.speech_quality import HEADLINE, MEASURES
from cslib.files import write_json
from local.tabulate_enhancement import Options, main

NAMES = [f"u{n}" for n in range(30)]


def run_folder(folder, seed, gain, names=NAMES, **more):
    """Scores of a run in which cr is better than none by `gain`, whatever the recording."""
    base = np.random.default_rng(7).normal(2, 1, (len(names), len(MEASURES)))
    rows = []
    for system, values in (("none", base), ("cr", base + gain)):
        Scores(names, values, [""] * len(names)).write(folder / "scores" / f"{system}.tsv")
        means = {name: float(values[:, MEASURES.index(name)].mean()) for name in HEADLINE}
        rows.append({"system": system, "backbone": "crn", "seed": seed, **means})
    write_json(folder / "results.json", {"method": "crn", "seed": seed, "rows": rows, "over_none": [], **more})
    return folder


def test_means_over_seeds_and_paired_gains(tmp_path, capsys):
    runs = [run_folder(tmp_path / f"r{seed}", seed, gain) for seed, gain in ((1, 0.1), (2, 0.3))]
    main(Options(runs=",".join(map(str, runs)), out=tmp_path / "table.md"))
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == lines
    assert [line.split(" | ")[1] for line in lines if line.startswith("| crn | ")][:2] == ["none", "cr"]
    gains = [line for line in lines if " over " in line]
    # The spread over recordings, ten times the gain, is in neither interval.
    assert gains == [
        "| crn | cr over none | +0.200 [+0.200, +0.200] | +0.100, +0.300 | +0.200 [+0.200, +0.200] | +0.100, +0.300 |"
    ]


def test_runs_that_were_mixed_otherwise_are_a_line_of_their_own(tmp_path):
    runs = [run_folder(tmp_path / mixing, 1, gain, mixing=mixing) for mixing, gain in (("once", 0.1), ("anew", 0.3))]
    main(Options(runs=",".join(map(str, runs)), out=tmp_path / "table.md"))
    gains = [line.split(" | ")[:3] for line in (tmp_path / "table.md").read_text().splitlines() if " over " in line]
    assert gains == [
        ["| crn", "cr over none", "+0.100 [+0.100, +0.100]"],
        ["| crn, mixed anew", "cr over none", "+0.300 [+0.300, +0.300]"],
    ]


def test_runs_in_other_spaces_are_told_apart_and_those_of_one_seed_are_not_averaged(tmp_path, capsys):
    spaces = {"a": "logmel", "b": "dino resnet, 300 steps", "c": "dino resnet, 300 steps"}
    runs = [
        run_folder(tmp_path / name, seed, 0.1, space=space)
        for seed, (name, space) in zip((1, 1, 2), spaces.items(), strict=True)
    ]
    main(Options(runs=",".join(map(str, runs))))
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[-1]) for line in lines if line[1:2] == ["none"]] == [
        ("| crn, logmel", "1.807 (1) |"),
        ("| crn, dino resnet, 300 steps", "1.807 (1), 1.807 (2) |"),
    ]
    with pytest.raises(UserError, match="a and .*d are both crn of seed 1"):
        main(Options(runs=f"{runs[0]},{run_folder(tmp_path / 'd', 1, 0.1, space='logmel')}"))


def test_a_gain_that_no_run_has_is_not_missed(tmp_path, capsys):
    runs = [run_folder(tmp_path / f"r{seed}", seed, 0.1) for seed in (1, 2)]
    (tmp_path / "r1/scores/ccr.tsv").write_bytes((tmp_path / "r1/scores/cr.tsv").read_bytes())
    main(Options(runs=",".join(map(str, runs))))
    told = capsys.readouterr().err
    assert "not all runs have ccr and none" in told and "cr_matched" not in told and "fixed" not in told


def test_a_run_of_another_recipe_is_refused(tmp_path):
    write_json(tmp_path / "results.json", {"method": "csc", "rows": []})
    with pytest.raises(UserError, match="give folders of egs/voicebank"):
        main(Options(runs=str(tmp_path)))
