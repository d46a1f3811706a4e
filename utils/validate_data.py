"""Check that a set, data/<set>, is valid; if not, print the first offenders and end with status 1.

    python utils/validate_data.py data/folder/train           # manifests, and headers of 1,000 recordings
    python utils/validate_data.py data/folder/train --full    # headers of all recordings

Ids must be sorted and unique; recordings, supervisions, cuts, speakers.tsv, trials and shards must agree; no speaker
may appear outside speakers.tsv; audio files must exist with the sampling rate and length that the manifests state.
"""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import soundfile

from cslib.config import UserError, run
from cslib.data.manifests import MANIFESTS, SAMPLE_RATE, read_manifest
from cslib.data.trials import read_trials
from cslib.files import progress, read_json

SHOWN = 5  # printed offenders of each kind
SAMPLED = 1000  # headers that are read without --full


@dataclass
class Options:
    data: Path  # data/<set>
    full: bool = False  # read the headers of all recordings
    threads: int = 16  # number of threads that read headers


@dataclass
class Problems:
    """Offenders by kind: their number, and the first few."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, offender: str) -> None:
        """Count an offender."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= SHOWN:
            self.first.setdefault(kind, []).append(offender)

    def __str__(self) -> str:
        return "\n".join(
            f"{kind}: {count:,}, the first: {'; '.join(self.first[kind])}" for kind, count in self.counts.items()
        )


def main(options: Options) -> None:
    if not options.data.is_dir():
        raise UserError(f"{options.data}: there is no such folder")
    problems = Problems()
    utterances, samples = check_lists(options.data, problems)
    speakers = check_speakers(options.data, problems)
    trials = check_trials(options.data, problems)
    check_shards(options.data, problems)
    wanted = utterances if options.full else SAMPLED
    headers = check_audio(options.data, wanted, utterances, options.threads, problems)
    if problems.counts:
        raise UserError(f"{options.data}: not valid\n{problems}")
    labelled = f" of {speakers:,} speakers" if speakers else ", no speakers"
    print(
        f"{options.data}: valid, {utterances:,} utterances{labelled}, "
        f"{samples / SAMPLE_RATE / 3600:,.2f} h, {trials:,} trials, {headers:,} headers read"
    )


def check_lists(data: Path, problems: Problems) -> tuple[int, int]:
    """Compare the three manifests line by line; return (utterances, samples)."""
    paths = [data / f"{name}.jsonl.gz" for name in MANIFESTS]
    previous, count, samples = "", 0, 0
    for count, items in enumerate(zip_longest(*map(read_manifest, paths)), start=1):  # noqa: B007
        if None in items:
            problems.add("lists of different lengths", f"line {count} is not in all three")
            break
        recording, supervision, cut = items
        if len({item["id"] for item in items} | {supervision.get("recording_id")}) > 1:
            problems.add("ids that differ between the lists", " / ".join(item["id"] for item in items))
        if recording["id"] <= previous:
            problems.add("ids repeated or not sorted", f"{recording['id']} after {previous}")
        if any(map(names_speaker, items)):
            problems.add("a speaker outside speakers.tsv", recording["id"])
        try:
            for complaint in complaints(recording, supervision, cut):
                problems.add(complaint, recording["id"])
            samples += round(cut["duration"] * SAMPLE_RATE)
        except (KeyError, TypeError):
            problems.add("items that lack a field", recording["id"])
        previous = recording["id"]
    return count, samples


def names_speaker(item: Any) -> bool:
    """Whether a manifest item has a speaker, at any depth."""
    if isinstance(item, dict):
        return item.get("speaker") is not None or any(map(names_speaker, item.values()))
    return isinstance(item, list) and any(map(names_speaker, item))


