"""Options from YAML files and the command line, and the one place where a script starts and ends.

A script declares its options as a dataclass. The comment beside a field, or on the line above it, is its help text::

    @dataclass
    class Options:
        cuts: Path                     # data/<set>
        batch_seconds: float = 120.0   # audio per batch; lower it when memory is short

    if __name__ == "__main__":
        run(main, Options)

On the command line an option is written with dashes, `--batch-seconds 60`; options of a section have dots and their
names in the config file, `--training.batch_size 32`. Underscores and dashes are accepted everywhere. Config files have
the names of the fields.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import io
import itertools
import keyword
import os
import re
import sys
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args, get_type_hints

import yaml
from jsonargparse import SUPPRESS, ArgumentParser, DefaultHelpFormatter, Namespace
from jsonargparse.typing import register_type

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


class UserError(Exception):
    """Something the user can fix. The message is one sentence: what it is about, what is wrong, what to do."""


def require(good: bool, name: str, value: object, wanted: str) -> None:
    """Check one option; raise UserError("<name> is <value>; it must be <wanted>") unless `good`.

    name    full name of the option, as in "training.batch_size"
    wanted  completes the sentence, as in "at least 1" or "a probability from 0 to 1"
    """
    if not good:
        raise UserError(f"{name} is {value}; it must be {wanted}")


class Part:
    """The i-th of n equal shares of some work, written "i/n", so that any job launcher can distribute it.

    Raises ValueError unless 1 <= i <= n.
    """

    def __init__(self, text: str | Part = "1/1") -> None:
        match = re.fullmatch(r"(\d+)/(\d+)", str(text))
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"a part is written i/n with 1 <= i <= n, not {text!r}")
        self.index, self.count = int(match[1]), int(match[2])

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def slice(self, total: int) -> slice:
        """This share of `total` items, as a half-open range."""
        return slice((self.index - 1) * total // self.count, self.index * total // self.count)


register_type(Part)


def run(
    main: Callable[[Options], Any],
    options: type[Options] | Callable[[], type[Options]],
    argv: list[str] | None = None,
    description: str | None = None,
    program: str | None = None,
    interrupted: str = "interrupted; the same command continues the work",
) -> None:
    """Parse the command line, call `main`, and end with one sentence and status 1 on a UserError.

    options      a dataclass, or a function that makes one, if the fields depend on the command line
    argv         words of the command line (default: sys.argv[1:])
    description  first paragraph of --help (default: the docstring of the script)
    program      name of the command in --help (default: the name of the script)
    interrupted  message after Ctrl-C
    """
    try:
        kind: type[Options] = options if isinstance(options, type) else options()
        main(parse(kind, argv, description or inspect.getdoc(sys.modules["__main__"]), program))
    except UserError as error:
        sys.exit(f"error: {_sentence(error)}")
    except KeyboardInterrupt:
        sys.exit(interrupted)
    except BrokenPipeError:  # the reader has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def positional() -> Any:
    """A field that is given without its name. Of type list[...], it takes one or more values.

    If a command has such a field, each of its options needs a value, flags too.
    """
    return dataclasses.field(metadata={"positional": True})


def parse(
    options: type[Options], argv: list[str] | None = None, description: str | None = None, program: str | None = None
) -> Options:
    """Read the command line (default: sys.argv[1:]) and its --config YAML files into the dataclass `options`.

    `--flag` alone means true. Raises UserError for an unknown option or a bad value.
    """
    argv = [_underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    argv = _flags_spelt_out(options, with_bases(argv))
    if any(word.partition("=")[0] == "--like" for word in argv):
        raise UserError("there is no option --like; `like:` belongs in a config file")
    parser = _parser(options, description, program)
    if _positional(options):
        argv = _options_first(argv)
    try:
        return _build(options, parser.parse_args(argv), parser)
    except _ParseError as error:
        raise UserError(_with_dashes(str(error), set(_positional(options)))) from None


def from_dict(kind: type[Options], values: dict[str, Any], where: str) -> Options:
    """Make a dataclass from nested dictionaries. Raises UserError, which names `where`, for a bad key or value."""
    parser = _parser(kind, None)
    try:
        return _build(kind, parser.parse_object(values), parser)
    except _ParseError as error:
        raise UserError(f"{where}: {error}") from None


def to_dict(config: Any) -> Any:
    """A dataclass as nested dictionaries, lists, numbers and strings, for YAML and for checkpoints."""
    if dataclasses.is_dataclass(config):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [to_dict(value) for value in config]
    if isinstance(config, dict):
        return {key: to_dict(value) for key, value in config.items()}
    return config if isinstance(config, (int, float, bool, type(None))) else str(config)


def find(package: str, name: str) -> Any:
    """Import the module cslib.<package>.<name>, or cslib.<package>.<name>.objective, that defines `build`.

    package  as in "models" or "evaluation.scorings"
    Helper modules of the package do not define it and are not found. Raises UserError, which lists the names.
    """
    known, name = known_names(package), str(name)  # a config file may have anything there
    if name not in known:
        raise UserError(f"{name!r} is not one of cslib/{package.replace('.', '/')}: {', '.join(sorted(known))}")
    return importlib.import_module(known[name])


def known_names(package: str) -> dict[str, str]:
    """{name: module} of everything that `find` finds in a package."""
    folder = Path(__file__).parent.joinpath(*package.split("."))
    paths = {path.stem: path for path in folder.glob("*.py")} | {
        path.parent.name: path for path in folder.glob("*/objective.py")
    }
    return {
        name: ".".join(["cslib", package, *path.relative_to(folder).with_suffix("").parts])
        for name, path in sorted(paths.items())
        if re.search(r"^def build\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


def values_of(option: str, argv: list[str]) -> list[str]:
    """The values of an option on a command line that cannot be parsed yet."""
    pairs = zip(argv, [*argv, ""][1:], strict=True)
    return [
        word.partition("=")[2] or following
        for word, following in pairs
        if (word == option and following) or word.startswith(f"{option}=")
    ]


def with_bases(argv: list[str]) -> list[str]:
    """The command line with the bases of each --config file, which `like:` names, inserted before it.

    Raises UserError when a file is missing, is not YAML, or is its own base.
    """
    words: list[str] = []
    for word, before in zip(argv, ["", *argv], strict=False):
        if word.startswith("--config="):
            words += [f"--config={path}" for path in _bases_and(Path(word.partition("=")[2]))]
        elif before == "--config":
            *bases, path = _bases_and(Path(word))
            words[-1:] = [f"--config={base}" for base in bases] + ["--config", str(path)]
        else:
            words.append(word)
    return words


def _bases_and(path: Path, seen: tuple[Path, ...] = ()) -> list[Path]:
    if path in seen:
        raise UserError(f"{path}: is its own base; remove a `like:`")
    base = load_yaml(path).get("like")
    return [*(_bases_and(path.parent / str(base), (*seen, path)) if base else []), path]


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of `key: value` lines. Raises UserError when it is missing or is something else."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such config file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())
        raise UserError(f"{path}: not valid YAML ({problem})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines")
    return values


class _ParseError(Exception):
    pass


class _HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


class _Parser(ArgumentParser):
    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        text = _OPTION.sub(lambda found: _dashed(found[1]), super().format_help(formatter))
        return re.sub(r"<class\s+'(?:\w+\.)*(\w+)'>", r"\1", text)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise _ParseError(_plain(str(message))) from ex


_OPTION = re.compile(r"(?<![\w-])--(\w[\w.]*)")  # as jsonargparse writes it, with underscores


def _dashed(name: str) -> str:
    """The name of a field as an option: min_speech -> --min-speech, in_ -> --in, training.batch_size unchanged."""
    top, dot, below = name.partition(".")
    return "--" + top.rstrip("_").replace("_", "-") + dot + below


def _with_dashes(message: str, positional: set[str]) -> str:
    """A message about fields as one about options."""
    message = _OPTION.sub(lambda found: _dashed(found[1]), message)
    message = re.sub(r"^option ([\w.]+):", lambda found: _shown(found[1], positional) + ":", message)
    start, required, names = message.partition("arguments are required: ")
    return start + required + ", ".join(_shown(name, positional) for name in names.split(", ")) if required else message


def _shown(name: str, positional: set[str]) -> str:
    return name if name in positional else _dashed(name)


def _plain(message: str) -> str:
    """A message of jsonargparse on one line, without its internal terms."""
    text = "; ".join(line.strip() for line in message.splitlines() if line.strip())
    for pattern, words in _WORDS.items():
        text = re.sub(pattern, words, text)
    return text


_WORDS = {
    r"Parser key \"([^\"]+)\":;?": r"option \1:",
    r"a <class 'float'>": "a number",
    r"a <class 'int'>": "a whole number",
    r"a <class 'bool'>": "true or false",
    r"<class '(?:\w+\.)*(\w+)'>": r"\1",
    r"Not of type \w+: ": "",
    r": Expected ": ": expected ",
    r"\. Got value: ": ", got ",
    r"Group '([^']+)' does not accept option '([^']+)'": r"there is no option \1.\2",
    r"Option '([^']+)' is not accepted": r"there is no option \1",
    # What follows an unknown option need not be its value: _options_first has moved the words.
    r"unrecognized arguments: (-[^\s=]+).*": r"there is no option \1; --help lists the options",
    r"unrecognized arguments: ": "one word too many: ",
}


def _sentence(error: UserError) -> str:
    """The message alone. From a loader process, it arrives with the traceback of that process before it."""
    return str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.UserError: ")


def _underscored(word: str) -> str:
    name, equals, value = word.partition("=")
    if not word.startswith("--"):
        return word
    name = name.replace("-", "_").replace("__", "--", 1)
    # `in` is a keyword, so the option --in has the field `in_`.
    return name + ("_" if keyword.iskeyword(name[2:]) else "") + equals + value


def _flags_spelt_out(options: type, argv: list[str]) -> list[str]:
    flags = {f"--{field.name}" for field in dataclasses.fields(options) if isinstance(field.default, bool)}
    return [
        f"{word}=true" if word in flags and (not following or following.startswith("--")) else word
        for word, following in zip(argv, [*argv, ""][1:], strict=True)
    ]


def _positional(options: type) -> list[str]:
    return [field.name for field in dataclasses.fields(options) if field.metadata.get("positional")]


def _options_first(argv: list[str]) -> list[str]:
    """Options with their values first, then the other words, because argparse takes those in one place only."""
    named, others, words = [], [], iter(argv)
    for word in words:
        if not word.startswith("-"):
            others.append(word)
        elif "=" in word or word in ("-h", "--help", "--print_config"):
            named.append(word)
        else:
            named += [word, *itertools.islice(words, 1)]
    return named + others


def _parser(options: type, description: str | None, program: str | None = None) -> _Parser:
    _describe(options)
    parser = _Parser(prog=program, description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file with any of these options, named with underscores: `batch_size: 32`; a line "
        "`like: other.yaml` takes all others from that file, a path relative to this one",
    )
    parser.add_argument("--like", help=SUPPRESS)
    unnamed = _positional(options)
    parser.add_class_arguments(options, skip=set(unnamed))
    for name in unnamed:
        kind = get_type_hints(options)[name]
        several = {"type": get_args(kind)[0], "nargs": "+"} if get_args(kind) else {"type": kind}
        parser.add_argument(name, help=_field_comments(options).get(name), **several)
    return parser


def _build(options: type[Options], values: Namespace, parser: _Parser) -> Options:
    _refuse_non_sections(options, values)
    values = parser.instantiate(values)
    return options(**{field.name: values[field.name] for field in dataclasses.fields(options)})


def _refuse_non_sections(options: type, values: Namespace, prefix: str = "") -> None:
    """Raise _ParseError for `training: 3` where a section is expected: jsonargparse does not check that."""
    hints = get_type_hints(options)
    for field in dataclasses.fields(options):
        kind, value = hints[field.name], values.get(field.name)
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            continue
        if not isinstance(value, Namespace):
            raise _ParseError(f"option {prefix}{field.name}: expected a section of `key: value` lines, got {value}")
        _refuse_non_sections(kind, value, f"{prefix}{field.name}.")


def _describe(options: type) -> None:
    """Write the help text of each field into the docstrings of the class and its sections, as jsonargparse wants it.

    The help text is the comment beside the field, or metadata["help"] of a field that was made without source code.
    """
    for field in dataclasses.fields(options):
        section = field.default_factory
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            _describe(section)
    comments: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        if dataclasses.is_dataclass(kind):
            comments |= _field_comments(kind)
    comments |= {
        field.name: field.metadata["help"] for field in dataclasses.fields(options) if "help" in field.metadata
    }
    summary = (options.__doc__ or "").split("\n\nArgs:")[0]
    if summary.startswith(f"{options.__name__}("):  # the default of @dataclass
        summary = options.__name__
    lines = [f"    {name}: {text}" for name, text in comments.items() if text]
    options.__doc__ = "\n".join([summary, "", "Args:", *lines]) if lines else summary


def _field_comments(kind: type) -> dict[str, str]:
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # a class without source code
        return {}
    comments, above = {}, ""
    for line in source.splitlines():
        comment = _comment(line)
        field = re.match(r"\s+(\w+)\s*:", line)
        if field:
            comments[field[1]] = comment or above
        above = comment if comment and not field else ""
    return comments


def _comment(line: str) -> str:
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(line.strip()).readline))
    except (tokenize.TokenError, IndentationError):
        return ""
    return next((t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT), "")


__all__ = [
    "Part",
    "UserError",
    "find",
    "from_dict",
    "known_names",
    "load_yaml",
    "parse",
    "positional",
    "require",
    "run",
    "to_dict",
    "values_of",
    "with_bases",
]
