"""The documents lead to what exists: links, anchors, paths and options."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(ROOT.glob("egs/*/README.md")),
    *sorted(ROOT.glob("results/*.md")),
    ROOT / "models/README.md",
]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
LINES_OF_README = 150

FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# A path of the tree, from the root or, in a recipe's page, from the recipe (conf/...).
PATH = re.compile(r"(?<![\w./$<>-])(?:cslib|local|utils|egs|tests|results|conf)/[\w./*<>{},-]*")
# A script of a recipe, and its arguments up to the end of the command.
COMMAND = re.compile(r"(?:bash )?(egs/\w+/\w+\.sh)((?:[^\n#`;|\\]|\\\n)*)")
OPTION = re.compile(r"(?<!\S)--([a-z][\w-]*)")


@cache
def text_of(document):
    return document.read_text(encoding="utf-8")


def anchor(heading):
    """The anchor of a heading as GitHub writes it: lower case, no punctuation, hyphens for spaces."""
    heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)  # the text of a link
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def anchors(document):
    found = []
    for heading in re.findall(r"^#+ +(.+)$", FENCE.sub("", text_of(document)), re.MULTILINE):
        name = anchor(heading)
        times = found.count(name)
        found.append(f"{name}-{times}" if times else name)
    return found


def broken_links(document):
    """Relative links to a file or an anchor that does not exist."""
    broken = []
    for link in LINK.findall(FENCE.sub("", text_of(document))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, wanted = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or (wanted and wanted not in anchors(target)):
            broken.append(link)
    return broken


def alternatives(path):
    """a/{b,c} -> a/b, a/c, as the shell has it."""
    match = re.search(r"\{([^{}]*)\}", path)
    if not match:
        return [path]
    return [
        whole
        for part in match[1].split(",")
        for whole in alternatives(path[: match.start()] + part + path[match.end() :])
    ]


def missing_paths(document):
    """Paths of the tree that are named and do not exist. <name> stands for any name, and so does *.

    The argument of --out may not exist yet.
    """
    missing = []
    for named in PATH.findall(re.sub(r"--out \S+", "", text_of(document))):
        for path in alternatives(named.rstrip(".,")):
            pattern = re.sub(r"<[^>]*>", "*", path).rstrip("/")
            folders = [ROOT, document.parent, *ROOT.glob("egs/*")] if pattern.startswith("conf") else [ROOT]
            if not any(any(folder.glob(pattern)) for folder in folders):
                missing.append(path)
    return missing


@cache
def options_of(script):
    """Options of a script that takes them with utils/parse_options.sh: the assignments above the call."""
    head = text_of(script).split("\nparse_options ")[0]
    names = re.findall(r"^([a-z][a-z0-9_]*)=(?:[^#\n]* )?#", head, re.MULTILINE)
    return {"help", *(name.replace("_", "-") for name in names)}


def unknown_options(document):
    """Options of a recipe's script that are shown and that the script does not have."""
    unknown = []
    for name, arguments in COMMAND.findall(text_of(document)):
        script = ROOT / name
        if script.exists():
            unknown += [
                f"{name} --{option}" for option in OPTION.findall(arguments) if option not in options_of(script)
            ]
    return unknown


def test_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= LINES_OF_README


def test_readme_names_every_package_of_the_library():
    packages = {path.parent.name for path in (ROOT / "cslib").glob("*/__init__.py")}
    layout = text_of(ROOT / "README.md").partition("## Where things are")[2].partition("\n## ")[0]
    named = set(re.findall(r"(?<!\S)(\w+)/ ", layout)) - {"local", "cslib", "results", "utils", "tests"}
    assert packages and packages == named


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_and_a_heading(name):
    assert broken_links(ROOT / name) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])  # which names former paths
def test_every_path_exists(name):
    assert missing_paths(ROOT / name) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_a_recipe_exists(name):
    assert unknown_options(ROOT / name) == []


def test_a_wrong_link_path_and_option_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n[a](none.md) [b](page.md#a-page) [c](#nowhere) [d](https://example.org)\n"
        "`cslib/{config,none}.py` `cslib/models/<name>.py` `local/none_*.py` `data/mini`\n"
        "```\nbash egs/voxceleb/run.sh --seed 1 \\\n  --colour red  # --not-read\n```\n"
    )
    assert broken_links(page) == ["none.md", "#nowhere"]
    assert missing_paths(page) == ["cslib/none.py", "local/none_*.py"]
    assert unknown_options(page) == ["egs/voxceleb/run.sh --colour"]


def test_headings_become_anchors():
    assert anchor("Speaker verification, without labels: [CSC](a.md) & `dino_csc`") == (
        "speaker-verification-without-labels-csc--dino_csc"
    )
