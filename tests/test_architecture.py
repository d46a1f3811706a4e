"""Arrows point one way, and the tree can be unpacked anywhere."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MADE = (".git", ".venv", "data", "exp", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis")


def tree():
    """The project's files: those git tracks or would, or everything where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = list(ROOT.rglob("*"))
    # data/ is left out at the root alone: cslib/data and tests/data are the project's.
    return [path for path in paths if path.is_symlink() or path.is_file()
            if path.relative_to(ROOT).parts[0] not in MADE and "__pycache__" not in path.parts]


def imports(path):
    """Dotted names of all that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def offenders(folder, forbidden):
    names = "|".join(re.escape(name) for name in forbidden)
    return [f"{path.relative_to(ROOT)}: {name}" for path in sorted((ROOT / folder).rglob("*.py"))
            for name in imports(path) if re.match(rf"({names})(\.|$)", name)]


@pytest.mark.parametrize("folder, forbidden", [
    ("cslib", ["local", "egs", "utils", "tests"]),
    ("cslib/models", ["cslib.objectives", "cslib.training"]),
    ("cslib/objectives", ["cslib.training"]),
    ("cslib/data", ["cslib.models", "cslib.objectives", "cslib.training"]),
    ("local", ["egs", "tests"]),
])
def test_imports_point_one_way(folder, forbidden):
    assert offenders(folder, forbidden) == []


def test_the_search_for_imports_finds_them(tmp_path):
    (tmp_path / "a.py").write_text("import cslib.training\ndef f():\n    from cslib import models\n")
    assert list(imports(tmp_path / "a.py")) == ["cslib.training", "cslib.models"]
    assert any("cslib.objectives" in name for name in imports(ROOT / "local/train.py"))
    assert offenders("local", ["cslib.training"])


def test_every_network_and_every_objective_can_be_found_by_its_name():
    for package in ("models", "objectives"):
        for path in (ROOT / "cslib" / package).glob("[!_]*.py"):
            defined = {node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")}
            assert {"Config", "build"} <= defined or "Config" not in defined and "build" not in defined, path


def test_there_are_no_symbolic_links():
    assert [path for path in tree() if path.is_symlink()] == []


def test_no_file_names_a_place_on_somebodys_machine():
    # In pieces, so that this file does not hold what it looks for.
    places = "|".join(f"/{name}/" for name in ("work", "home/[a-z]", "Users", "mnt/[a-z]", "tmp/pytest"))
    found = []
    for path in tree():
        text = path.read_bytes().decode("utf-8", "replace")
        found += [f"{path.relative_to(ROOT)}: {match[0]}"
                  for match in re.finditer(rf"(?<![\w.}}-])(?:{places})\S*", text)]
    assert found == []


def test_the_tree_is_seen_whole():
    names = {str(path.relative_to(ROOT)) for path in tree()}
    assert {"cslib/config.py", "cslib/data/utterances.py", "local/train.py", "path.sh",
            "tests/test_architecture.py"} <= names
