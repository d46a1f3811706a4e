"""Options: from YAML and the command line into a dataclass, or one plain sentence."""

import dataclasses
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslib.config import Part, UserError, find, from_dict, load_yaml, parse, positional, require, to_dict, values_of
from tests.tiny_run import ENVIRONMENT


@dataclass
class Inner:
    rate: float = 0.5  # how fast
    pair: tuple[float, float] = (1.0, 2.0)
    pair_count: int = 1


@dataclass
class Base:
    inherited: int = 1  # of the base


@dataclass(kw_only=True)
class Options(Base):
    data_dir: Path  # where the data are
    # the number of them
    count: int = 3
    share: Part = Part("1/1")
    maybe: Path | None = None  # "#" in a comment
    quoted: str = "# not a comment"  # but this is
    fast: bool = False
    in_: int = 0
    max_count: int = 9
    inner: Inner = field(default_factory=Inner)  # what is inside


def test_dashes_and_underscores_are_the_same_and_values_keep_theirs():
    for words in (["--data-dir", "a-b__c"], ["--data_dir", "a-b__c"], ["--data-dir=a-b__c"]):
        assert parse(Options, words).data_dir == Path("a-b__c")


def test_values_have_their_types():
    options = parse(
        Options,
        [
            "--data-dir",
            "x",
            "--count",
            "-4",
            "--share",
            "2/3",
            "--fast",
            "true",
            "--maybe",
            "null",
            "--inner.pair",
            "[3, 4]",
            "--inner.rate",
            "1e-3",
        ],
    )
    assert (options.count, str(options.share), options.fast, options.maybe) == (-4, "2/3", True, None)
    assert options.inner == Inner(1e-3, (3.0, 4.0)) and options.inherited == 1


def test_command_line_overrides_config_and_later_configs_override_earlier_ones(tmp_path):
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("data_dir: one\ncount: 1\ninner: {rate: 1, pair: [5, 6]}")
    second.write_text("count: 2\ninner: {rate: 2}")
    options = parse(Options, ["--config", str(first), f"--config={second}", "--inner.rate", "3"])
    assert (options.data_dir, options.count, options.inner) == (Path("one"), 2, Inner(3.0, (5.0, 6.0)))


