"""Tables of several runs: a line for each system, or for each start of the rounds."""

import pytest

from cslib.config import UserError
from cslib.files import write_json
from local import tabulate_runs

RATES = {"csc": {"floor": 30.0, "csc": 20.0, "round1": 18.0, "final": 15.0},
         "floor": {"floor": 30.0, "round1": 25.0, "round2": 24.0, "final": 22.0}}


@pytest.fixture
def runs(tmp_path):
    """Two seeds of both methods; those of the second one are a point better. The floor never changes."""
    folders = []
    for method, rates in RATES.items():
        for seed in (1, 2):
            rows = [{"system": system, "trials": trials, "scoring": scoring, "min_dcf_0.01": 0.5, "targets": 10,
                     "nontargets": 1000, "eer": rate + 2 - (seed if system != "floor" else 2)}
                    for system, rate in rates.items() for trials in ("clean", "adverse")
                    for scoring in ("cosine", "asnorm")]
            folders.append(tmp_path / f"{method}_{seed}")
            write_json(folders[-1] / "results.json",
                       {"corpus": "mini", "method": method, "seed": seed, "rows": rows})
    return ",".join(map(str, folders))


def tabulate(runs, tmp_path, **options):
    tabulate_runs.main(tabulate_runs.Options(runs, tmp_path / "table.md", **options))
    return (tmp_path / "table.md").read_text().splitlines()


def test_every_system_list_and_scoring_has_a_line_with_each_seed(runs, tmp_path):
    lines = tabulate(runs, tmp_path)
    assert len(lines) == 2 + (4 + 4) * 2 * 2
    assert "| mini | csc | round1 | adverse | cosine | 18.50 | 19.00 (1), 18.00 (2) | 0.500 | 10 / 1,000 |" in lines


def test_starts_have_a_line_each_and_a_column_for_every_round(runs, tmp_path):
    header, _, *lines = tabulate(runs, tmp_path, layout="starts")
    floor = "30.00 (30.00, 30.00) | 25.50 (26.00, 25.00) | 24.50 (25.00, 24.00) | 22.50 (23.00, 22.00)"
    assert header == "| trials | start from | start | round1 | round2 | final |"
    assert lines[:2] == [
        "| adverse | csc | 20.50 (21.00, 20.00) | 18.50 (19.00, 18.00) |  | 15.50 (16.00, 15.00) |",
        f"| adverse | floor | {floor} |"]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| clean"] * 2


def test_unknown_layout_is_refused(runs, tmp_path):
    with pytest.raises(UserError, match="systems or starts"):
        tabulate(runs, tmp_path, layout="guess")
