"""The cache of a recipe: decide whether a command has to run, or whether its outputs are up to date.

    python utils/cache.py check --done exp/run/.done --stage 3 --title "train csc" --code CODE \\
        --reads PATH ... --outputs PATH ... -- local/train.py --config a.yaml --exp exp/run
    python utils/cache.py code          # commit and digest of the library, once for each call of a recipe
    python utils/cache.py seconds|commits --stage 8 FOLDER ...   # JSON of the stages before it whose markers lie there
    python utils/cache.py other-code --code CODE FOLDER ...   # stages that another version made, and how to redo them

A command has to run when its fingerprint differs from that in its marker, or when an output is missing. The fingerprint
covers

  * the words of the command, without those that change the speed alone: the launcher, --nj and --device;
  * the content of the YAML files among them, and of those that these are `like:`;
  * what the command reads: the files and folders among its words, and those of --reads. Outputs, and the folders that
    they lie in, do not count.

So a command runs again when something that it reads has changed, and only then: the commands before it do not count.
When a command starts, the markers of others that made the same outputs are removed. Paths in the project's root count
relative to it. A different version of the code does not change the fingerprint; the marker records the commit, and
`other-code` tells.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SPEED_ONLY = ("--nj", "--device")
LISTED_FILES = 20_000  # a folder of more entries is known by its upper folders alone
LISTED_LEVELS = 3  # VoxCeleb: dev/aac/id00012 are three levels
WHOLE = 256 * 2**20  # bytes; larger files are known by size and time
SET = "cuts.jsonl.gz"  # a folder that holds it is a set
DERIVED = ("table.npy", "table.shards.npy")  # made from the manifest by whoever opens the set
# Not read with its recordings.
BESIDE_A_SET = ("speakers.tsv", "several_speakers.tsv", "emotions.tsv", "rejected.tsv", "pairs.tsv", "trials")


def without_speed(words: list[str]) -> list[str]:
    """The script and its options, without the launcher and the options that change nothing but the speed."""
    script = next((i for i, word in enumerate(words) if word.endswith(".py")), 0)
    kept, skip = [], False
    for word in words[script:]:
        if not skip and word not in SPEED_ONLY:
            kept.append(word)
        skip = word in SPEED_ONLY
    return kept


def relative(word: str) -> str:
    """A path in the project's root, or a list of them, relative to it and without detours; any other word as it is."""
    if word.startswith("["):
        return re.sub(r'"([^"]+)"', lambda found: f'"{relative(found[1])}"', word)
    if "/" not in word or word.startswith("-"):
        return word
    path = os.path.normpath(word)
    above = next((str(folder) for folder in Path(path).parents if path.startswith("/") and is_root(folder)), None)
    return os.path.relpath(path, above) if above else path


@cache
def is_root(folder: Path) -> bool:
    """Whether this is the project's root, perhaps by way of a link."""
    try:
        return os.path.samefile(folder, ROOT)
    except OSError:
        return False


def is_input(word: str, outputs: list[str]) -> bool:
    """Whether a word names something that is read: it exists, and neither is, holds nor lies in an output."""
    if "/" not in word or not os.path.exists(word):
        return False
    path = os.path.abspath(word)
    return not any(
        f"{path}/".startswith(f"{output}/") or f"{output}/".startswith(f"{path}/")
        for output in map(os.path.abspath, outputs)
    )


def state_of(path: str) -> list[str]:
    """Lines that change when a file, a set or a folder changes.

    A file counts by its content, together with the ark that an scp points into. A set counts by its manifests, its
    journal of preparation, and size and time of the recordings in it; labels and trial lists beside them do not count.
    Any other folder counts by path, size and time of the files in it.
    """
    if not os.path.isdir(path):
        files = [path, *([f"{path[:-4]}.ark"] if path.endswith(".scp") else [])]
        return [content(file) for file in files if os.path.exists(file)]
    if any(os.path.exists(os.path.join(path, name)) for name in (SET, "shards")):
        texts = sorted(Path(path).glob("*.gz")) + sorted(Path(path).glob("*.jsonl"))
        return [
            *map(content, map(str, texts)),
            *listing(path, (*DERIVED, *BESIDE_A_SET, *(text.name for text in texts))),
        ]
    return listing(path, DERIVED)


def content(path: str) -> str:
    """A digest of a file; of a huge one its size and time. What cannot be read is for the command to report."""
    status = os.stat(path)
    if status.st_size > WHOLE or not os.access(path, os.R_OK):
        return f"{status.st_size} {status.st_mtime_ns}"
    with open(path, "rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else hashlib.sha256(file.read()).hexdigest()
        )


