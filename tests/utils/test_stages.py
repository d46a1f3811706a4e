"""utils/stage.sh and utils/cache.py, with a toy recipe of three stages."""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from utils import cache
from utils.cache import fingerprint, listing, state_of, without_speed

pytestmark = pytest.mark.slow  # starts many processes

UTILS = Path(__file__).parents[2] / "utils"

RECIPE = """
set -euo pipefail
root=$PWD
. utils/parse_options.sh
. utils/stage.sh
stage=1        # first stage
stop_stage=3   # last stage
size=1         # of what is made
extra=         # a suffix of another copy
data=data      # folder of the data
exp=exp        # folder of the run
hold=          # file that counting waits for
script=copy.py # what copies
nj=1           # processes
parse_options "$@"
keep_markers_in "$data"
if stage 1 "copy"; then
  makes "$data/copied"
  run "$script" ./input/text "$data/copied" --size "$size" --nj "$nj"
fi
keep_markers_in "$exp"
if stage 2 "count"; then
  if [ -n "$extra" ]; then
    makes "$exp/copied_$extra"
    run copy.py ./input/text "$exp/copied_$extra" --size "$size"
  fi
  continues "$exp/counted"
  run count.py --config count.yaml "$data/copied" "$exp/counted" $hold
fi
if stage 3 "results"; then
  write_history "$exp"
fi
end_stages
tell_other_code
"""
COPY = """
import pathlib, sys
if pathlib.Path(sys.argv[2]).exists(): sys.exit("error: something is there")
text = pathlib.Path(sys.argv[1]).read_text() * int(sys.argv[4])
pathlib.Path(sys.argv[2]).write_text(text)
open("ran", "a").write("copy ")
"""
COUNT = """
import pathlib, sys, time
open("ran", "a").write("count ")
if "fail" in pathlib.Path("count.yaml").read_text(): sys.exit("error: told to fail")
for _ in range(6000):
    if len(sys.argv) < 6 or pathlib.Path(sys.argv[5]).exists(): break
    time.sleep(0.02)
pathlib.Path(sys.argv[4]).write_text(str(len(pathlib.Path(sys.argv[3]).read_text())))
"""


