"""Learning curves: the values kept of a log, the plots, and files that are refused."""

import json
from unittest.mock import patch

import pytest
from matplotlib.image import imread

from cslib.config import UserError, parse
from local import plot_training
from local.plot_training import names_of, read_log, thinned

GREY, FIRST = 0.7, (31, 119, 180)  # of a reference; of the first run, as matplotlib's C0


def write_log(folder, lines=30, loss=10.0, **more):
    """A training that logs every 20 steps; its loss falls from `loss`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "step": 20 * n,
                    "loss": loss / n,
                    "distillation": loss / n,
                    "teacher_entropy": 3.0,
                    **more,
                    "learning_rate": 0.001,
                    "data_seconds": 0.1,
                    "compute_seconds": 0.5,
                    "items_per_second": 64.0,
                    "memory_gb": 2.0,
                }
            )
            + "\n"
            for n in range(1, lines + 1)
        )
    )
    return folder


def draw(tmp_path, *runs, more=()):
    """Run the script; the curves that it wrote."""
    out = tmp_path / "curves" / "tiny.v2"
    plot_training.main(parse(plot_training.Options, ["--runs", ",".join(map(str, runs)), "--out", str(out), *more]))
    assert out.with_name("tiny.v2.png").read_bytes().startswith(b"\x89PNG")
    return json.loads(out.with_name("tiny.v2.json").read_text())["runs"]


def test_the_loss_its_parts_and_diagnostics_are_kept_and_the_speed_of_the_machine_is_not(tmp_path, capsys):
    runs = draw(tmp_path, write_log(tmp_path / "exp/one", live_prototypes=0.25), write_log(tmp_path / "exp/two", 5))
    assert list(runs) == ["one", "two"]
    assert list(runs["one"]) == ["step", "loss", "distillation", "teacher_entropy", "live_prototypes", "learning_rate"]
    assert runs["two"]["step"] == [20, 40, 60, 80, 100]
    assert runs["two"]["loss"] == [10.0, 5.0, 3.3333, 2.5, 2.0]
    assert "one: 5 curves of 30 points, up to step 600" in capsys.readouterr().out
    assert str(tmp_path) not in json.dumps(runs)


def test_a_long_log_is_thinned_to_means_of_its_lines(tmp_path):
    lines = read_log(write_log(tmp_path, 1003) / "log.jsonl")
    curves = thinned(lines, 200)
    assert {len(values) for values in curves.values()} == {200}
    assert curves["step"][-1] == 1003 * 20 and curves["step"] == sorted(set(curves["step"]))
    first = [line["loss"] for line in lines if line["step"] <= curves["step"][0]]
    assert len(first) in (5, 6) and curves["loss"][0] == pytest.approx(sum(first) / len(first), rel=1e-4)
    assert all(value == 3.0 for value in curves["teacher_entropy"])


def test_a_value_that_some_lines_lack_has_gaps(tmp_path):
    lines = read_log(write_log(tmp_path, 4) / "log.jsonl")
    lines[2]["kept"], lines[3]["kept"] = 0.5, float("nan")
    assert thinned(lines, 200)["kept"] == [None, None, 0.5, None]


def test_a_reference_is_drawn_in_grey_behind_the_run(tmp_path):
    draw(tmp_path, write_log(tmp_path / "exp/kept", loss=20.0, koleo=1.0))
    kept = tmp_path / "kept.json"
    (tmp_path / "curves/tiny.v2.json").rename(kept)
    with patch.object(plot_training, "draw", wraps=plot_training.draw) as drawn:
        runs = draw(tmp_path, write_log(tmp_path / "exp/mine"), more=["--reference", str(kept)])
    assert list(runs) == ["mine"]  # the reference is not kept once more
    pictures = {call.args[1]: call.args[0].lines for call in drawn.call_args_list}
    assert list(pictures) == ["loss", "distillation", "teacher_entropy", "learning_rate"]  # those of the run
    grey, own = pictures["loss"]
    assert (grey.get_color(), grey.get_label(), own.get_label()) == (str(GREY), "reference", "mine")
    assert list(grey.get_ydata())[:2] == [20.0, 10.0] and list(own.get_ydata())[:2] == [10.0, 5.0]
    pixels = (imread(tmp_path / "curves/tiny.v2.png")[..., :3] * 255).round()
    assert (pixels == FIRST).all(-1).any() and (abs(pixels - 255 * GREY) < 1.5).all(-1).any()


def test_names_of_runs_are_the_shortest_ends_of_paths_that_differ(tmp_path):
    assert names_of([tmp_path / "exp/a/round1"]) == ["round1"]
    assert names_of([tmp_path / "exp/a/round1", tmp_path / "exp/b/round1"]) == ["a/round1", "b/round1"]
    with pytest.raises(UserError, match="names a folder twice"):
        names_of([tmp_path / "exp/a", tmp_path / "exp/b/../a"])


def test_an_incomplete_last_line_is_left_out(tmp_path):
    log = write_log(tmp_path, 3) / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 80, "lo')
    assert [line["step"] for line in read_log(log)] == [20, 40, 60]


@pytest.mark.parametrize(
    "text, complaint",
    [
        (None, "cannot be read"),
        ("", "no line is logged yet"),
        ("\x00\n", "line 1 is not from"),
        ('{"step": 20, "loss": 1}\n{"step": 40}\n', "line 2 is not from"),
    ],
)
def test_a_file_that_is_no_log_is_refused_and_nothing_is_written(tmp_path, text, complaint):
    if text is not None:
        (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(UserError, match=complaint):
        draw(tmp_path, tmp_path)
    assert not (tmp_path / "curves").exists()


@pytest.mark.parametrize("text", ["[]", '{"rows": []}', '{"runs": {"a": {"step": [1], "loss": []}}}', '{"runs": [1]}'])
def test_a_file_that_is_no_reference_is_refused(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(UserError, match="holds no learning curves"):
        draw(tmp_path, write_log(tmp_path / "exp/one"), more=["--reference", str(tmp_path / "other.json")])


def test_zero_points_are_refused(tmp_path):
    with pytest.raises(UserError, match="--points is 0; it must be at least 1"):
        draw(tmp_path, write_log(tmp_path / "exp/one"), more=["--points", "0"])
