"""path.sh in a copy of the project, with an interpreter that pretends to make environments and to install."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUB = f"""#!/usr/bin/env bash
case "$*" in
  *version_info*) echo "${{STUB_VERSION:-3.11}}" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip --version") ;;
  "-m pip install "*) echo install >>"$STUB_LOG" && sleep 0.3 && exit "${{STUB_PIP_STATUS:-0}}" ;;
  *ensurepip*) exit "${{STUB_ENSUREPIP_STATUS:-0}}" ;;
  *) exec {sys.executable} "$@" ;;
esac
"""


class Project:
    def __init__(self, folder: Path) -> None:
        self.root = folder / "the project"
        (self.root / "utils").mkdir(parents=True)
        shutil.copy(ROOT / "path.sh", self.root)
        shutil.copy(ROOT / "utils" / "missing_requirements.py", self.root / "utils")
        (self.root / "requirements.txt").write_text("pytest>=1   # is there\n")
        self.stub, self.log = folder / "stub", folder / "log"
        self.stub.write_text(STUB)
        self.stub.chmod(0o755)

    def start(self, **variables: str) -> subprocess.Popen:
        command = '. "$1" && command -v python && echo "$PYTHONPATH"'
        clean = {
            name: value
            for name, value in os.environ.items()
            if name not in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH")
        }
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command, "bash", self.root / "path.sh"],
            cwd="/",
            text=True,
            env={**clean, "CSLIB_PYTHON": str(self.stub), "STUB_LOG": str(self.log), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def source(self, **variables: str) -> tuple[int, list[str], str]:
        """(status, lines on stdout, stderr)"""
        process = self.start(**variables)
        out, error = process.communicate()
        return process.returncode, out.splitlines(), error

    @property
    def installations(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    @property
    def outcome(self) -> list[str]:
        """What is printed once the environment is there: the interpreter, and the path to import from."""
        return [f"{self.root}/.venv/bin/python", str(self.root)]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def environment(project: Project, folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    shutil.copy(project.stub, folder / "bin" / "python")
    return folder


def test_venv_is_made_once(project: Project) -> None:
    status, printed, _ = project.source()
    assert status == 0
    assert re.fullmatch(r"creating .*\.venv with .* about 2 minutes, 5 GB on disk", printed[0])
    assert printed[2:] == project.outcome
    assert project.source() == (0, project.outcome, "")
    assert project.installations == 1


def test_changed_requirements_are_installed_into_the_same_venv(project: Project) -> None:
    project.source()
    (project.root / ".venv" / "kept").write_text("")
    (project.root / "requirements.txt").write_text("pytest>=2\n")
    assert project.source()[0] == 0
    assert (project.installations, (project.root / ".venv" / "kept").exists()) == (2, True)
    project.source()
    assert project.installations == 2


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_interrupted_installation_is_made_anew(project: Project, signal: str) -> None:
    project.stub.write_text(STUB.replace("sleep 0.3", f"kill -{signal} $PPID"))
    project.source()
    (project.root / ".venv" / "half").write_text("")
    project.stub.write_text(STUB)
    assert project.source()[0] == 0
    assert not (project.root / ".venv" / "half").exists()
    assert project.source() == (0, project.outcome, "")


def test_failed_installation_ends_with_a_sentence_and_is_repaired(project: Project) -> None:
    status, _, error = project.source(STUB_PIP_STATUS="1")
    assert (status, error.splitlines()) == (
        1,
        [
            "error: pip could not install requirements.txt (see its message above): check the network and the "
            "free disk, then run the same command again"
        ],
    )
    assert project.source()[0] == 0


def test_two_at_once_install_once(project: Project) -> None:
    both = [project.start(), project.start()]
    assert [process.communicate()[0].splitlines()[-2:] for process in both] == [project.outcome] * 2
    assert project.installations == 1


@pytest.mark.parametrize(
    "variables, sentence",
    [
        ({"STUB_VERSION": "3.9"}, "is Python 3.9; 3.10 to 3.13 is required: install one or name one"),
        ({"CSLIB_PYTHON": "no-such-python"}, "'no-such-python' does not run as Python"),
        ({"STUB_ENSUREPIP_STATUS": "1"}, "cannot make virtual environments: install its venv package"),
    ],
)
def test_unfit_interpreter_ends_with_one_sentence(project: Project, variables: dict, sentence: str) -> None:
    status, printed, error = project.source(**variables)
    assert (status, printed, error.count("\n")) == (1, [], 1)
    assert error.startswith("error: ") and sentence in error
    assert not (project.root / ".venv").exists()


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_active_environment_is_used_and_left_alone(project: Project, tmp_path: Path, variable: str) -> None:
    active = environment(project, tmp_path / "active")
    assert project.source(**{variable: str(active)}) == (0, [f"{active}/bin/python", str(project.root)], "")
    assert (project.installations, (project.root / ".venv").exists()) == (0, False)


def test_active_environment_that_lacks_packages_says_which_and_how_to_install(project: Project, tmp_path: Path) -> None:
    (project.root / "requirements.txt").write_text("pytest>=999\nno-such-package==2.11.*\npyyaml>=1\n")
    active = environment(project, tmp_path / "active")
    status, _, error = project.source(VIRTUAL_ENV=str(active))
    assert (status, error.count("\n")) == (1, 1)
    assert f"lacks pytest>=999, no-such-package==2.11.*: run '{active}/bin/python -m pip install -r" in error


def test_deleted_environment_that_is_still_named_is_passed_over(project: Project, tmp_path: Path) -> None:
    assert project.source(VIRTUAL_ENV=str(tmp_path / "deleted"))[1][-2:] == project.outcome


def also(project: Project, **variables: str) -> subprocess.CompletedProcess:
    """`. path.sh`, then what a recipe needs besides."""
    (project.root / "more.txt").write_text("no-such-package==1.0\n")
    clean = {
        name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH")
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", ". ./path.sh; cslib_also_needs more.txt; echo went on"],
        cwd=project.root,
        text=True,
        env={**clean, "CSLIB_PYTHON": str(project.stub), "STUB_LOG": str(project.log), **variables},
        capture_output=True,
    )


def test_what_a_recipe_needs_besides_is_installed_or_told(project: Project, tmp_path: Path) -> None:
    project.source()
    done = also(project)
    assert (done.returncode, project.installations, done.stderr) == (0, 2, "")
    assert done.stdout == "installing no-such-package==1.0\nwent on\n"
    done = also(project, STUB_PIP_STATUS="1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "went on" not in done.stdout
    assert "no-such-package==1.0 could not be installed" in done.stderr and "a C compiler" in done.stderr
    done = also(project, VIRTUAL_ENV=str(environment(project, tmp_path / "active")))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "/active lacks no-such-package==1.0: run '" in done.stderr