def entries(
    folder: str, left_out: tuple[str, ...] = (), above: tuple[tuple[int, int], ...] = ()
) -> Iterator[os.DirEntry]:
    """Everything below `folder`, by name. Hidden files do not count, nor what cannot be read.

    Links are followed, as preparations do, but not back to one of the folders `above`.
    """
    try:
        status = os.stat(folder)
        with os.scandir(folder) as found:
            below = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return
    this = (status.st_dev, status.st_ino)
    if this in above:
        return
    for entry in below:
        if entry.name.startswith(".") or entry.name in left_out:
            continue
        yield entry
        if is_folder(entry):
            yield from entries(entry.path, left_out, (*above, this))


def is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def listing(folder: str, left_out: tuple[str, ...] = ()) -> list[str]:
    """Path, size and time of change of every file; of a huge tree of the folders in the upper levels only."""
    lines = []
    for count, entry in enumerate(entries(folder, left_out)):
        if count >= LISTED_FILES:
            return upper_folders(folder, left_out)
        if is_folder(entry):
            continue
        try:
            status = entry.stat()
        except OSError:  # a link to nothing, or removed meanwhile
            continue
        lines.append(f"{os.path.relpath(entry.path, folder)} {status.st_size} {status.st_mtime_ns}")
    return lines


def upper_folders(folder: str, left_out: tuple[str, ...] = (), level: int = 0, name: str = ".") -> list[str]:
    """Path and time of change of the folders in the upper levels.

    Of a set the time of its manifests: whoever opens it writes a table into its folder.
    """
    manifests = [path for path in (os.path.join(folder, part) for part in (SET, "shards")) if os.path.exists(path)]
    try:
        lines = [f"{name} {os.stat(path).st_mtime_ns}" for path in manifests or [folder]]
        with os.scandir(folder) as found:
            below = sorted(entry.name for entry in found if level < LISTED_LEVELS and is_folder(entry))
    except OSError:
        return []
    for one in below:
        if not one.startswith(".") and one not in left_out:
            lines += upper_folders(os.path.join(folder, one), left_out, level + 1, f"{name}/{one}")
    return lines


def texts(config: Path, most: int = 10) -> list[bytes]:
    """The content of a YAML file, and of those that it is `like:`; none where there is no file."""
    if not config.is_file() or not most:
        return []
    text = config.read_bytes()
    base = re.search(rb"""^like: *(?:"(.+?)"|'(.+?)'|([^\s#]+))""", text, re.MULTILINE)
    return [text, *(texts(config.parent / os.fsdecode(base[base.lastindex]), most - 1) if base else [])]


def fingerprint(words: list[str], reads: list[str], outputs: list[str]) -> str:
    digest = hashlib.sha256()
    words = without_speed(words)
    configs = [word for word in words if word.endswith((".yaml", ".yml"))]
    found = dict.fromkeys(word for word in words[1:] if word not in configs and is_input(word, outputs))
    lines = [line for path in [*found, *sorted(reads)] for line in [relative(path), *state_of(path)]]
    for piece in [*map(relative, words), *lines]:
        digest.update(piece.encode(errors="surrogateescape") + b"\0")
    for text in (text for word in configs for text in texts(Path(word))):
        digest.update(text + b"\0")
    return digest.hexdigest()[:16]


def marker_of(done: str, stage: str, words: list[str], outputs: list[str]) -> Path:
    """Where a command leaves its marker: by the script and what it makes or, where it makes nothing, by its words."""
    words = without_speed(words)
    name = [words[0], *map(relative, outputs)] if outputs else list(map(relative, words))
    digest = hashlib.sha256("\0".join(name).encode(errors="surrogateescape")).hexdigest()[:12]
    return Path(done) / f"{stage}.{digest}.json"


