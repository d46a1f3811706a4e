"""Benchmarks run at any size and print a line for each part."""

import pytest

from tests.tiny_run import CONFIG, make_set
from utils import bench


def test_benchmark_of_scoring_prints_a_line_for_each_part(capsys):
    bench.score(trials=500, utterances=60, cohort=20, size=8, speakers=6)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert all(" s " in line and line.endswith("MiB") for line in lines[:6])


def test_benchmark_of_clustering_prints_a_line_for_each_part(capsys):
    bench.cluster(utterances=300, size=8, clusters=5, centroids=40, iterations=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and "agglomeration" in lines[2]
    assert all(" s " in line and line.endswith("MiB") for line in lines[:4])
    assert lines[4].endswith("GiB")


@pytest.mark.slow
def test_benchmarks_of_a_training_print_its_pace_and_that_of_its_loader(tmp_path, capsys):
    data = make_set(tmp_path / "data")
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    bench.step(tmp_path / "tiny.yaml", data, steps=8, options=("--device=cpu",))
    assert "steps/s" in capsys.readouterr().out
    bench.loader(tmp_path / "tiny.yaml", data, batches=2)
    assert "from 1 loader processes" in capsys.readouterr().out
