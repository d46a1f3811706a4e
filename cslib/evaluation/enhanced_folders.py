"""Score a folder of enhanced recordings against the folder of the clean ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import soundfile

from cslib.config import UserError
from cslib.corpora.audio_files import SOUNDFILE_SUFFIXES
from cslib.data.manifests import SAMPLE_RATE, recordings_of_set
from cslib.evaluation.speech_quality import MEASURES, measure
from cslib.files import progress, write_lines
from cslib.parallel import in_order

Result = TypeVar("Result")

REPLICATES = 2000  # of the bootstrap; the ends of intervals vary by about 2 % of the width
HELD = 4_000_000  # values that the bootstrap holds at once


class Pair(NamedTuple):
    """A clean recording and the enhanced one, of the same name within their folders; name has no suffix."""

    name: str
    clean: Path
    enhanced: Path


@dataclass(frozen=True)
class Scores:
    """The measures of every pair.

    names     [n]
    values    [n, len(MEASURES)]; NaN where a measure is undefined
    reasons   [n] why measures are undefined; empty for a pair that has all measures
    """

    names: list[str]
    values: np.ndarray
    reasons: list[str]

    def failures(self) -> list[tuple[str, str]]:
        """(name, reason) of each pair that lacks a measure. Such pairs are left out of all means."""
        return [(name, reason) for name, reason in zip(self.names, self.reasons, strict=True) if reason]

    def only(self, kept: np.ndarray) -> Scores:
        """The scores of the pairs that `kept`, bool [n], marks."""
        return Scores(
            [name for name, keep in zip(self.names, kept, strict=True) if keep],
            self.values[kept],
            [reason for reason, keep in zip(self.reasons, kept, strict=True) if keep],
        )

    def means(self) -> dict[str, float]:
        """{measure: mean} over the pairs that have every measure."""
        return dict(zip(MEASURES, self._whole().mean(axis=0).tolist(), strict=True))

    def intervals(self, replicates: int = REPLICATES, seed: int = 0) -> dict[str, tuple[float, float]]:
        """{measure: 95 % percentile interval (low, high) of its mean}, by a bootstrap over the pairs.

        It covers the choice of recordings, not that of the training seed.
        """
        low, high = np.quantile(resampled_means(self._whole(), replicates, seed), [0.025, 0.975], axis=0)
        return dict(zip(MEASURES, zip(low.tolist(), high.tolist(), strict=True), strict=True))

    def write(self, path: Path) -> None:
        """Write a tab-separated table, one line per pair; "-" stands for no value or no reason."""
        rows = (
            [name, *(f"{value:.6f}" if np.isfinite(value) else "-" for value in values), reason or "-"]
            for name, values, reason in zip(self.names, self.values, self.reasons, strict=True)
        )
        write_lines(path, map("\t".join, [["file", *MEASURES, "reason"], *rows]))

    @classmethod
    def read(cls, path: Path) -> Scores:
        """Read what `write` wrote. Raises UserError for any other file."""
        try:
            header, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
            if header != ["file", *MEASURES, "reason"]:
                raise ValueError(header)
            values = [[np.nan if value == "-" else float(value) for value in row[1:-1]] for row in rows]
            return cls(
                [row[0] for row in rows],
                np.array(values).reshape(len(rows), len(MEASURES)),
                ["" if row[-1] == "-" else row[-1] for row in rows],
            )
        except (OSError, ValueError):
            raise UserError(f"{path}: not a table of measures; score the recordings again") from None

    def _whole(self) -> np.ndarray:
        whole = self.values[[not reason for reason in self.reasons]]
        if not len(whole):
            name, reason = self.failures()[0]
            raise UserError(
                f"all {len(self.names):,} recordings lack some measure, e.g. {name} ({reason}); listen to some of them"
            )
        return whole


def resampled_means(values: np.ndarray, replicates: int = REPLICATES, seed: int = 0) -> np.ndarray:
    """Means [replicates, K] over n rows of values [n, K] drawn with replacement, in constant memory."""
    rng, rows = np.random.default_rng(seed), len(values)
    at_once = max(1, HELD // values.size)
    counts = [min(at_once, replicates - start) for start in range(0, replicates, at_once)]
    return np.concatenate([values[rng.integers(rows, size=(count, rows))].mean(axis=1) for count in counts])


def measured_in_all(found: dict[str, Scores]) -> np.ndarray:
    """bool [n]: the pairs that have all measures with every system, so that means are comparable.

    Raises UserError when the systems were scored on different recordings, or there is no such pair.
    """
    (first, reference), *others = found.items()
    for name, scores in others:
        if scores.names != reference.names:
            raise UserError(f"{name} and {first} were scored on different recordings; score them again")
    whole = np.array([not any(reasons) for reasons in zip(*(scores.reasons for scores in found.values()), strict=True)])
    if not whole.any():
        raise UserError(f"no recording has all measures with each of {', '.join(found)}; listen to some of them")
    return whole


def score_folders(clean: Path, enhanced: Path, nj: int = 1) -> Scores:
    """Compute all measures of all pairs in `nj` processes; the result does not depend on their number.

    Raises UserError as `pair_folders` does, and for a file that cannot be decoded or has samples that are not finite.
    """
    pairs = pair_folders(clean, enhanced)
    done = list(progress(in_order(score_pair, pairs, nj, chunk=4), f"scoring {enhanced.name}", total=len(pairs)))
    values = np.array([[scored.get(name, np.nan) for name in MEASURES] for scored, _ in done])
    return Scores([pair.name for pair in pairs], values, [reason for _, reason in done])


def score_pair(pair: Pair) -> tuple[dict[str, float], str]:
    """All measures of one pair, and why some are undefined."""
    try:
        return measure(_read(pair.clean), _read(pair.enhanced))
    except ValueError as error:
        raise UserError(f"{pair.enhanced}: cannot be scored against {pair.clean}: {error}; make it again") from None


def pair_folders(clean: Path, enhanced: Path) -> list[Pair]:
    """Pairs of recordings of the same name, sorted; names include subfolders, but no suffix.

    Either folder can be a set, such as data/<corpus>/<set>/clean; names are ids then. Only headers are read.
    Raises UserError when a folder is missing or empty, a recording has no partner or two, or a file is not audio, not
    16 kHz mono, or not as long as its partner.
    """
    clean_paths, enhanced_paths = _recordings(clean), _recordings(enhanced)
    _refuse_partnerless(clean_paths, enhanced_paths, f"{enhanced}: has no enhanced version of", clean)
    _refuse_partnerless(enhanced_paths, clean_paths, f"{clean}: has no clean version of", enhanced)
    pairs = [Pair(name, clean_paths[name], enhanced_paths[name]) for name in sorted(clean_paths)]
    for pair in progress(pairs, "reading headers"):
        lengths = _length(pair.clean), _length(pair.enhanced)
        if lengths[0] != lengths[1]:
            raise UserError(
                f"{pair.enhanced}: has {lengths[1]:,} samples, and the clean recording {pair.clean} {lengths[0]:,}; "
                "both must have the same length"
            )
    return pairs


def _recordings(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check the path")
    if (folder / "cuts.jsonl.gz").exists():
        return recordings_of_set(folder)
    paths: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SOUNDFILE_SUFFIXES and not path.name.startswith("."):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in paths:
                raise UserError(f"{path}: has the same name as {paths[name].name} beside it; remove one of them")
            paths[name] = path
    if not paths:
        raise UserError(f"{folder}: has no audio file ({', '.join(sorted(SOUNDFILE_SUFFIXES))}); check the path")
    return paths


def _refuse_partnerless(names: dict[str, Path], partners: dict[str, Path], what: str, folder: Path) -> None:
    missing = sorted(names.keys() - partners.keys())
    if missing:
        raise UserError(
            f"{what} {len(missing):,} of the {len(names):,} recordings in {folder}, e.g. {missing[0]}; add what is "
            "missing, or score folders with the same names"
        )


def _length(path: Path) -> int:
    """Samples of a 16 kHz mono recording, from its header."""
    header = _decoded(path, lambda: soundfile.info(path))
    if (header.samplerate, header.channels) != (SAMPLE_RATE, 1):
        raise UserError(
            f"{path}: {header.samplerate} Hz with {header.channels} channels, expected {SAMPLE_RATE} Hz mono; resample "
            "both folders in the same way, before enhancement"
        )
    return header.frames


def _read(path: Path) -> np.ndarray:
    return _decoded(path, lambda: soundfile.read(path, dtype="float64")[0])


def _decoded(path: Path, read: Callable[[], Result]) -> Result:
    try:
        return read()
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path}: cannot be read ({error.error_string}); make or copy it again") from None
