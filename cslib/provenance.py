"""Which code made a result."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str:
    """The git commit of this code, 40 hexadecimal digits, with "-dirty" behind it if a tracked file has changed since.

    "unknown" where there is no git, and for a copy of the code that is no checkout of its own repository.
    """
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # not a copy inside somebody else's repository
        return _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
