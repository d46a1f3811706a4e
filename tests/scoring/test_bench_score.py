"""The benchmark of scoring runs at any size; what it prints is for people."""

from utils import bench


def test_benchmark_of_scoring_prints_a_line_for_each_part(capsys):
    bench.score(trials=500, utterances=60, cohort=20, size=8, speakers=6)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert all(" s " in line and line.endswith("MiB") for line in lines[:6])