def read_marker(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_marker(path: Path, values: dict[str, Any]) -> None:
    temporary = path.with_suffix(".writing")
    temporary.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def code() -> str:
    """The commit of the code and a digest of cslib/, with a colon between them."""
    sys.path.insert(0, str(ROOT))
    from cslib.provenance import commit

    digest = hashlib.sha256()
    for path in sorted((ROOT / "cslib").rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{commit()}:{digest.hexdigest()[:16]}"


def code_of(script: str, library: str) -> str:
    """The code that a command runs: a digest of the library and of the script."""
    found = Path(script).read_bytes() if os.path.exists(script) else b""
    return hashlib.sha256(library.partition(":")[2].encode() + found).hexdigest()[:16]


def makers_of(outputs: list[str], marker: Path) -> dict[Path, dict[str, Any]]:
    """The other markers of commands that made one of these outputs, or something in it."""
    mine = [relative(output) for output in outputs]
    others = {path: read_marker(path) for path in sorted(marker.parent.glob("*.json")) if path != marker}
    return {
        path: other
        for path, other in others.items()
        if any(f"{made}/".startswith(f"{output}/") for made in other.get("outputs", []) for output in mine)
    }


def check(options: argparse.Namespace, words: list[str]) -> str:
    """`<state> <marker>`, where the state is one of

        done        nothing is to be done
        again       the same command goes on
        anew        another command, or other inputs; what is there was finished
        unfinished  the same, and what is there was not finished

    With --start the new marker is written beside the old one, as .new: it takes its place once outputs of another
    command are moved away. A command that is killed before that finds the old one.
    """
    words_known = without_speed(words)
    marker = marker_of(options.done, options.stage, words, options.outputs)
    old, now = read_marker(marker), fingerprint(words, options.reads, options.outputs)
    same = old.get("fingerprint") == now
    if same and old.get("state") == "done" and all(map(os.path.exists, options.outputs)):
        return f"done {marker}"
    others = makers_of(options.outputs, marker)
    states = [one.get("state") for one in (old, *others.values()) if one]
    if options.start:
        for other in others:
            other.unlink(missing_ok=True)
        write_marker(
            marker.with_suffix(".new"),
            {
                "state": "started",
                "fingerprint": now,
                "seconds": 0,
                "stage": options.stage,
                "title": options.title,
                "script": words_known[0],
                "outputs": [relative(output) for output in options.outputs],
                "commit": options.code.partition(":")[0],
                "code": code_of(words_known[0], options.code),
            },
        )
    return f"{'again' if same else 'unfinished' if states and 'done' not in states else 'anew'} {marker}"


def finish(marker: str, seconds: int) -> None:
    """Mark a command as done. Its fingerprint is of its inputs as they were when it started."""
    write_marker(Path(marker), read_marker(Path(marker)) | {"state": "done", "seconds": seconds})


def markers(folders: list[str], below: int = 0) -> list[dict[str, Any]]:
    """Of all commands that are done, in the order of the stages; only of stages before `below`, if that is not 0."""
    found = [read_marker(path) for folder in folders for path in sorted(Path(folder).glob("*.json"))]
    found = [one for one in found if one.get("state") == "done" and (not below or int(one["stage"]) < below)]
    return sorted(found, key=lambda one: int(one["stage"]))


def seconds(folders: list[str], below: int = 0) -> dict[str, int]:
    """{stage: seconds that its commands took, whenever they ran}"""
    found: dict[str, int] = {}
    for one in markers(folders, below):
        found[one["stage"]] = found.get(one["stage"], 0) + int(one["seconds"])
    return found


def commits(folders: list[str], below: int = 0) -> dict[str, str]:
    """{stage and title: the commits of the code that made it}"""
    found: dict[str, dict[str, None]] = {}
    for one in markers(folders, below):
        found.setdefault(f"{one['stage']} {one['title']}", {})[one["commit"]] = None
    return {part: ", ".join(names) for part, names in found.items()}


def other_code(library: str, folders: list[str]) -> list[str]:
    """A line for each stage that was made by other code than today's."""
    stages: dict[str, list[dict[str, Any]]] = {}
    for one in markers(folders):
        if one["code"] != code_of(str(ROOT / one["script"]), library) and one["outputs"]:
            stages.setdefault(f"stage {one['stage']} ({one['title']})", []).append(one)
    lines = []
    for stage, found in stages.items():
        names = ", ".join(dict.fromkeys(re.sub(r"^(\w{10})\w{30}", r"\1", one["commit"]) for one in found))
        outputs = list(dict.fromkeys(output for one in found for output in one["outputs"]))
        lines.append(
            f"{stage} was made by another version of the code (commit {names}) and is kept; to make it again delete "
            f"{' '.join(outputs[:3])}{f' and {len(outputs) - 3} more' if len(outputs) > 3 else ''}"
        )
    return lines


def main(argv: list[str]) -> None:
    split = argv.index("--") if "--" in argv else len(argv)
    words = argv[split + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["check", "finish", "code", "seconds", "commits", "other-code"])
    parser.add_argument("places", nargs="*", help="folders of markers; of finish the marker and the seconds")
    parser.add_argument("--done", default="", help="folder of the markers")
    parser.add_argument("--stage", default="0")
    parser.add_argument("--title", default="")
    parser.add_argument("--code", default="unknown:", help="what `code` printed")
    parser.add_argument("--start", action="store_true", help="mark the command as started when it has to run")
    parser.add_argument("--reads", nargs="*", default=[], help="what is read besides the paths among the words")
    parser.add_argument("--outputs", nargs="*", default=[], help="what is made")
    options = parser.parse_intermixed_args(argv[:split])
    if options.what == "check":
        print(check(options, words))
    elif options.what == "finish":
        finish(options.places[0], int(options.places[1]))
    elif options.what == "code":
        print(code())
    elif options.what == "other-code":
        print(*other_code(options.code, options.places), sep="\n", end="")
    else:
        print(
            json.dumps({"seconds": seconds, "commits": commits}[options.what](options.places, int(options.stage or 0)))
        )


if __name__ == "__main__":
    main(sys.argv[1:])
