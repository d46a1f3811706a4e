"""Error rates by condition: every trial is in one group of each kind, and rates are those of the group."""

import numpy as np
import pytest

from cslib.config import UserError
from cslib.data.trials import read_trials, write_trials
from cslib.scoring.metrics import equal_error_rate
from cslib.scoring.score_files import write_scores
from local.tabulate_conditions import Options, main, trial_groups

NAMES = [f"u{n}" for n in range(12)]


@pytest.fixture
def options(tmp_path):
    first, second = np.triu_indices(12, 1)
    write_trials(tmp_path / "adverse.txt", [NAMES[n] for n in first], [NAMES[n] for n in second],
                 first % 3 == second % 3)
    rows = (f"u{n}\t1\t{1.25 * n:g}\tnoise\t{'-' if n % 2 else 'u0'}\t-" for n in range(12))
    (tmp_path / "conditions.tsv").write_text("\n".join(["utterance\troom\tsnr\tkind\tinterferer\tsir", *rows]) + "\n")
    trials = read_trials(tmp_path / "adverse.txt")
    for seed, name in enumerate("ab"):
        write_scores(tmp_path / f"{name}.txt", trials, np.random.default_rng(seed).normal(size=66) + trials.targets)
    return Options(scores=f"{tmp_path / 'a.txt'},{tmp_path / 'b.txt'}", trials=tmp_path / "adverse.txt",
                   conditions=tmp_path / "conditions.tsv", out=tmp_path / "table.md")


def test_groups_are_by_the_worse_side_and_by_the_number_of_interferers(options):
    trials = read_trials(options.trials)
    groups = trial_groups(trials, options.conditions)
    counts = {name: int(chosen.sum()) for name, chosen in groups.items()}
    # Of 12 recordings 4 are below 5 dB and 4 from 5 to below 10 dB; 6 have an interferer.
    assert counts == {"all": 66, "SNR 0 to 5 dB": 6 + 4 * 8, "SNR 5 to 10 dB": 6 + 4 * 4, "SNR 10 to 15 dB": 6,
                      "interferer none": 15, "interferer in one": 36, "interferer in both": 15}


def test_table_has_a_column_for_each_file_of_scores(options, capsys):
    main(options)
    lines = options.out.read_text().splitlines()
    assert lines[0] == "| trials | targets | non-targets | a | b |"
    trials = read_trials(options.trials)
    scores = np.array([float(line.split()[2]) for line in (options.out.parent / "b.txt").read_text().splitlines()])
    assert lines[2].endswith(f"| {equal_error_rate(scores, trials.targets):.2f} |")
    assert capsys.readouterr().out.splitlines() == lines and len(lines) == 2 + 7


def test_conditions_of_another_set_are_refused(options):
    options.conditions.write_text("utterance\troom\tsnr\tkind\tinterferer\tsir\nx\t1\t3\tnoise\t-\t-\n")
    with pytest.raises(UserError, match="not the conditions of these trials"):
        main(options)
