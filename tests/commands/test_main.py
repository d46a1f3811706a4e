"""python -m cslib: which commands there are, and what a slip ends with."""

import re
import subprocess
import sys

import pytest

from cslib import __main__ as program
from tests.tiny_run import ENVIRONMENT, ROOT

COMMANDS = ["embed", "enhance", "export", "info", "verify"]


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["cslib", *words])
    program.main()


def test_the_commands_are_listed_without_being_asked_for():
    done = subprocess.run([sys.executable, "-m", "cslib"], cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True)
    assert done.returncode == 0
    assert sorted(re.findall(r"^    python -m cslib (\w+)", done.stdout, re.M)) == COMMANDS
    assert sorted(re.findall(r"^(\w+) {2,}\S", done.stdout, re.M)) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_with_an_example(monkeypatch, capsys, command):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, command, "--help")
    text = capsys.readouterr().out
    assert end.value.code == 0 and text.startswith(f"usage: python -m cslib {command} ")
    # The example can be parsed: it names no option that there is not.
    example = re.search(rf"^    python -m cslib {command} (.*)", text, re.M)[1].split()
    options = __import__(f"cslib.commands.{command}", fromlist=["Options"]).Options
    program.run(lambda parsed: None, options, example)


@pytest.mark.parametrize(
    "words, told",
    [
        (["embd"], "there is no command 'embd'; the commands are embed, enhance, export, info, verify"),
        (["info"], "checkpoint"),
        (["embed", "--checkpoint", "c.pt"], "files"),
        (["verify", "a.wav", "--checkpoint", "c.pt"], "test"),
        (["info", "none.pt"], "none.pt: there is no such checkpoint"),
        (["embed", "a.wav", "--checkpoint", "c.pt", "--loud", "1"], "loud"),
        (["verify", "a.wav", "b.wav", "c.wav", "--checkpoint", "c.pt"], "one word too many: c.wav"),
        (
            ["embed", "a.wav", "--checkpoint", "c.pt", "--min-speech", "-3"],
            "--min-speech is -3.0; it must be at least 0",
        ),
    ],
)
def test_a_slip_is_one_sentence(monkeypatch, words, told):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, *words)
    message = str(end.value.code)
    assert message.startswith("error: ") and told in message and "\n" not in message


def test_after_an_interruption_nothing_is_promised(monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("cslib.commands.info.main", interrupted)
    with pytest.raises(SystemExit, match="^interrupted$"):
        run(monkeypatch, "info", "c.pt")
