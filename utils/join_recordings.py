"""Join short recordings of known speakers into long ones, to measure how recordings of several speakers are treated.

    python utils/join_recordings.py --speakers recordings --out joined            # recordings/<speaker>/.../*.wav
    python utils/join_recordings.py --table speakers.tsv --recordings recordings --out joined
    python utils/join_recordings.py --judge data/joined/train --joins joined/joins.tsv

Makes <out>/one/*.flac of one speaker each, <out>/several/*.flac of 2, 3 and 4 speakers in turns of 3 to 15 s, and
<out>/joins.tsv, which has a line for every recording that was joined: file, speaker, first and last sample. Silence at
the ends of the recordings is cut off, and pauses of 0.2 to 1 s are put between them. No recording occurs twice in a
file, so a file ends early when its speakers have no more.

--judge says how well a set that local/prepare_folder.py made of <out> tells the two apart, or, when it was made with
--pieces, how many pieces have one speaker.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from cslib.config import UserError, require, run
from cslib.corpora.audio_files import reading
from cslib.corpora.folders import relative_audio_paths
from cslib.data.manifests import SAMPLE_RATE, read_manifest
from cslib.data.utterances import Utterances
from cslib.files import progress, write_lines, writing
from cslib.inference.several_speakers import SUSPICIOUS, judge
from cslib.inference.stretches import speech_of
from cslib.models.layers.features import FRAME_SHIFT

COLUMNS = ("file", "speaker", "first", "last")


@dataclass
class Options:
    speakers: Path | None = None  # folder with a folder of recordings per speaker
    table: Path | None = (
        None  # tab-separated table instead, with columns utterance (file name without suffix) and speaker
    )
    recordings: Path | None = None  # folder of the recordings that --table names
    out: Path = Path("joined")  # folder to make
    one: int = 180  # number of files of one speaker
    several: int = 180  # number of files of several speakers
    shortest: float = 20.0  # length of a file in seconds; lengths are spread evenly on a logarithmic scale
    longest: float = 300.0  # likewise
    shortest_pause: float = 0.2  # between joined recordings, in seconds
    longest_pause: float = 1.0  # likewise
    gain: float = 0.0  # standard deviation of a random gain of every joined recording, in dB
    seed: int = 0
    judge: Path | None = None  # data/<corpus>/train made of the joined files: judge it instead
    joins: Path = Path("joined/joins.tsv")  # for --judge
    nj: int = 1  # number of processes, for --judge


def main(options: Options) -> None:
    if options.judge:
        print("\n".join(verdict(options.judge, options.joins, options.nj)))
        return
    require((options.speakers is None) != (options.table is None), "--speakers", options.speakers, "given, or --table")
    found = from_table(options) if options.table else from_folders(options.speakers)
    if len(found) < 4:
        raise UserError(f"there are {len(found)} speakers; 4 are needed")
    rng, lines, names = np.random.default_rng(options.seed), ["\t".join(COLUMNS)], sorted(found)
    for number in progress(range(options.one + options.several), "joining recordings"):
        several = number >= options.one
        count = 2 + number % 3 if several else 1
        chosen = rng.choice(names, count, replace=False) if several else [names[number % len(names)]]
        seconds = float(np.exp(rng.uniform(np.log(options.shortest), np.log(options.longest))))
        name = f"{'several' if several else 'one'}/{number:04d}"
        parts = list(turns({speaker: found[speaker] for speaker in chosen}, seconds, rng))
        lines += [f"{name}\t{line}" for line in join(parts, options.out / f"{name}.flac", options, rng)]
    write_lines(options.out / "joins.tsv", lines)


def from_folders(folder: Path) -> dict[str, list[Path]]:
    found = defaultdict(list)
    for path in sorted(relative_audio_paths(folder)):
        found[path.partition("/")[0]].append(folder / path)
    return found


def from_table(options: Options) -> dict[str, list[Path]]:
    paths = {Path(path).stem: options.recordings / path for path in relative_audio_paths(options.recordings)}
    found = defaultdict(list)
    with open(options.table, encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["utterance"] in paths:
                found[row["speaker"]].append(paths[row["utterance"]])
    return found


def turns(pools: dict[str, list[Path]], seconds: float, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """(speaker, speech) in turns of 3 to 15 s, until the file is long enough or a speaker has no recording left."""
    left = {speaker: [paths[at] for at in rng.permutation(len(paths))] for speaker, paths in pools.items()}
    speaker, total = str(rng.choice(list(left))), 0.0
    while total < seconds:
        turn, said = rng.uniform(3, 15), 0.0
        while said < turn and total < seconds:
            if not left[speaker]:
                return
            speech = trimmed(left[speaker].pop())
            said, total = said + len(speech) / SAMPLE_RATE, total + len(speech) / SAMPLE_RATE
            yield speaker, speech
        others = [name for name in left if name != speaker]
        speaker = str(rng.choice(others)) if others else speaker


def trimmed(path: Path) -> np.ndarray:
    """float32 [n] from the first to the last speech of a recording."""
    with reading(path) as (_, blocks):
        samples = np.concatenate(list(blocks))
    voiced = np.flatnonzero(speech_of(lambda start, frames: samples[start : start + frames] * 32768, len(samples)))
    return samples[voiced[0] * FRAME_SHIFT : (voiced[-1] + 1) * FRAME_SHIFT] if len(voiced) else samples


def join(parts: list[tuple[str, np.ndarray]], path: Path, options: Options, rng: np.random.Generator) -> Iterator[str]:
    """Write the file, with faint noise in the pauses; yield speaker, first and last sample of each part."""
    place, samples = 0, []
    for speaker, speech in parts:
        gained = speech * 10 ** (rng.normal(0, options.gain) / 20)
        pause = round(rng.uniform(options.shortest_pause, options.longest_pause) * SAMPLE_RATE)
        samples += [gained, rng.normal(0, 1e-4, pause)]
        yield f"{speaker}\t{place}\t{place + len(speech)}"
        place += len(speech) + pause
    with writing(path) as temporary:  # which makes the folder
        soundfile.write(temporary, np.concatenate(samples).clip(-1, 1), SAMPLE_RATE, format="FLAC")


def verdict(data: Path, joins: Path, nj: int) -> list[str]:
    parts = defaultdict(list)
    with open(joins, encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            parts[row["file"].replace("/", "-")].append((row["speaker"], int(row["first"]), int(row["last"])))
    cuts = list(read_manifest(data / "cuts.jsonl.gz"))
    if any(cut["duration"] != cut["recording"]["duration"] for cut in cuts):
        return purity(cuts, parts)
    return detection(data, {name: len({speaker for speaker, *_ in of}) for name, of in parts.items()}, nj)


def purity(cuts: list[dict], parts: dict[str, list[tuple[str, int, int]]]) -> list[str]:
    """How many pieces have one speaker, and how much of the rest is of another than the most frequent one."""
    speakers = []
    for cut in cuts:
        first = round(cut["start"] * SAMPLE_RATE)
        last = first + round(cut["duration"] * SAMPLE_RATE)
        of = parts.get(cut["id"].rpartition("-")[0], [])
        speakers.append({speaker for speaker, begin, end in of if min(end, last) - max(begin, first) > FRAME_SHIFT * 5})
    known = [len(names) for cut, names in zip(cuts, speakers, strict=True) if names and cut["id"].startswith("several")]
    return [f"{len(known):,} pieces of recordings of several speakers: {np.mean(np.array(known) == 1):.1%} have one"]


def detection(data: Path, counts: dict[str, int], nj: int) -> list[str]:
    """ROC area, share found at 5 % false alarms and at the threshold of the warning."""
    utterances = Utterances.open(data)
    seconds = dict(zip(utterances.ids(), np.asarray(utterances.num_samples) / SAMPLE_RATE, strict=True))
    found = judge(utterances, nj)
    groups = {
        "not joined": [name for name in seconds if name not in counts],
        "one speaker": [name for name, count in counts.items() if count == 1],
        **{f"{n} speakers": [name for name, count in counts.items() if count == n] for n in (2, 3, 4)},
    }
    lines = ["| recordings | number | judged | length, s | score, quartiles | warned of |", "|---|---|---|---|---|---|"]
    for what, names in groups.items():
        scores = np.array([found.scores[name] for name in names if name in found.scores])
        if not len(scores):
            continue
        quartiles = " / ".join(f"{value:.2f}" for value in np.quantile(scores, [0.25, 0.5, 0.75]))
        length = np.mean([seconds[name] for name in names])
        lines.append(
            f"| {what} | {len(names):,} | {len(scores):,} | {length:.0f} | {quartiles} | "
            f"{np.count_nonzero(scores >= SUSPICIOUS):,} |"
        )
    judged = [(count > 1, found.scores[name]) for name, count in counts.items() if name in found.scores]
    one, several = (np.array([score for of, score in judged if of == wanted]) for wanted in (False, True))
    if len(one) and len(several):
        area = (np.mean(several[:, None] > one) + np.mean(several[:, None] == one) / 2).item()
        threshold = np.quantile(one, 0.95)
        lines.append(
            f"ROC area {area:.3f}; with 5 % false alarms (score above {threshold:.2f}) "
            f"{np.mean(several > threshold):.0%} of the recordings of several speakers are found"
        )
    return lines


if __name__ == "__main__":
    run(main, Options)