class Recipe:
    def __init__(self, folder: Path) -> None:
        self.folder, self.launcher = folder, []
        for name in ("input", "utils", "cslib"):
            (folder / name).mkdir()
        for name in ("parse_options.sh", "stage.sh", "cache.py"):
            shutil.copy(UTILS / name, folder / "utils")
        for name in ("__init__.py", "provenance.py"):
            shutil.copy(UTILS.parent / "cslib" / name, folder / "cslib")
        (folder / "cslib" / "library.py").write_text("a = 1\n")
        (folder / "input" / "text").write_text("abc")
        (folder / "count.yaml").write_text("a: 1\n")
        (folder / "copy.py").write_text(COPY)
        (folder / "count.py").write_text(COUNT)
        (folder / "run.sh").write_text(RECIPE)

    def start(self, *options: str) -> subprocess.Popen:
        path = [f"{self.folder}/bin", str(Path(sys.executable).parent), os.environ["PATH"]]
        return subprocess.Popen(
            [*self.launcher, "bash", "run.sh", *options],
            cwd=self.folder,
            env={**os.environ, "PATH": os.pathsep.join(path)},
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

    def wait_for(self, script: str) -> None:
        """Until the script has started."""
        for _ in range(500):
            if script in (self.folder / "ran").read_text():
                return
            time.sleep(0.02)
        raise AssertionError(f"{script} never ran")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    recipe = Recipe(tmp_path)
    assert recipe.run()[0] == "copy count", recipe.errors
    return recipe


def test_finished_stages_are_skipped_and_say_so(recipe: Recipe) -> None:
    ran, printed = recipe.run()
    assert ran == ""
    assert "stage 1: copy: done already; to run it again delete data/copied" in printed
    assert "stage 2: count: done already" in printed


def test_changed_option_runs_its_stage_and_what_reads_its_output_and_keeps_what_was_there(recipe: Recipe) -> None:
    assert recipe.run("--size", "2")[0] == "copy count"
    assert (recipe.folder / "exp" / "counted").read_text() == "6"
    assert (recipe.folder / "data" / "previous" / "copied").read_text() == "abc"


def test_changed_config_runs_only_the_stages_that_use_it(recipe: Recipe) -> None:
    (recipe.folder / "count.yaml").write_text("a: 2\n")
    assert recipe.run()[0] == "count"
    assert not (recipe.folder / "exp" / "previous").exists(), "the script continues from its outputs"


def test_changed_input_runs_the_stage_again_even_when_it_has_the_same_size(recipe: Recipe) -> None:
    (recipe.folder / "input" / "text").write_text("xyz")
    assert recipe.run()[0] == "copy count"


def test_an_input_that_was_written_again_with_the_same_content_changes_nothing(recipe: Recipe) -> None:
    (recipe.folder / "input" / "text").write_text("abc")
    assert recipe.run()[0] == ""


def test_deleted_output_is_made_again_and_nothing_else(recipe: Recipe) -> None:
    (recipe.folder / "data" / "copied").unlink()
    assert recipe.run()[0] == "copy"
    (recipe.folder / "exp" / "counted").unlink()
    assert recipe.run()[0] == "count"


def test_a_command_added_in_the_middle_runs_alone(recipe: Recipe) -> None:
    assert recipe.run("--extra", "more")[0] == "copy"
    assert recipe.run("--extra", "more")[0] == ""
    assert recipe.run()[0] == ""


@pytest.mark.parametrize("spelt", ["{}/data", "./data", "data/", "{}/data/../data"])
def test_another_spelling_of_a_folder_is_the_same_run(recipe: Recipe, spelt: str) -> None:
    assert recipe.run("--data", spelt.format(recipe.folder), "--exp", f"{recipe.folder}/exp")[0] == ""


def test_the_project_may_be_moved_with_its_runs(recipe: Recipe, tmp_path: Path) -> None:
    moved = tmp_path.with_name(f"{tmp_path.name}_moved")
    tmp_path.rename(moved)
    recipe.folder = moved
    assert recipe.run("--data", f"{moved}/data")[0] == ""


def test_parts_made_by_other_code_are_named_with_their_commit_and_kept(recipe: Recipe) -> None:
    assert "another version" not in recipe.run()[1]
    (recipe.folder / "count.py").write_text(COUNT + "# changed\n")
    ran, printed = recipe.run()
    assert ran == "" and printed.count("was made by another version of the code (commit unknown) and is kept") == 1
    assert "stage 2 (count)" in printed and "to make it again delete exp/counted" in printed
    (recipe.folder / "cslib" / "library.py").write_text("a = 2\n")
    printed = recipe.run()[1]
    assert "stage 1 (copy)" in printed and "stage 2 (count)" in printed
    (recipe.folder / "exp" / "counted").unlink()
    assert recipe.run()[0] == "count"
    assert "stage 1 (copy)" in recipe.printed and "stage 2 (count)" not in recipe.printed


def test_commits_of_all_parts_are_written(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "cslib"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    recipe.run()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True)
    found = json.loads((tmp_path / "exp" / "commits.json").read_text())
    assert found == {"1 copy": commit.stdout.strip(), "2 count": commit.stdout.strip()}
    (tmp_path / "cslib" / "library.py").write_text("a = 2\n")
    (tmp_path / "exp" / "counted").unlink()
    recipe.run()
    found = json.loads((tmp_path / "exp" / "commits.json").read_text())
    assert found == {"1 copy": commit.stdout.strip(), "2 count": f"{commit.stdout.strip()}-dirty"}


def test_two_recipes_at_once_do_the_work_once(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path)
    printed = [process.communicate()[0] for process in [recipe.start(), recipe.start()]]
    assert (tmp_path / "ran").read_text().split() == ["copy", "count"]
    assert any(": waiting until it ends" in text for text in printed)


def test_a_recipe_that_would_change_the_data_of_another_one_waits_for_it(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path)
    (tmp_path / "ran").write_text("")
    first = recipe.start("--hold", "go")
    recipe.wait_for("count")
    second = recipe.start("--exp", "other", "--size", "2")
    waiting = iter(second.stdout.readline, "")
    printed = next(line for line in waiting if "waiting" in line)
    (tmp_path / "go").touch()
    assert first.wait() == 0 and (tmp_path / "exp" / "counted").read_text() == "3"
    second.communicate()
    assert "another recipe is using data: waiting until it ends" in printed
    assert (tmp_path / "other" / "counted").read_text() == "6"


def test_recipes_that_read_the_same_data_run_side_by_side(recipe: Recipe) -> None:
    (recipe.folder / "ran").write_text("")
    first = recipe.start("--exp", "one", "--hold", "go")
    recipe.wait_for("count")
    second = recipe.start("--exp", "other")
    printed = second.communicate()[0]
    assert first.poll() is None, "the second one waited for the first"
    (recipe.folder / "go").touch()
    assert "waiting" not in printed and first.wait() == 0


def test_two_that_wait_to_change_the_data_change_them_once(recipe: Recipe) -> None:
    (recipe.folder / "ran").write_text("")
    first = recipe.start("--exp", "one", "--hold", "go")
    recipe.wait_for("count")
    others = [recipe.start("--exp", name, "--size", "2") for name in ("two", "three")]
    for other in others:
        assert any("another recipe is using data" in line for line in iter(other.stdout.readline, ""))
    (recipe.folder / "go").touch()
    for process in (first, *others):
        process.communicate(timeout=120)
    assert [process.returncode for process in (first, *others)] == [0, 0, 0]
    assert (recipe.folder / "ran").read_text().split() == ["count", "copy", "count", "count"]


def test_a_recipe_that_would_change_the_data_waits_for_a_script_that_shares_them(recipe: Recipe) -> None:
    script = "set -eu; . utils/stage.sh; shares none; shares data; echo shared; read -r"
    reader = subprocess.Popen(
        ["bash", "-c", script], cwd=recipe.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout.readline() == "shared\n"
    assert "waiting" not in recipe.run()[1]
    second = recipe.start("--size", "2")
    printed = next(line for line in iter(second.stdout.readline, "") if "waiting" in line)
    assert "another recipe is using data" in printed and (recipe.folder / "data" / "copied").read_text() == "abc"
    reader.communicate("\n")
    second.communicate()
    assert second.returncode == 0 and (recipe.folder / "data" / "copied").read_text() == "abcabc"


def test_a_command_that_outlives_its_recipe_is_waited_for(tmp_path: Path) -> None:
    """A killed run.sh leaves the command, which holds the lock."""
    recipe = Recipe(tmp_path)
    (tmp_path / "ran").write_text("")
    first = recipe.start("--hold", "go")
    recipe.wait_for("count")
    first.kill()
    second = recipe.start("--hold", "go")
    printed = next(line for line in iter(second.stdout.readline, "") if "waiting" in line)
    assert "another recipe is changing exp" in printed
    (tmp_path / "go").touch()
    first.communicate()
    second.communicate()
    assert second.returncode == 0 and (tmp_path / "ran").read_text().split() == ["copy", "count", "count"]


def test_a_disk_without_locks_is_no_reason_to_wait(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path)
    stub = tmp_path / "bin" / "flock"
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\necho flock: No locks available >&2\nexit 71\n")
    stub.chmod(0o755)
    ran, printed = recipe.run()
    assert (ran, recipe.errors) == ("copy count", "") and "waiting" not in printed


def test_commands_that_make_nothing_run_again_when_what_they_read_has_changed(recipe: Recipe) -> None:
    text = (recipe.folder / "run.sh").read_text()
    checks = 'reads labels list\n  run check.py ./input 1\n  run check.py ./input 2\n  continues "$exp/counted"'
    (recipe.folder / "run.sh").write_text(text.replace('continues "$exp/counted"', checks))
    (recipe.folder / "check.py").write_text("import sys; open('ran', 'a').write(sys.argv[2] + ' ')")
    (recipe.folder / "list").write_text("a")
    assert recipe.run()[0] == "1 2"
    assert recipe.run()[0] == ""
    (recipe.folder / "labels").write_text("a")
    assert recipe.run()[0] == "1"
    (recipe.folder / "list").write_text("b")
    assert recipe.run()[0] == "1"
    (recipe.folder / "input" / "other").write_text("b")
    assert recipe.run()[0] == "1 2"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_marker_is_none(recipe: Recipe, content: str) -> None:
    for path in (recipe.folder / "data" / ".done").glob("*.json"):
        path.write_text(content)
    assert recipe.run()[0] == "copy"
    assert recipe.run()[0] == ""


def test_number_of_processes_changes_nothing(recipe: Recipe) -> None:
    assert recipe.run("--nj", "4")[0] == ""


def test_failed_stage_is_named_stops_the_recipe_and_is_not_marked_done(recipe: Recipe) -> None:
    (recipe.folder / "count.yaml").write_text("fail: 1\n")
    assert recipe.run()[0] == "count"
    assert recipe.status == 1
    assert recipe.errors.splitlines() == [
        "error: told to fail",
        "stage 2: count: stopped with status 1, see above; the same command continues from there",
    ]
    assert recipe.run()[0] == "count"


def test_killed_command_finds_what_it_left(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path)
    script = tmp_path / "copy.py"
    script.write_text(
        "import os, pathlib, signal\npathlib.Path('data/copied').write_text('half')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert "stopped with status 137" in recipe.run()[1]
    script.write_text(
        "import pathlib\nassert pathlib.Path('data/copied').read_text() == 'half'\nopen('ran', 'a').write('copy ')\n"
    )
    assert recipe.run()[0] == "copy count"
    assert not (tmp_path / "data" / "previous").exists()


HALF = """
import os, pathlib, signal
pathlib.Path("data/copied").write_text("half")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_slip_that_was_interrupted_loses_nothing(recipe: Recipe) -> None:
    (recipe.folder / "copy.py").write_text(HALF)
    assert "stopped with status 137" in recipe.run("--size", "2")[1]
    (recipe.folder / "copy.py").write_text(COPY)
    ran, printed = recipe.run()
    assert ran == "copy" and "data/copied was begun with other settings or inputs" in printed
    previous = recipe.folder / "data" / "previous"
    assert (previous / "copied").read_text() == "abc" and (previous / "unfinished" / "copied").read_text() == "half"


@pytest.mark.parametrize("command", ["mkdir", "rm", "mv"])
def test_a_recipe_killed_while_it_moves_outputs_moves_them_when_it_is_called_again(
    recipe: Recipe, command: str
) -> None:
    stub = recipe.folder / "bin" / command
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\ncase "$*" in *previous*) kill -9 $PPID ;; *) exec /bin/{command} "$@" ;; esac\n')
    stub.chmod(0o755)
    recipe.run("--size", "2")
    assert recipe.status == -9 and (recipe.folder / "data" / "copied").read_text() == "abc"
    stub.unlink()
    assert recipe.run("--size", "2")[0] == "copy count", recipe.errors
    assert (recipe.folder / "data" / "previous" / "copied").read_text() == "abc"


def test_outputs_that_cannot_be_moved_stop_the_recipe(recipe: Recipe) -> None:
    """Else the command would take them for its own."""
    text = (recipe.folder / "run.sh").read_text()
    (recipe.folder / "run.sh").write_text(text.replace('makes "$data/copied"', 'makes "$data/copied" "$exp/counted"'))
    (recipe.folder / "data" / "previous").write_text("a file")
    ran, printed = recipe.run("--size", "2")
    assert ran == "" and recipe.status == 1
    assert "stage 1: copy: stopped with status 1" in printed
    assert (recipe.folder / "exp" / "counted").exists()


def test_outputs_of_another_script_are_not_taken_for_those_of_a_command(recipe: Recipe) -> None:
    (recipe.folder / "other.py").write_text(COPY.replace("int(sys.argv[4])", "5"))
    assert recipe.run("--script", "other.py")[0] == "copy count"
    assert recipe.run("--script", "other.py")[0] == ""
    assert recipe.run()[0] == "copy count"
    assert (recipe.folder / "data" / "copied").read_text() == "abc"
    assert (recipe.folder / "data" / "previous" / "copied").read_text() == "abc" * 5


def test_a_command_does_not_disturb_those_that_made_the_folder_around_its_outputs(recipe: Recipe) -> None:
    """Trainings lie in the folder that the command before them made."""
    text = (recipe.folder / "run.sh").read_text()
    split = 'makes "$exp/folder"\n  run split.py --out "$exp/folder"\n  continues "$exp/folder/counted"'
    text = text.replace('continues "$exp/counted"', split).replace(
        '"$exp/counted" $hold', '"$exp/folder/counted" $hold'
    )
    (recipe.folder / "run.sh").write_text(text)
    (recipe.folder / "split.py").write_text("import os, sys; os.mkdir(sys.argv[2]); open('ran', 'a').write('split ')")
    assert recipe.run()[0] == "split count"
    assert recipe.run()[0] == ""


def test_data_and_run_may_be_one_folder(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path)
    process = recipe.start("--data", "both", "--exp", "./both")
    try:
        printed, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and "waiting" not in printed, errors
    assert json.loads((tmp_path / "both" / "seconds.json").read_text()).keys() == {"1", "2"}


@pytest.mark.parametrize("lock", [True, False])
def test_data_that_cannot_be_written_are_read(recipe: Recipe, lock: bool) -> None:
    if os.geteuid() == 0:  # root may write everything, unless it gives that up
        recipe.launcher = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        if not shutil.which("setpriv") or subprocess.run([*recipe.launcher, "true"], capture_output=True).returncode:
            pytest.skip("root cannot be kept from writing here")
    data = recipe.folder / "data"
    if not lock:
        (data / ".done" / "lock").unlink()
    for path in (data / ".done", data, *data.glob(".done/*")):
        path.chmod(0o555)
    assert recipe.run("--exp", "other")[0] == "count" and recipe.errors == ""
    assert recipe.run("--exp", "other", "--size", "2")[0] == ""
    assert recipe.errors == "error: stage 1: copy: has to run, but data cannot be written\n"


def test_later_stage_alone_is_skipped_when_everything_before_it_is_as_it_was(recipe: Recipe) -> None:
    assert recipe.run("--stage", "2")[0] == ""
    assert recipe.run("--stop-stage", "1", "--size", "3")[0] == "copy"
    assert recipe.run("--stage", "2")[0] == "count"


def test_seconds_of_skipped_stages_are_kept(recipe: Recipe) -> None:
    for folder in ("data", "exp"):
        for path in (recipe.folder / folder / ".done").glob("*.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": 83}))
    recipe.run()
    recipe.run("--stage", "2")
    assert json.loads((recipe.folder / "exp" / "seconds.json").read_text()) == {"1": 83, "2": 83}


def test_printed_command_can_be_copied(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path)
    (tmp_path / "run.sh").write_text((tmp_path / "run.sh").read_text().replace("./input/text", '"./in put/text"'))
    (tmp_path / "input").rename(tmp_path / "in put")
    assert r"python copy.py ./in\ put/text data/copied" in recipe.run()[1]


def test_launcher_processes_and_device_are_no_part_of_a_command() -> None:
    words = "local/train.py --config a.yaml --device cpu --nj 3 --seed 1"
    plain = without_speed(words.split())
    assert plain == ["local/train.py", "--config", "a.yaml", "--seed", "1"]
    assert without_speed(["torchrun", "--nproc-per-node", "2", *plain]) == plain


def test_huge_folder_is_known_by_its_upper_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.cache.LISTED_FILES", 10)
    for speaker in range(4):
        for video in range(3):
            folder = tmp_path / "dev" / f"id{speaker}" / f"video{video}"
            folder.mkdir(parents=True)
            (folder / "1.wav").write_text("")
    before = listing(str(tmp_path))
    assert len(before) == 1 + 1 + 4 + 12
    (tmp_path / "dev" / "id9").mkdir()
    assert listing(str(tmp_path)) != before


def test_huge_set_does_not_change_when_it_is_opened_or_spelt_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.cache.LISTED_FILES", 5)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "train"
    for name in "abcdefgh":
        (folder / "audio" / name).mkdir(parents=True)
        (folder / "audio" / name / "1.flac").write_text("a")
    (folder / "cuts.jsonl.gz").write_text("cuts")
    before = state_of("train")
    assert state_of(str(folder)) == before
    (folder / "table.npy").write_text("made by whoever opens the set")
    (folder / "speakers.tsv").write_text("labels")
    (folder / "trials").mkdir()
    assert state_of("train") == before
    (folder / "audio" / "new").mkdir()
    assert state_of("train") != before


def test_links_are_followed_and_do_not_lead_in_circles(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    elsewhere.mkdir()
    folder.mkdir()
    (elsewhere / "a.wav").write_text("a")
    (folder / "one.wav").symlink_to(elsewhere / "a.wav")
    (folder / "speaker").symlink_to(elsewhere)
    (folder / "back").symlink_to(folder)
    (folder / "itself").symlink_to(folder / "itself")
    (folder / "nothing").symlink_to(folder / "gone")
    before = state_of(str(folder))
    assert [line.split()[0] for line in before] == ["one.wav", "speaker/a.wav"]
    (elsewhere / "a.wav").write_text("other")
    assert len(set(state_of(str(folder))) - set(before)) == 2
    (elsewhere / "b.wav").write_text("b")
    assert len(state_of(str(folder))) == 3


def test_a_folder_that_cannot_be_read_does_not_stop_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as lost+found of the disk that holds a corpus."""
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "a").write_text("")
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("lost+found"):
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert len(listing(str(tmp_path))) == 1
    monkeypatch.setattr("utils.cache.LISTED_FILES", 0)
    assert len(listing(str(tmp_path))) == 1


@pytest.mark.parametrize(
    "word, known",
    [
        ("{root}/exp/a", "exp/a"),
        ("{link}/exp/../exp/a/", "exp/a"),
        ('["{root}/exp/a, b", "exp/c"]', '["exp/a, b", "exp/c"]'),
        ("{root}", "{root}"),
        ("/elsewhere//a", "/elsewhere/a"),
        ("exp/a", "exp/a"),
        ("--a/b", "--a/b"),
    ],
)
def test_paths_in_the_project_are_known_relative_to_its_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, known: str
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "root")
    monkeypatch.setattr(cache, "ROOT", tmp_path / "root")
    cache.is_root.cache_clear()
    places = {"root": tmp_path / "root", "link": tmp_path / "link"}
    assert cache.relative(word.format(**places)) == known.format(**places)
    cache.is_root.cache_clear()


def bash(text: str) -> list[str]:
    """The lines that it prints, in the project's root, with the functions of a recipe."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail; . utils/recipe.sh; {text}", "bash"],
        cwd=UTILS.parent,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_paths_with_any_sign_are_a_list_in_yaml() -> None:
    paths = ["a b/c, d", "it's", 'say "a"', "back\\slash", "#: [x]"]
    assert yaml.safe_load(bash(f"as_list {shlex.join(paths)}")[0]) == paths
    assert bash("as_list") == ["[]"]


def test_steps_name_what_their_scripts_read_besides_their_words() -> None:
    """Babble is mixed from the training set, and an interfering speaker is another one than in speakers.tsv."""
    tell = 'run() { echo "$1: ${paths_read[*]}"; paths_read=(); }; answers= data=d exp=e nj=1 tested=yes pieces=no '
    empty = "noise_dir= rir_dir= musan=m rirs=r; . egs/voxceleb/steps.sh; prepare_noise"
    found = bash(f"{tell} corpus=mini {empty}")
    assert found[:2] == ["local/prepare_noise.py: d/train", "local/make_adverse.py: d/test/speakers.tsv d/test/trials"]
    assert bash(f"{tell} corpus=voxceleb {empty}")[0] == "local/prepare_noise.py: "


def test_a_single_file_may_be_read_from_a_folder_that_changes(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text("a")
    before = fingerprint(["x.py"], [str(tmp_path / "table.tsv")], [])
    (tmp_path / "other").write_text("b")
    assert fingerprint(["x.py"], [str(tmp_path / "table.tsv")], []) == before
    (tmp_path / "table.tsv").write_text("c")
    assert fingerprint(["x.py"], [str(tmp_path / "table.tsv")], []) != before


def started(done: Path, script: str, *outputs: Path) -> tuple[str, Path]:
    """(state, marker) of a command that starts."""
    options = argparse.Namespace(
        done=str(done), stage="1", title="a", code=":", reads=[], outputs=list(map(str, outputs)), start=True
    )
    state, marker = cache.check(options, [script]).split()
    if state != "done":
        Path(marker).with_suffix(".new").rename(marker)
    return state, Path(marker)


def test_every_output_has_to_be_there(tmp_path: Path) -> None:
    outputs = tmp_path / "one", tmp_path / "two"
    state, marker = started(tmp_path, "x.py", *outputs)
    assert state == "anew"
    for output in outputs:
        output.touch()
    assert started(tmp_path, "x.py", *outputs)[0] == "again"
    cache.finish(str(marker), 3)
    assert started(tmp_path, "x.py", *outputs)[0] == "done"
    for output in outputs:
        output.unlink()
        assert started(tmp_path, "x.py", *outputs)[0] == "again"
        cache.finish(str(marker), 3)
        output.touch()


def test_what_another_script_began_is_unfinished(tmp_path: Path) -> None:
    marker = started(tmp_path, "one.py", tmp_path / "out")[1]
    state, other = started(tmp_path, "other.py", tmp_path / "out")
    assert state == "unfinished" and not marker.exists()
    cache.finish(str(other), 3)
    assert started(tmp_path, "one.py", tmp_path / "out")[0] == "anew"


def test_a_folder_that_is_made_anew_ends_the_commands_that_wrote_into_it(tmp_path: Path) -> None:
    folder = started(tmp_path, "split.py", tmp_path / "out")[1]
    inside = started(tmp_path, "train.py", tmp_path / "out" / "final.pt")[1]
    beside = started(tmp_path, "train.py", tmp_path / "out2" / "final.pt")[1]
    assert folder.exists() and inside.exists()
    started(tmp_path, "split.py", tmp_path / "out")
    assert not inside.exists() and beside.exists()


def test_what_is_told_of_earlier_stages(tmp_path: Path) -> None:
    (tmp_path / "checks").mkdir()
    made = started(tmp_path, "one.py", tmp_path / "out")[1]
    checked = started(tmp_path / "checks", "check.py")[1]
    started(tmp_path, "unfinished.py", tmp_path / "other")
    cache.finish(str(made), 3)
    cache.finish(str(checked), 4)
    folders = [str(tmp_path), str(tmp_path / "checks")]
    assert cache.seconds(folders, 2) == {"1": 7} and cache.commits(folders, 2) == {"1 a": ""}
    assert cache.seconds(folders, 1) == {} == cache.commits(folders, 1)
    assert cache.other_code(":", folders) == []
    assert cache.other_code(":another", folders[1:]) == []  # what makes nothing cannot be made again
    (line,) = cache.other_code(":another", folders)
    assert line.endswith(f"to make it again delete {tmp_path}/out")


def test_the_order_of_what_is_read_does_not_matter(tmp_path: Path) -> None:
    """In bash, the order of the files that a pattern matches depends on the language."""
    paths = [str(tmp_path / name) for name in "ab"]
    for path in paths:
        Path(path).write_text(path)
    assert fingerprint(["x.py"], paths, []) == fingerprint(["x.py"], paths[::-1], [])


def test_outputs_and_the_folders_around_them_are_no_inputs(tmp_path: Path) -> None:
    run, made = tmp_path / "run", tmp_path / "run" / "final.pt"
    run.mkdir()
    words = ["x.py", "--exp", str(run), "--out", str(made)]
    before = fingerprint(words, [], [str(made)])
    made.write_text("a")
    (run / "log").write_text("b")
    assert fingerprint(words, [], [str(made)]) == before
    assert fingerprint(words, [], []) != before
    words += ["--note", str(run / "log")]  # lies in an output
    before = fingerprint(words, [], [str(run)])
    (run / "log").write_text("c")
    assert fingerprint(words, [], [str(run)]) == before


def test_a_set_counts_by_its_recordings_and_not_by_labels_or_tables_beside_them(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.flac").write_text("a")
    (tmp_path / "cuts.jsonl.gz").write_text("cuts")
    (tmp_path / "speakers.tsv").write_text("labels")
    before = state_of(str(tmp_path))
    (tmp_path / "speakers.tsv").write_text("other labels")
    (tmp_path / "table.npy").write_text("index")
    assert state_of(str(tmp_path)) == before
    os.utime(tmp_path / "audio" / "a.flac", ns=(1, 1))  # as when it is replaced
    changed = state_of(str(tmp_path))
    assert changed != before
    journal = tmp_path / "journal.jsonl"
    journal.write_text("size and time of a recording elsewhere")
    last = state_of(str(tmp_path))
    assert last != changed
    os.utime(journal, ns=(1, 1))  # as when preparation writes the same again
    assert state_of(str(tmp_path)) == last


def test_a_packed_set_is_a_set(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "cuts.0.jsonl.gz").write_text("cuts")
    before = state_of(str(tmp_path))
    (tmp_path / "speakers.tsv").write_text("labels")
    (tmp_path / "table.shards.npy").write_text("index")
    assert len(before) == 1 and state_of(str(tmp_path)) == before


def test_a_folder_counts_by_path_size_and_time_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "a.wav").write_text("a")
    os.utime(tmp_path / "clean" / "a.wav", ns=(1, 1))
    before = state_of(str(tmp_path))
    (tmp_path / "clean" / "table.npy").write_text("index")
    (tmp_path / ".done").mkdir()
    (tmp_path / ".done" / "1.json").write_text("marker")
    (tmp_path / "clean" / ".writing-a.wav").write_text("half")
    assert state_of(str(tmp_path)) == before
    (tmp_path / "clean" / "a.wav").write_text("longer")
    os.utime(tmp_path / "clean" / "a.wav", ns=(1, 1))
    longer = state_of(str(tmp_path))
    assert longer != before
    (tmp_path / "clean" / "a.wav").rename(tmp_path / "clean" / "b.wav")
    assert state_of(str(tmp_path)) not in (before, longer)


def test_embeddings_count_with_the_ark_beside_their_list(tmp_path: Path) -> None:
    (tmp_path / "a.scp").write_text("u a.ark:2")
    (tmp_path / "a.ark").write_text("one")
    before = state_of(str(tmp_path / "a.scp"))
    (tmp_path / "a.ark").write_text("two")
    assert state_of(str(tmp_path / "a.scp")) != before


def test_a_huge_file_is_known_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge"
    path.write_text("abc")
    os.utime(path, ns=(5, 5))
    whole = cache.content(str(path))
    monkeypatch.setattr(cache, "WHOLE", 2)
    assert cache.content(str(path)) == "3 5" != whole


@pytest.mark.parametrize("name", ["base.yaml", "'base.yaml'", '"my base.yaml"'])
def test_fingerprint_changes_with_the_configs_that_a_config_is_like(tmp_path, name):
    base, top = tmp_path / name.strip("'\""), tmp_path / "top.yaml"
    base.write_text("steps: 1")
    top.write_text(f"# a comment\nlike: {name}   # and another\n")
    before = fingerprint(["x.py", "--config", str(top)], [], [])
    assert fingerprint(["x.py", "--config", str(top)], [], []) == before
    base.write_text("steps: 2")
    assert fingerprint(["x.py", "--config", str(top)], [], []) != before
    base.write_text("like: top.yaml")  # an error of its own, told by the script; here it only has to end
    fingerprint(["x.py", "--config", str(top)], [], [])
