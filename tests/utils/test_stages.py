"""utils/stage.sh and utils/cache.py, with a toy recipe of three stages."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
nj=1           # processes
parse_options "$@"
keep_markers_in "$data"
if stage 1 "copy"; then
  makes "$data/copied"
  run copy.py ./input/text "$data/copied" --size "$size" --nj "$nj"
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
        self.folder = folder
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
    assert "other code" not in recipe.run()[1]
    (recipe.folder / "count.py").write_text(COUNT + "# changed\n")
    ran, printed = recipe.run()
    assert ran == "" and printed.count("was made by other code (commit unknown) and is kept") == 1
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
    script.write_text("import pathlib\nassert pathlib.Path('data/copied').read_text() == 'half'\n")
    assert recipe.run()[0] == "count"
    assert not (tmp_path / "data" / "previous").exists()


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


def test_a_single_file_may_be_read_from_a_folder_that_changes(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text("a")
    before = fingerprint(["x.py"], [str(tmp_path / "table.tsv")], [])
    (tmp_path / "other").write_text("b")
    assert fingerprint(["x.py"], [str(tmp_path / "table.tsv")], []) == before
    (tmp_path / "table.tsv").write_text("c")
    assert fingerprint(["x.py"], [str(tmp_path / "table.tsv")], []) != before


def test_outputs_and_the_folders_around_them_are_no_inputs(tmp_path: Path) -> None:
    run, made = tmp_path / "run", tmp_path / "run" / "final.pt"
    run.mkdir()
    words = ["x.py", "--exp", str(run), "--out", str(made)]
    before = fingerprint(words, [], [str(made)])
    made.write_text("a")
    (run / "log").write_text("b")
    assert fingerprint(words, [], [str(made)]) == before
    assert fingerprint(words, [], []) != before


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
    (tmp_path / "journal.jsonl").write_text("size and time of a recording elsewhere")
    assert state_of(str(tmp_path)) != changed


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
