"""What every recipe does with a mistake of its user's."""

import subprocess
from pathlib import Path


def assert_refused(done: subprocess.CompletedProcess, sentence: str, folder: Path) -> None:
    """It ended with one plain sentence, and nothing was printed, nor made in the folder."""
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith("error: ") and sentence in done.stderr
    assert list(folder.iterdir()) == []
