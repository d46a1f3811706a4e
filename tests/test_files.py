"""Files are complete or absent, whatever happens while they are written."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from cslib.config import UserError
from cslib.files import progress, read_json, write_json, write_lines, writing
from tests.tiny_run import ENVIRONMENT


@pytest.fixture
def old(tmp_path):
    (tmp_path / "file.txt").write_text("old\n")
    return tmp_path / "file.txt"


def only_the_old(path):
    return [p.name for p in path.parent.iterdir()] == [path.name] and path.read_text() == "old\n"


def test_new_file_takes_its_place_when_the_body_ends(old):
    with writing(old) as temporary:
        temporary.write_text("new\n")
        assert old.read_text() == "old\n" and temporary.parent == old.parent
    assert old.read_text() == "new\n" and [p.name for p in old.parent.iterdir()] == ["file.txt"]


def test_ending_of_the_temporary_name_is_that_of_the_file(tmp_path):
    with writing(tmp_path / "a.jsonl.gz") as temporary:
        assert temporary.name.endswith(".jsonl.gz") and temporary.name.startswith(".")
        temporary.touch()


def test_temporary_names_differ_between_machines_and_within_a_process(old, monkeypatch):
    """On a shared disk, processes of two machines may have the same number."""
    monkeypatch.setattr("os.getpid", lambda: 7)
    with writing(old) as one, writing(old) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    monkeypatch.setattr("socket.gethostname", lambda: "node-12.example.org")
    with writing(old) as temporary:
        assert temporary.name.startswith(".writing-node12-7-")
        temporary.touch()
    assert [path.name for path in old.parent.iterdir()] == [old.name]


def test_longest_file_name_can_be_written(tmp_path):
    name = "ä" * 100 + "x" * 51 + ".txt"  # 255 bytes, what file systems allow
    assert write_lines(tmp_path / name, ["x"]) == 1


def test_parent_folders_are_made(tmp_path):
    assert write_lines(tmp_path / "a/b/c.txt", ["x"]) == 1 and (tmp_path / "a/b/c.txt").read_text() == "x\n"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UserError])
def test_failing_body_leaves_the_old_file(old, error):
    with pytest.raises(error), writing(old) as temporary:
        temporary.write_text("half")
        raise error("of the body")
    assert only_the_old(old)


def test_failing_source_of_lines_leaves_the_old_file(old):
    def lines():
        yield "first"
        raise UserError("the source ends early")

    with pytest.raises(UserError, match="the source ends early"):
        write_lines(old, lines())
    assert only_the_old(old)


def test_full_disk_leaves_the_old_file_and_is_one_sentence(old):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # fails like a full disk: in a write
    try:
        with pytest.raises(UserError, match="file.txt: could not be written .*make room"):
            write_lines(old, ["x" * 1000] * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert only_the_old(old)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_disk_that_fills_at_the_very_end_leaves_the_old_file(old, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"\(No space left on device\)"):
        patch.setattr(f"os.{call}", full)
        write_lines(old, ["new"])
    assert only_the_old(old)


def test_folder_that_cannot_be_made_is_one_sentence(old):
    with pytest.raises(UserError, match="could not be written"):
        write_lines(old / "below.txt", ["x"])
    assert only_the_old(old)


def test_missing_input_of_the_body_is_not_blamed_on_the_output(old):
    with pytest.raises(FileNotFoundError), writing(old):
        old.with_name("input").read_text()
    assert only_the_old(old)


def test_kill_in_the_middle_leaves_the_old_file(old):
    code = (
        "import sys, time\nfrom cslib.files import writing\n"
        "with writing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n    print('written', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(old)], env=ENVIRONMENT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert old.read_text() == "old\n"
    left_over = [path.name for path in old.parent.iterdir() if path != old]
    assert len(left_over) == 1 and left_over[0].startswith(".writing-")
    assert write_lines(old, ["new"]) == 1 and old.read_text() == "new\n"


@pytest.mark.parametrize("count", [0, 1, 5])
def test_write_lines_counts(tmp_path, count):
    assert write_lines(tmp_path / "x", (f"zeile {n} ä" for n in range(count))) == count
    assert (tmp_path / "x").read_text(encoding="utf-8").splitlines() == [f"zeile {n} ä" for n in range(count)]


def test_json_reads_back_and_bad_json_is_one_sentence(tmp_path):
    values = {"a": [1, 2.5, None], "ä": "ö"}
    write_json(tmp_path / "a.json", values)
    assert read_json(tmp_path / "a.json") == values == json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(UserError, match="b.json: not valid JSON"):
        read_json(tmp_path / "b.json")
    with pytest.raises(UserError, match="c.json: there is no such file"):
        read_json(tmp_path / "c.json")


def test_progress_is_silent_for_short_work_without_a_terminal(capsys):
    assert list(progress(range(2000), "counting")) == list(range(2000))
    assert capsys.readouterr().err == ""


def test_progress_without_a_terminal_is_whole_lines_half_a_minute_apart(capsys, monkeypatch):
    now = [time.time()]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    bar = progress((), "counting", total=200)
    bar._time = lambda: now[0]
    for _ in range(200):
        now[0] += 1.0
        bar.update()
    bar.close()
    lines = capsys.readouterr().err.split("\n")
    assert 4 <= len(lines) <= 8 and lines[-1] == ""
    assert all(line.startswith("counting:") and "\r" not in line for line in lines[:-1])