def test_config_takes_from_its_base_what_it_does_not_name(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text("data_dir: base\ncount: 1\ninner: {rate: 1, pair: [5, 6]}")
    (tmp_path / "sub/middle.yaml").write_text("like: ../base.yaml\ncount: 2\ninner: {rate: 2}")
    (tmp_path / "sub/top.yaml").write_text("like: middle.yaml\ncount: 3")
    for words in (["--config", str(tmp_path / "sub/top.yaml")], [f"--config={tmp_path}/sub/top.yaml"]):
        options = parse(Options, [*words, "--maybe", "x"])
        assert (options.data_dir, options.count, options.inner) == (Path("base"), 3, Inner(2.0, (5.0, 6.0)))


def test_config_that_is_its_own_base_or_has_an_absent_one_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("like: b.yaml")
    (tmp_path / "b.yaml").write_text("like: a.yaml")
    with pytest.raises(UserError, match=r"a\.yaml: is its own base"):
        parse(Options, ["--config", str(tmp_path / "a.yaml")])
    (tmp_path / "b.yaml").write_text("like: c.yaml")
    with pytest.raises(UserError, match=r"c\.yaml: there is no such config file"):
        parse(Options, ["--config", str(tmp_path / "a.yaml")])


@pytest.mark.parametrize(
    "words, message",
    [
        (["--bogus", "1"], "there is no option --bogus; --help lists the options"),
        (["--like", "a.yaml"], "there is no option --like; `like:` belongs in a config file"),
        (["--like=a.yaml"], "there is no option --like; `like:` belongs in a config file"),
        (["--coun", "1"], "there is no option --coun; --help lists the options"),
        (["--inner.bogus", "1"], "there is no option --inner.bogus; --help lists the options"),
        (["stray"], "one word too many: stray"),
        (["--count", "abc"], "--count: expected a whole number, got abc"),
        (["--count", "1.5"], "--count: expected a whole number, got 1.5"),
        (["--inner.rate", "fast"], "--inner.rate: expected a number, got fast"),
        (["--fast", "perhaps"], "--fast: expected true or false, got perhaps"),
        (["--share", "5/4"], "--share: a part is written i/n with 1 <= i <= n, not '5/4'"),
        (["--data_dri", "x"], "there is no option --data-dri; --help lists the options"),
        (["--max_count", "x"], "--max-count: expected a whole number, got x"),
        (["--max-count"], "argument --max-count: expected one argument"),
        (["--inner.pair_count", "x"], "--inner.pair_count: expected a whole number, got x"),
        (["--inner.pair-count"], "argument --inner.pair_count: expected one argument"),
        (["--in", "x"], "--in: expected a whole number, got x"),
        (["--count"], "argument --count: expected one argument"),
        (["--config"], "argument --config: expected one argument"),
    ],
)
def test_bad_word_is_one_plain_sentence(words, message):
    with pytest.raises(UserError) as error:
        parse(Options, ["--data-dir", "x", *words])
    assert str(error.value) == message


def test_missing_option_is_named():
    with pytest.raises(UserError, match="required: --data-dir$"):
        parse(Options, [])


@pytest.mark.parametrize(
    "text, message",
    [
        ("data_dir: x\nbogus: 1", "there is no option bogus"),
        ("data_dir: x\ninner: 3", "--inner: expected a section of `key: value` lines, got 3"),
        ("data_dir: x\ninner:", "--inner: expected a section of `key: value` lines, got None"),
        ("data_dir: x\nmax_count: x", "--max-count: expected a whole number, got x"),
        ("data_dir: x\ninner: {bogus: 1}", "there is no option inner.bogus"),
        ("data_dir: x\ncount: many", "--count: expected a whole number, got many"),
        ("count: 1", "the following arguments are required: --data-dir"),
        ("data_dir: [x\n", "c.yaml: not valid YAML"),
        ("- a\n- b", "c.yaml: expected `key: value` lines"),
        ("", "c.yaml: expected `key: value` lines"),
        ("a: \x00", "c.yaml: not valid YAML"),
    ],
)
def test_bad_config_is_one_plain_sentence(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        parse(Options, ["--config", str(path)])
    assert message in str(error.value)
    assert "\n" not in str(error.value) and "unicode string" not in str(error.value)


def test_config_that_is_no_file_is_named(tmp_path):
    absent = tmp_path / "none.yaml"
    for path, message in ((absent, "there is no such config file"), (tmp_path, "cannot be read")):
        for read in (lambda p: parse(Options, ["--config", str(p)]), load_yaml):
            with pytest.raises(UserError, match=f"^{path}: {message}"):
                read(path)


def test_help_text_is_the_comment_behind_or_above_the_field(capsys):
    with pytest.raises(SystemExit) as end:
        parse(Options, ["--help"], description="What it does.\n\n    an example")
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and "What it does." in text
    for option, message in (
        ("--data-dir DATA_DIR", "where the data are"),
        ("--count COUNT", "the number of them"),
        ("--inner.rate RATE", "how fast"),
        ("--inherited INHERITED", "of the base"),
        ("--maybe MAYBE", '"#" in a comment'),
        ("--quoted QUOTED", "but this is"),
    ):
        assert f"{option} {message}" in text
    assert "--max-count MAX_COUNT" in text and "--in IN_" in text and "--inner.pair_count PAIR_COUNT" in text
    assert not re.search(r"--\w+_", text.replace("--inner.pair_count", ""))


def test_help_of_a_field_without_source_code_is_in_its_metadata(capsys):
    made = dataclasses.make_dataclass(
        "Made", [("inner", Inner, field(default_factory=Inner, metadata={"help": "what is inside"}))]
    )
    with pytest.raises(SystemExit):
        parse(made, ["--help"], description="x")
    assert "what is inside:" in capsys.readouterr().out


SCRIPT = '''"""Count things.

    python count.py --number 3
"""

from dataclasses import dataclass

from cslib.config import UserError, run


@dataclass
class Options:
    number: int = 1    # how many


def main(options: Options) -> None:
    if options.number == 13:
        raise UserError("13: an unlucky number; take another")
    if options.number == 14:
        raise KeyboardInterrupt
    print("counted", options.number)


if __name__ == "__main__":
    run(main, Options)
'''


def test_script_ends_silently_when_its_reader_leaves(tmp_path):
    (tmp_path / "count.py").write_text(SCRIPT.replace('print("counted", ', 'print("counted\\n" * 99999, '))
    process = subprocess.Popen(
        [sys.executable, tmp_path / "count.py"], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 1)
    process.stderr.close()


def test_script_ends_with_one_sentence_and_status_1(tmp_path):
    (tmp_path / "count.py").write_text(SCRIPT)
    (tmp_path / "bad.yaml").write_text("nmber: 3")

    def call(*words):
        done = subprocess.run(
            [sys.executable, "count.py", *words], cwd=tmp_path, env=ENVIRONMENT, text=True, capture_output=True
        )
        return done.returncode, done.stdout, done.stderr

    assert call("--number", "3") == (0, "counted 3\n", "")
    assert call("--number", "x") == (1, "", "error: --number: expected a whole number, got x\n")
    assert call("--config", "bad.yaml") == (1, "", "error: there is no option nmber\n")
    assert call("--number", "13") == (1, "", "error: 13: an unlucky number; take another\n")
    assert call("--number", "14") == (1, "", "interrupted; the same command continues the work\n")
    status, text, _ = call("--help")
    assert status == 0 and "Count things." in text
    assert "python count.py --number 3" in text and "how many" in text


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_parts_cover_everything_once_in_shares_that_differ_by_one_at_most(total, count):
    shares = [range(total)[Part(f"{index}/{count}").slice(total)] for index in range(1, count + 1)]
    assert [item for share in shares for item in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_other_parts_are_refused(text):
    with pytest.raises(ValueError, match="1 <= i <= n"):
        Part(text)


def test_a_required_condition_names_the_option_its_value_and_what_is_wanted():
    require(True, "augment.noise_p", 0.5, "a probability from 0 to 1")
    with pytest.raises(UserError, match=r"^augment\.noise_p is 2; it must be a probability from 0 to 1$"):
        require(False, "augment.noise_p", 2, "a probability from 0 to 1")


def test_find_gives_the_module_or_the_names_there_are():
    assert find("objectives", "csc").__name__ == "cslib.objectives.csc.objective"
    for name in ("csd", "csc.py", "__init__", None):
        with pytest.raises(UserError, match="is not one of cslib/models: .*galr.*resnet"):
            find("models", name)


def test_from_dict_is_the_inverse_of_to_dict():
    options = Options(data_dir=Path("a/b"), count=7, share=Part("2/5"), inner=Inner(0.25, (8.0, 9.0)))
    values = to_dict(options)
    assert values == {
        "inherited": 1,
        "data_dir": "a/b",
        "count": 7,
        "share": "2/5",
        "maybe": None,
        "fast": False,
        "in_": 0,
        "max_count": 9,
        "quoted": "# not a comment",
        "inner": {"rate": 0.25, "pair": [8.0, 9.0], "pair_count": 1},
    }
    again = from_dict(Options, values, "here")
    assert to_dict(again) == values and again.inner == options.inner and isinstance(again.data_dir, Path)


def test_from_dict_names_where_the_bad_value_stands():
    for values, message in (({"rat": 1}, "rat"), ({"rate": "x"}, "expected a number, got x")):
        with pytest.raises(UserError, match=f"^model.pt: .*{message}"):
            from_dict(Inner, values, "model.pt")


def test_values_of_an_option_are_found_in_both_spellings():
    words = ["--config", "a", "x", "--config=b", "--config-not", "c", "--config"]
    assert values_of("--config", words) == ["a", "b"]


@dataclass
class Command:
    first: Path = positional()  # where it begins
    others: list[Path] = positional()  # what comes after it
    count: int = 3  # how many


@pytest.mark.parametrize(
    "words",
    [
        ["a", "b c", "1", "--count", "-4"],
        ["--count", "-4", "a", "b c", "1"],
        ["a", "--count=-4", "b c", "1"],
        ["a", "b c", "--count", "-4", "1"],
    ],
)
def test_values_without_a_name_may_stand_anywhere(words):
    assert parse(Command, words) == Command(Path("a"), [Path("b c"), Path("1")], -4)


def test_values_without_a_name_are_in_the_help_and_have_to_be_given(capsys):
    with pytest.raises(SystemExit):
        parse(Command, ["--help"], program="the command")
    text = capsys.readouterr().out
    assert text.startswith("usage: the command ") and "what comes after it" in text
    with pytest.raises(UserError, match="others"):
        parse(Command, ["a", "--count", "1"])
    with pytest.raises(UserError, match="number"):
        parse(Command, ["a", "b", "--count", "x"])