def complaints(recording: dict[str, Any], supervision: dict[str, Any], cut: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with one utterance."""
    duration = recording["num_samples"] / SAMPLE_RATE
    if recording["sampling_rate"] != SAMPLE_RATE or recording["channel_ids"] != [0]:
        yield "recordings that are not 16 kHz mono"
    if abs(recording["duration"] - duration) * SAMPLE_RATE > 0.5 or supervision["duration"] != cut["duration"]:
        yield "durations that disagree with the number of samples"
    if cut["start"] < 0 or (cut["start"] + cut["duration"] - duration) * SAMPLE_RATE > 0.5 or cut["type"] != "MonoCut":
        yield "cuts that reach beyond their recording"
    if supervision["start"] != cut["start"]:
        yield "supervisions that do not span their cut"
    if cut["recording"] != recording or cut["supervisions"] != [{**supervision, "start": 0.0}]:
        yield "cuts that disagree with recordings or supervisions"


def check_speakers(data: Path, problems: Problems) -> int:
    """Check that speakers.tsv lists the same utterances in the same order; return the number of speakers, or 0."""
    path = data / "speakers.tsv"
    speakers: set[str] = set()
    if not path.exists():
        return 0
    with open(path, encoding="utf-8") as lines:
        header = next(lines, "").rstrip("\n").split("\t")
        if header[:2] != ["utterance", "speaker"]:
            problems.add("a wrong header", f"{path}: {header}, expected utterance and speaker first")
            return 0
        pairs = zip_longest(lines, read_manifest(data / "cuts.jsonl.gz"))
        for number, (line, item) in enumerate(pairs, start=2):
            row = line.rstrip("\n").split("\t") if line else []
            if item is None or row[:1] != [item["id"]]:
                problems.add("speakers.tsv and cuts differ", f"line {number}, {item['id'] if item else 'no cut'}")
            if line and (len(row) != len(header) or not all(row)):
                problems.add("malformed lines in speakers.tsv", f"line {number}")
            speakers.update(row[1:2])
    return len(speakers)


def check_trials(data: Path, problems: Problems) -> int:
    """Check that trials name utterances of the set and agree with speakers.tsv; return their number."""
    lists = {path.name: read_trials(path) for path in sorted((data / "trials").glob("*.txt"))}
    if not lists:
        return 0
    present = {item["id"] for item in read_manifest(data / "cuts.jsonl.gz")}
    speaker_of = _speakers(data / "speakers.tsv")
    for name, trials in lists.items():
        for unknown in (id for id in trials.ids if id not in present):
            problems.add(f"utterances of {name} that are not in the set", unknown)
        for enrol, test, target in zip(trials.enrol, trials.test, trials.targets, strict=True):
            known = enrol in speaker_of and test in speaker_of
            if known and (speaker_of[enrol] == speaker_of[test]) != target:
                problems.add(f"trials of {name} that contradict speakers.tsv", f"{enrol} {test}")
    return sum(map(len, lists.values()))


def _speakers(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    with open(path, encoding="utf-8") as lines:
        rows = (line.rstrip("\n").split("\t") for line in islice(lines, 1, None))
        return {row[0]: row[1] for row in rows if len(row) > 1}


def check_shards(data: Path, problems: Problems) -> None:
    """Check that shards were packed from the present lists."""
    if not (data / "shards").exists():
        return
    digest = hashlib.sha256((data / "cuts.jsonl.gz").read_bytes()).hexdigest()
    if not (data / "shards.json").exists() or _packed_from(data / "shards.json") != digest:
        problems.add("shards packed from other lists", f"{data / 'shards'}, delete it and pack again")


def _packed_from(path: Path) -> str | None:
    plan = read_json(path)
    return plan.get("cuts_sha256") if isinstance(plan, dict) else None


def check_audio(data: Path, wanted: int, utterances: int, threads: int, problems: Problems) -> int:
    """Read `wanted` headers, evenly spread over the set; return the number read."""
    step = max(1, utterances // max(wanted, 1))
    recordings = islice(read_manifest(data / "recordings.jsonl.gz"), None, None, step)
    read = 0
    with ThreadPoolExecutor(threads) as pool:
        results = _ahead(pool, recordings, 64 * threads)
        for read, (path, complaint) in enumerate(  # noqa: B007
            progress(results, "reading headers", total=-(-utterances // step)), start=1
        ):
            if complaint:
                problems.add(complaint, path)
    return read


def _ahead(pool: ThreadPoolExecutor, recordings: Iterator[dict[str, Any]], most: int) -> Iterator[tuple[str, str]]:
    pending: deque = deque()
    for recording in recordings:
        pending.append(pool.submit(header_complaint, recording))
        if len(pending) > most:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def header_complaint(recording: dict[str, Any]) -> tuple[str, str]:
    """(path, what is wrong with the file, or nothing)."""
    try:
        path, expected = recording["sources"][0]["source"], recording["num_samples"]
    except (KeyError, IndexError, TypeError):
        return recording["id"], "recordings without an audio file or a length"
    if not Path(path).is_absolute():
        return path, "audio paths that are not absolute"
    if not Path(path).is_file():
        return path, "audio files that are not there"
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError:
        return path, "audio files that cannot be read"
    if (info.samplerate, info.channels) != (SAMPLE_RATE, 1):
        return path, "audio files that are not 16 kHz mono"
    same = info.frames == expected
    return path, "" if same else "audio files of another length than listed"


def _spelt_out(words: list[str]) -> list[str]:
    """The command line with --data before a folder that is given without it."""
    return ["--data", *words] if words and not words[0].startswith("-") else words


if __name__ == "__main__":
    sys.argv[1:] = _spelt_out(sys.argv[1:])
    run(main, Options)
