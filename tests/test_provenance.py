"""The commit of the code that made a result."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cslib.provenance

PROGRAM = "from cslib.provenance import commit; print(commit())"


def git(folder, *arguments):
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit_seen_from(folder):
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the module alone, outside any repository."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    (tmp_path / "code/cslib").mkdir(parents=True)
    shutil.copy(Path(cslib.provenance.__file__), tmp_path / "code/cslib")
    (tmp_path / "code/cslib/__init__.py").touch()
    return tmp_path / "code"


def test_commit_is_the_hash_and_says_when_a_tracked_file_has_changed(copy):
    git(copy, "init", "-q")
    git(copy, "add", ".")
    git(copy, "commit", "-q", "-m", "all")
    git(copy, "tag", "v1")
    head = git(copy, "rev-parse", "HEAD")
    assert len(head) == 40 and commit_seen_from(copy) == head
    (copy / "notes.txt").write_text("not tracked")
    assert commit_seen_from(copy) == head
    (copy / "cslib/__init__.py").write_text("changed = True\n")
    assert commit_seen_from(copy) == f"{head}-dirty"


def test_commit_is_unknown_without_a_repository(copy):
    assert commit_seen_from(copy) == "unknown"


def test_commit_of_somebody_elses_repository_is_not_taken(copy):
    git(copy, "init", "-q")
    (copy / "README").write_text("another project")
    git(copy, "add", "README")
    git(copy, "commit", "-q", "-m", "another project")
    assert commit_seen_from(copy) == "unknown"


def test_commit_is_unknown_where_git_is_not_installed(copy, monkeypatch):
    monkeypatch.setenv("PATH", str(copy))
    assert commit_seen_from(copy) == "unknown"
