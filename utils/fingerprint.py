"""Print the fingerprint of a command of a recipe: it changes when the command would make something else.

    python utils/fingerprint.py --after FINGERPRINT --reads FOLDER ... -- local/train.py --config a.yaml ...

It covers the command's words, the contents of the YAML files among them and of those that these are `like:`, the
fingerprint of the command before and a listing of the folders that the user's own data lie in. What changes only the
speed is left out: the launcher before the script, --nj and --device.
"""

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SPEED_ONLY = ("--nj", "--device")
LISTED_FILES = 20_000  # a folder of more entries is known by its upper folders alone
LISTED_LEVELS = 3  # VoxCeleb: dev/aac/id00012 are three levels


def without_speed(words: list[str]) -> list[str]:
    """The script and its options, without the launcher and the options that change nothing but the speed."""
    script = next((i for i, word in enumerate(words) if word.endswith(".py")), 0)
    kept, skip = [], False
    for word in words[script:]:
        if not skip and word not in SPEED_ONLY:
            kept.append(word)
        skip = word in SPEED_ONLY
    return kept


def entries(folder: str) -> Iterator[os.DirEntry]:
    """Everything below `folder`, by name; links are entries and are not followed."""
    with os.scandir(folder) as found:
        below = sorted(found, key=lambda entry: entry.name)
    for entry in below:
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from entries(entry.path)


def listing(folder: str) -> list[str]:
    """Path, size and time of change of every file; of a huge tree of the folders in the upper levels only.

    folder  or a single file
    """
    if not os.path.isdir(folder):
        status = os.stat(folder)
        return [f"{folder} {status.st_size} {status.st_mtime_ns}"]
    lines = []
    for entry in entries(folder):
        status = entry.stat(follow_symlinks=False)
        lines.append(f"{entry.path} {status.st_size} {status.st_mtime_ns}")
        if len(lines) > LISTED_FILES:
            return upper_folders(folder)
    return lines


def upper_folders(folder: str, level: int = 1) -> list[str]:
    found = [f"{folder} {os.stat(folder).st_mtime_ns}"]
    if level <= LISTED_LEVELS:
        with os.scandir(folder) as listing:
            below = sorted(entry.path for entry in listing if entry.is_dir())
        for path in below:
            found += upper_folders(path, level + 1)
    return found


def texts(config: Path, most: int = 10) -> list[bytes]:
    """The content of a YAML file, and of those that it is `like:`; none where there is no file."""
    if not config.is_file() or not most:
        return []
    text = config.read_bytes()
    base = re.search(rb"""^like: *(?:"(.+?)"|'(.+?)'|([^\s#]+))""", text, re.MULTILINE)
    return [text, *(texts(config.parent / os.fsdecode(base[base.lastindex]), most - 1) if base else [])]


def fingerprint(words: list[str], after: str, reads: list[str]) -> str:
    digest = hashlib.sha256()
    for piece in [after, *without_speed(words), *(line for folder in reads for line in listing(folder))]:
        digest.update(piece.encode(errors="surrogateescape") + b"\0")
    for word in words:
        for text in texts(Path(word)) if word.endswith((".yaml", ".yml")) else []:
            digest.update(text + b"\0")
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--after", default="", help="fingerprint of the command before")
    parser.add_argument("--reads", nargs="*", default=[], help="folders with the user's data")
    split = sys.argv.index("--")
    options = parser.parse_args(sys.argv[1:split])
    print(fingerprint(sys.argv[split + 1 :], options.after, options.reads))
