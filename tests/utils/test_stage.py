"""utils/stage.sh and utils/fingerprint.py, with a toy recipe of two stages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.fingerprint import fingerprint, listing, without_speed

UTILS = Path(__file__).parents[2] / "utils"

RECIPE = """
set -euo pipefail
. {utils}/parse_options.sh
. {utils}/stage.sh
stage=1        # first stage
stop_stage=2   # last stage
size=1         # of what is made
nj=1           # processes
parse_options "$@"
keep_markers_in exp
if stage 1 "copy"; then
  reads input
  makes exp/copied
  run copy.py input/text exp/copied --size "$size" --nj "$nj"
fi
if stage 2 "count"; then
  continues exp/counted
  run count.py --config count.yaml exp/copied exp/counted
fi
end_stages
write_seconds exp/seconds.json
"""
COPY = """
import pathlib, sys
if pathlib.Path(sys.argv[2]).exists(): sys.exit("error: something is there")
text = pathlib.Path(sys.argv[1]).read_text() * int(sys.argv[4])
pathlib.Path(sys.argv[2]).write_text(text)
open("ran", "a").write("copy ")
"""
COUNT = """
import pathlib, sys
open("ran", "a").write("count ")
if "fail" in pathlib.Path("count.yaml").read_text(): sys.exit("error: told to fail")
pathlib.Path(sys.argv[4]).write_text(str(len(pathlib.Path(sys.argv[3]).read_text())))
"""


class Recipe:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "input").mkdir()
        (folder / "input" / "text").write_text("abc")
        (folder / "count.yaml").write_text("a: 1\n")
        (folder / "copy.py").write_text(COPY)
        (folder / "count.py").write_text(COUNT)
        (folder / "run.sh").write_text(RECIPE.format(utils=UTILS))

    def start(self, *options: str) -> subprocess.Popen:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", "run.sh", *options],
            cwd=self.folder,
            env={**os.environ, "PATH": path},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *options: str) -> tuple[str, str]:
        """(the scripts that ran, what was printed)"""
        (self.folder / "ran").write_text("")
        process = self.start(*options)
        self.printed, self.errors = process.communicate()
        self.status = process.returncode
        return (self.folder / "ran").read_text().strip(), self.printed + self.errors


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    recipe = Recipe(tmp_path)
    assert recipe.run()[0] == "copy count"
    return recipe


def test_finished_stages_are_skipped_and_say_so(recipe: Recipe) -> None:
    ran, printed = recipe.run()
    assert ran == ""
    assert "stage 1: copy: done already; to run it again delete exp/copied" in printed
    assert "stage 2: count: done already" in printed


def test_changed_option_runs_its_stage_and_all_after_it_and_keeps_what_was_there(recipe: Recipe) -> None:
    assert recipe.run("--size", "2")[0] == "copy count"
    assert (recipe.folder / "exp" / "counted").read_text() == "6"
    assert (recipe.folder / "exp" / "previous" / "copied").read_text() == "abc"


def test_changed_config_runs_only_the_stages_that_use_it(recipe: Recipe) -> None:
    (recipe.folder / "count.yaml").write_text("a: 2\n")
    assert recipe.run()[0] == "count"


def test_changed_input_folder_runs_the_stage_again(recipe: Recipe) -> None:
    (recipe.folder / "input" / "text").write_text("abcd")
    assert recipe.run()[0] == "copy count"


def test_deleted_output_is_made_again_and_so_is_what_was_made_from_it(recipe: Recipe) -> None:
    (recipe.folder / "exp" / "copied").unlink()
    assert recipe.run()[0] == "copy count"


def test_two_recipes_at_once_do_the_work_once(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path)
    printed = [process.communicate()[0] for process in [recipe.start(), recipe.start()]]
    assert (tmp_path / "ran").read_text().split() == ["copy", "count"]
    assert sum("another recipe is working on exp" in text for text in printed) == 1


def test_number_of_processes_changes_nothing(recipe: Recipe) -> None:
    assert recipe.run("--nj", "4")[0] == ""


def test_failed_stage_is_named_stops_the_recipe_and_is_not_marked_done(recipe: Recipe) -> None:
    (recipe.folder / "count.yaml").write_text("fail: 1\n")
    assert recipe.run()[0] == "count"
    assert recipe.status == 1
    assert recipe.errors.splitlines() == [
        "error: told to fail",
        "stage 2: count: stopped with status 1, see above; the same command goes on from there",
    ]
    assert recipe.run()[0] == "count"


def test_killed_command_finds_what_it_left(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path)
    script = tmp_path / "copy.py"
    script.write_text(
        "import os, pathlib, signal\npathlib.Path('exp/copied').write_text('half')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert "stopped with status 137" in recipe.run()[1]
    script.write_text("import pathlib\nassert pathlib.Path('exp/copied').read_text() == 'half'\n")
    assert recipe.run()[0] == "count"
    assert not (tmp_path / "exp" / "previous").exists()


def test_later_stage_alone_is_skipped_when_everything_before_it_is_as_it_was(recipe: Recipe) -> None:
    assert recipe.run("--stage", "2")[0] == ""
    assert recipe.run("--stop-stage", "1", "--size", "3")[0] == "copy"
    assert recipe.run("--stage", "2")[0] == "count"


def test_seconds_of_skipped_stages_are_kept(recipe: Recipe) -> None:
    for marker in ("1.1", "2.1"):
        path = recipe.folder / "exp" / ".done" / marker
        state, fingerprint, _, making = path.read_text().split()
        path.write_text(f"{state} {fingerprint} 83 {making}\n")
    recipe.run()
    recipe.run("--stage", "2")
    assert json.loads((recipe.folder / "exp" / "seconds.json").read_text()) == {"1": 83, "2": 83}


def test_printed_command_can_be_copied(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path)
    (tmp_path / "run.sh").write_text((tmp_path / "run.sh").read_text().replace("input", '"in put"'))
    (tmp_path / "input").rename(tmp_path / "in put")
    assert r"python copy.py in\ put/text exp/copied" in recipe.run()[1]


def test_launcher_processes_and_device_are_no_part_of_a_command() -> None:
    words = "local/train.py --config a.yaml --device cpu --nj 3 --seed 1"
    plain = without_speed(words.split())
    assert plain == ["local/train.py", "--config", "a.yaml", "--seed", "1"]
    assert without_speed(["torchrun", "--nproc-per-node", "2", *plain]) == plain


def test_huge_folder_is_known_by_its_upper_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.fingerprint.LISTED_FILES", 10)
    for speaker in range(4):
        for video in range(3):
            folder = tmp_path / "dev" / f"id{speaker}" / f"video{video}"
            folder.mkdir(parents=True)
            (folder / "1.wav").write_text("")
    before = listing(str(tmp_path))
    assert len(before) == 1 + 1 + 4 + 12
    (tmp_path / "dev" / "id9").mkdir()
    assert listing(str(tmp_path)) != before


def test_a_single_file_may_be_read_from_a_folder_that_changes(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text("a")
    before = fingerprint(["x.py"], "", [str(tmp_path / "table.tsv")])
    (tmp_path / "other").write_text("b")
    assert fingerprint(["x.py"], "", [str(tmp_path / "table.tsv")]) == before
    (tmp_path / "table.tsv").write_text("longer")
    assert fingerprint(["x.py"], "", [str(tmp_path / "table.tsv")]) != before


@pytest.mark.parametrize("name", ["base.yaml", "'base.yaml'", '"my base.yaml"'])
def test_fingerprint_changes_with_the_configs_that_a_config_is_like(tmp_path, name):
    base, top = tmp_path / name.strip("'\""), tmp_path / "top.yaml"
    base.write_text("steps: 1")
    top.write_text(f"# a comment\nlike: {name}   # and another\n")
    before = fingerprint(["x.py", "--config", str(top)], "", [])
    assert fingerprint(["x.py", "--config", str(top)], "", []) == before
    base.write_text("steps: 2")
    assert fingerprint(["x.py", "--config", str(top)], "", []) != before
    base.write_text("like: top.yaml")  # an error of its own, told by the script; here it only has to end
    fingerprint(["x.py", "--config", str(top)], "", [])
