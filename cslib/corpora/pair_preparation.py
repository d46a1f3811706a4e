"""Sets of pairs from two folders, clean and noisy, whose recordings have equal names."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import soundfile

from cslib.config import UserError
from cslib.corpora.audio_files import AUDIO_SUFFIXES, Checks
from cslib.corpora.preparation import Source, Summary, prepare_set
from cslib.data.manifests import SAMPLE_RATE, Entry, read_manifest, write_set
from cslib.data.pairs import SIDES, Condition, PairedUtterances, write_conditions
from cslib.files import progress
from cslib.parallel import in_order


class Pair(NamedTuple):
    """A noisy recording and its clean speech: two files of equal name, by their paths."""

    id: str
    clean: str
    noisy: str
    speaker: str | None = None


def find_recordings(folder: Path) -> dict[str, str]:
    """All audio files below `folder`, as paths by id, in the order of the ids.

    The id is the path below `folder` without its suffix, with "-" for "/" and "_" for white space. Raises UserError
    when the folder is missing or holds no recording, or when two recordings have the same id.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; check the path")
    found: dict[str, str] = {}
    for path in sorted(folder.absolute().rglob("*")):
        if path.suffix.lower() not in AUDIO_SUFFIXES or path.name.startswith("."):
            continue
        name = re.sub(r"\s+", "_", "-".join(path.relative_to(folder.absolute()).with_suffix("").parts))
        if name in found:
            raise UserError(f"{path}: {found[name]} has the same name, {name}; rename or remove one of them")
        found[name] = str(path)
    if not found:
        raise UserError(f"{folder}: there is no recording ({', '.join(sorted(AUDIO_SUFFIXES))}) in it; check the path")
    return dict(sorted(found.items()))


def find_pairs(clean: Path, noisy: Path) -> list[Pair]:
    """The pairs of two folders, sorted by id. Raises UserError as `find_recordings`, and for one without a partner."""
    recordings, partners = find_recordings(clean), find_recordings(noisy)
    for these, others, folder in ((recordings, partners, noisy), (partners, recordings, clean)):
        alone = [path for name, path in these.items() if name not in others]
        if alone:
            raise UserError(
                f"{alone[0]}: {folder} has no recording of this name ({len(alone):,} of {len(these):,} "
                "lack a partner); add it, or remove this one"
            )
    return [Pair(name, path, partners[name]) for name, path in recordings.items()]


def refuse_unequal(pairs: list[Pair], nj: int) -> None:
    """Raise UserError, naming the file, when a recording is not as long as its partner. Only headers are read."""
    lengths = in_order(_lengths, pairs, nj)
    for pair, (clean, noisy) in zip(pairs, progress(lengths, "comparing lengths", total=len(pairs)), strict=True):
        if None not in (clean, noisy) and clean != noisy:
            raise UserError(
                f"{pair.noisy}: has {noisy:,} samples at 16 kHz and its clean partner {pair.clean} "
                f"{clean:,}; fix or remove this pair"
            )


def _lengths(pair: Pair) -> tuple[int | None, int | None]:
    return _length(pair.clean), _length(pair.noisy)


def _length(path: str) -> int | None:
    """Number of samples at 16 kHz; None when the header cannot be read, which the preparation reports."""
    try:
        header = soundfile.info(path)
    except soundfile.LibsndfileError:
        return None
    return -(-header.frames * SAMPLE_RATE // header.samplerate)


def prepare_pairs(
    folder: Path, pairs: list[Pair], checks: Checks, nj: int, conditions: dict[str, Condition] | None = None
) -> PairedUtterances:
    """Write data/<corpus>/<set>, both sides and pairs.tsv, from the pairs whose recordings are both usable.

    folder      data/<corpus>/<set>
    pairs       in strictly ascending order of id
    nj          number of processes
    conditions  SNR and noise where known, by id
    Each side is prepared, and continued, like any set. When one recording of a pair is rejected, both are left out, and
    both are in rejected.tsv.
    Raises UserError as `prepare_set` does, and when two partners differ in length (`refuse_unequal` finds that before
    anything is written).
    """
    prepare = partial(_prepare_side, folder=folder, pairs=pairs, checks=checks, nj=nj)
    summaries = {side: prepare(side) for side in SIDES}
    reasons = [dict(summaries[side].rejected) for side in SIDES]
    kept = [pair for pair in pairs if pair.clean not in reasons[0] and pair.noisy not in reasons[1]]
    if not kept:
        raise UserError(f"{folder}: every pair has a rejected recording; see rejected.tsv in clean and noisy there")
    if any(_ids(folder / side) != [pair.id for pair in kept] for side in SIDES):
        for side in SIDES:
            # Without the cuts the side is listed again, from its journal: an earlier run may have left out more pairs.
            (folder / side / "cuts.jsonl.gz").unlink(missing_ok=True)
            _leave_out(folder / side, side, pairs, kept, prepare(side))
    known = conditions or {}
    write_conditions(folder, {pair.id: known.get(pair.id, Condition()) for pair in kept})
    utterances = PairedUtterances.open(folder)
    for side in SIDES:
        print(summaries[side])
    print(f"{folder}: {len(kept):,} pairs, {len(pairs) - len(kept):,} left out")
    return utterances


def _prepare_side(side: str, folder: Path, pairs: list[Pair], checks: Checks, nj: int) -> Summary:
    audio = (folder / side / "audio").absolute()
    sources = (Source(pair.id, getattr(pair, side), str(audio / f"{pair.id}.flac"), pair.speaker) for pair in pairs)
    return prepare_set(folder / side, sources, checks, nj, total=len(pairs))


def _ids(folder: Path) -> list[str]:
    return [item["id"] for item in read_manifest(folder / "cuts.jsonl.gz")]


def _leave_out(folder: Path, side: str, pairs: list[Pair], kept: list[Pair], summary: Summary) -> None:
    """List the recordings of a side whose pairs are kept, and reject the others."""
    if len(kept) == len(pairs):
        return
    speakers = {pair.id: pair.speaker for pair in kept}
    own = {path for path, _ in summary.rejected}
    other = SIDES[1 - SIDES.index(side)]
    partners = [
        (getattr(pair, side), f"no partner: {getattr(pair, other)} is rejected")
        for pair in pairs
        if pair.id not in speakers and getattr(pair, side) not in own
    ]
    entries = [
        Entry(item["id"], item["sources"][0]["source"], item["num_samples"], speakers[item["id"]])
        for item in read_manifest(folder / "recordings.jsonl.gz")
        if item["id"] in speakers
    ]
    write_set(folder, entries, [*summary.rejected, *partners])
