"""Error rates by condition: every trial is in one group of each kind, and rates are those of the group."""

import re

import numpy as np
import pytest

from cslib.config import UserError
from cslib.data.trials import read_trials, write_trials
from cslib.evaluation.error_rates import equal_error_rate
from cslib.evaluation.score_files import read_scores, write_scores
from cslib.files import write_json
from local.tabulate_conditions import Options, main, trial_groups

pytestmark = pytest.mark.slow  # starts processes that import torch

NAMES = [f"u{n}" for n in range(12)]


@pytest.fixture
def runs(tmp_path):
    """Two seeds of csc: unprocessed trials, and enhanced by `good`, which helps, and `idle`, which changes nothing."""
    first, second = np.triu_indices(12, 1)
    data, targets = tmp_path / "data", first % 3 == second % 3
    write_trials(data / "trials/adverse.txt", [NAMES[n] for n in first], [NAMES[n] for n in second], targets)
    rows = (f"u{n}\t1\t{1.25 * n:g}\tnoise\t{'-' if n % 2 else 'u0'}\t-" for n in range(12))
    (data / "conditions.tsv").write_text("\n".join(["utterance\trir\tsnr\tkind\tinterferer\tsir", *rows]) + "\n")
    speakers = ["utterance\tspeaker", *(f"u{n}\ts{n % 3}" for n in range(12))]
    (data / "speakers.tsv").write_text("\n".join(speakers) + "\n")
    trials = read_trials(data / "trials/adverse.txt")
    for seed in (1, 2):
        noise = np.random.default_rng(seed).normal(size=66)
        rows = []
        for name, scores in (
            ("adverse", noise + targets),
            ("adverse_good", noise + 4 * targets),
            ("adverse_idle", noise + targets),
        ):
            path = tmp_path / f"run{seed}/scores/csc_{name}_cosine.txt"
            write_scores(path, trials, scores)
            write_json(
                path.with_suffix(".json"), {"trial_list": str(data / "trials/adverse.txt"), "score_file": path.name}
            )
            rows.append({"system": "csc", "trials": name, "scoring": "cosine"})
        write_json(tmp_path / f"run{seed}/results.json", {"rows": rows})
    return [tmp_path / "run1", tmp_path / "run2"]


def options_of(runs, **values):
    return Options(runs=",".join(map(str, runs)), out=runs[0] / "table.md", **values)


def test_groups_are_by_the_worse_side_and_by_the_number_of_interferers(runs):
    data = runs[0].parent / "data"
    groups = trial_groups(read_trials(data / "trials/adverse.txt"), data / "conditions.tsv")
    counts = {name: int(chosen.sum()) for name, chosen in groups.items()}
    # Of 12 recordings 4 are below 5 dB and 4 from 5 to below 10 dB; 6 have an interferer.
    assert counts == {
        "all": 66,
        "SNR 0 to 5 dB": 6 + 4 * 8,
        "SNR 5 to 10 dB": 6 + 4 * 4,
        "SNR 10 to 15 dB": 6,
        "interferer none": 15,
        "interferer in one": 36,
        "interferer in both": 15,
    }


def test_table_has_means_over_seeds_and_what_each_enhancer_is_worth(runs, capsys):
    main(options_of(runs))
    lines = (runs[0] / "table.md").read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == lines and len(lines) == 2 + 2 + 7
    assert lines[0] == "**csc**" and lines[2] == "| trials | targets | non-targets | unprocessed | good | idle |"
    trials = read_trials(runs[0].parent / "data/trials/adverse.txt")
    plain, good = (
        [equal_error_rate(read_scores(run / f"scores/csc_{name}_cosine.txt", trials), trials.targets) for run in runs]
        for name in ("adverse", "adverse_good")
    )
    cells = lines[4].strip("| ").split(" | ")
    assert cells[:4] == ["all", "18", "48", f"{np.mean(plain):.2f}"]
    rate, difference, low, high = map(float, re.findall(r"[-+]?[0-9.]+", cells[4]))
    assert (rate, difference) == pytest.approx((np.mean(good), np.mean(good) - np.mean(plain)), abs=0.01)
    assert low < difference < high < 0
    assert cells[5] == f"{np.mean(plain):.2f} (+0.00 [+0.00, +0.00])"
    main(options_of(runs, systems="csc", base="good"))
    cells = (runs[0] / "table.md").read_text().splitlines()[4].strip("| ").split(" | ")
    assert cells[4] == f"{np.mean(good):.2f}" and float(cells[3].split()[1].strip("(")) == pytest.approx(-difference)


def test_enhancers_are_columns_in_the_order_they_are_asked_for(runs):
    main(options_of(runs))
    whole = [line.strip("| ").split(" | ") for line in (runs[0] / "table.md").read_text().splitlines()]
    main(options_of(runs, enhancers="idle,good"))
    turned = [line.strip("| ").split(" | ") for line in (runs[0] / "table.md").read_text().splitlines()]
    assert turned[4:] == [[*line[:4], line[5], line[4]] for line in whole[4:]] and turned[2][4:] == ["idle", "good"]
    main(options_of(runs, enhancers="good"))
    assert [line[:5] for line in whole[4:]] == [
        line.strip("| ").split(" | ") for line in (runs[0] / "table.md").read_text().splitlines()[4:]
    ]


def test_runs_and_systems_that_will_not_do_are_refused(runs):
    with pytest.raises(UserError, match="has no scores of dino; it has those of csc"):
        main(options_of(runs, systems="dino"))
    with pytest.raises(UserError, match="no trials that better enhanced"):
        main(options_of(runs, base="better"))
    with pytest.raises(UserError, match="--enhancers: .* has no trials that better enhanced"):
        main(options_of(runs, enhancers="good,better"))
    with pytest.raises(UserError, match="idle is not among --enhancers"):
        main(options_of(runs, enhancers="good", base="idle"))
    table = "utterance\trir\tsnr\tkind\tinterferer\tsir\nx\t1\t3\tnoise\t-\t-\n"
    (runs[0].parent / "data/conditions.tsv").write_text(table)
    with pytest.raises(UserError, match="not the conditions of these trials"):
        main(options_of(runs))
    write_json(runs[0] / "results.json", {"rows": []})
    with pytest.raises(UserError, match="has no scores of adverse trials"):
        main(options_of(runs))
