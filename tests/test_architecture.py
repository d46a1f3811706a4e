"""Arrows point one way, and the tree can be unpacked anywhere."""

import ast
import re
import subprocess
from dataclasses import is_dataclass
from pathlib import Path

import pytest

from cslib.config import UserError, find, known_names

ROOT = Path(__file__).parents[1]
MADE = (".git", ".venv", "data", "exp", "__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis")


def tree():
    """The project's files: those git tracks or would, or everything where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = list(ROOT.rglob("*"))
    # data/ is left out at the root alone: cslib/data and tests/data are the project's.
    return [
        path
        for path in paths
        if path.is_symlink() or path.is_file()
        if path.relative_to(ROOT).parts[0] not in MADE and "__pycache__" not in path.parts
    ]


def imports(path):
    """Dotted names of all that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


# From the top down: a module imports what stands below it, and its neighbours in the same package.
FLOORS = [
    ["egs"],
    ["local", "utils"],
    ["cslib.__main__"],
    ["cslib.commands"],
    ["cslib.training"],
    ["cslib.objectives"],
    ["cslib.inference"],
    ["cslib.evaluation"],
    ["cslib.feature_spaces"],
    ["cslib.datasets"],
    ["cslib.checkpoints"],
    ["cslib.models"],
    ["cslib.corpora"],
    ["cslib.data"],
    ["cslib.clustering", "cslib.devices"],
    ["cslib.density_clustering"],
    ["cslib.files", "cslib.parallel", "cslib.provenance"],
    ["cslib.config", "cslib"],
]


def floor_of(module):
    """(height, room) of a module; the lowest floor is 0."""
    rooms = ((len(FLOORS) - number, room) for number, floor in enumerate(FLOORS) for room in floor)
    return max(
        ((height, room) for height, room in rooms if module == room or module.startswith(f"{room}.")),
        key=lambda found: len(found[1]),
    )


def module_name(path, root):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(root, folders=("cslib", "local", "utils")):
    """{module: the project's modules that it imports itself}"""
    paths = {module_name(path, root): path for folder in folders for path in sorted((root / folder).rglob("*.py"))}
    graph = {}
    for module, path in paths.items():
        graph[module] = set()
        for name in imports(path):
            while name and name not in paths:  # a class of a module
                name = name.rpartition(".")[0]
            if name and name != module:
                graph[module].add(name)
    return graph


def chains(graph, start):
    """{module: the shortest chain of imports that leads there from `start`}"""
    found, fresh = {start: [start]}, [start]
    while fresh:
        module = fresh.pop(0)
        for imported in sorted(graph.get(module, ())):
            if imported not in found:
                found[imported] = [*found[module], imported]
                fresh.append(imported)
    return found


def upward(graph):
    """Every chain of imports that ends above where it begins, or in another room of its own floor."""
    found = []
    for module in graph:
        height, room = floor_of(module)
        for target, chain in chains(graph, module).items():
            other, other_room = floor_of(target)
            if other > height or (other == height and other_room != room):
                found.append(" -> ".join(chain))
    return found


def test_no_chain_of_imports_runs_up():
    assert upward(import_graph(ROOT)) == []


def test_the_graph_is_seen_whole():
    graph = import_graph(ROOT)
    assert len(graph) > 120 and "cslib.training.loop" in graph["local.train"]
    assert "cslib.data.manifests" in chains(graph, "local.train")


def test_an_upward_import_through_a_third_module_is_found(tmp_path):
    files = {
        "cslib/objectives/ccr/objective.py": "from cslib.helpers.streaming import load",
        "cslib/helpers/streaming.py": "def load():\n    from cslib.training import checkpoint",
        "cslib/training/checkpoint.py": "",
        "cslib/training/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = upward(import_graph(tmp_path, ["cslib"]))
    assert "cslib.objectives.ccr.objective -> cslib.helpers.streaming -> cslib.training.checkpoint" in found


def test_no_script_imports_another_script():
    scripts = {module: imported for module, imported in import_graph(ROOT).items() if module.startswith("local.")}
    assert scripts
    assert {
        module: {name for name in imported if name.startswith("local.")}
        for module, imported in scripts.items()
        if any(name.startswith("local.") for name in imported)
    } == {}


def test_nothing_imports_the_tests():
    assert [
        path
        for folder in ("cslib", "local", "utils")
        for path in (ROOT / folder).rglob("*.py")
        if any(name.split(".")[0] in ("tests", "egs") for name in imports(path))
    ] == []


def test_every_network_objective_and_feature_space_can_be_found_by_its_name():
    assert set(known_names("models")) == {"crn", "ecapa", "galr", "mask_gru", "res2net", "resnet", "tf_conformer"}
    assert set(known_names("objectives")) == {"ccr", "csc", "dino", "dino_csc", "margin", "moco", "simclr", "vicreg"}
    assert set(known_names("feature_spaces")) == {"encoder", "logmel", "torchaudio"}
    for package in ("models", "objectives"):
        for name in known_names(package):
            assert is_dataclass(find(package, name).Config)


@pytest.mark.parametrize(
    "package, name",
    [
        ("objectives", "angular"),
        ("objectives", "base"),
        ("models", "pooling"),
        ("models", "base"),
        ("models", "layers"),
        ("objectives", "../models"),
    ],
)
def test_a_helper_module_is_no_network_and_no_objective(package, name):
    with pytest.raises(UserError, match="is not one of"):
        find(package, name)


def test_the_library_names_no_recipe_and_no_stage():
    named = re.compile(r"egs/|run\.sh|\bstage \d|local/prepare_\w+|data/(mini|voxceleb|folder)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "cslib").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if named.search(line)
    ]
    assert found == []


def test_there_are_no_symbolic_links():
    assert [path for path in tree() if path.is_symlink()] == []


def test_no_file_names_a_place_on_somebodys_machine():
    # In pieces, so that this file does not hold what it looks for.
    places = "|".join(f"/{name}/" for name in ("work", "home/[a-z]", "Users", "mnt/[a-z]", "tmp/pytest"))
    found = []
    for path in tree():
        text = path.read_bytes().decode("utf-8", "replace")
        found += [
            f"{path.relative_to(ROOT)}: {match[0]}" for match in re.finditer(rf"(?<![\w.}}-])(?:{places})\S*", text)
        ]
    assert found == []


def test_the_tree_is_seen_whole():
    names = {str(path.relative_to(ROOT)) for path in tree()}
    assert {
        "cslib/config.py",
        "cslib/data/utterances.py",
        "local/train.py",
        "path.sh",
        "tests/test_architecture.py",
    } <= names
