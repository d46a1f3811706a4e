"""Make the adverse copy of a test set: reverberant and noisy recordings, half of them with an interfering speaker.

    python local/make_adverse.py --test data/mini/test --noise data/mini/noise_test \\
        --out data/mini/test_adverse

The recordings of a session share a channel, which makes target trials easy for the wrong reason. Here every recording
gets its own RIR and noise and, with probability 0.5, an interfering speaker: another speaker of the test set, also
reverberant. Ids and trials stay the same; trials/adverse.txt is a copy of the clean list. conditions.tsv lists what was
done to each recording. Everything follows from the seed and the recording's place in its set.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import soundfile
import torch

from cslib.config import UserError, run
from cslib.data.banks import Banks, open_banks
from cslib.data.manifests import SAMPLE_RATE, Entry, write_set
from cslib.data.trials import Trials, read_trials, write_trials
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import mix_at_sir, reverberate
from cslib.files import progress, read_json, write_json, write_lines, writing
from cslib.parallel import in_order

INTERFERER_P = 0.5
SIR = (5.0, 15.0)  # dB, reverberant speech to reverberant interferer
SNR = (0.0, 15.0)  # dB, reverberant speech to noise
PEAK = 0.98  # of full scale; louder recordings are scaled down, so that nothing clips


@dataclass
class Options:
    test: Path  # data/<corpus>/test, with speakers.tsv, since an interferer must be another speaker
    noise: Path  # data/<corpus>/noise_test, which shares nothing with the training noise
    out: Path  # data/<corpus>/test_adverse, the new set
    trials: str = "clean"  # name of the list in <test>/trials that is copied to adverse.txt
    only_trials: bool = False  # make only the recordings in the list, not the whole test set
    seed: int = 0  # of RIRs, noises and interferers
    nj: int = 2  # number of processes; the result does not depend on it


@dataclass(frozen=True)
class Condition:
    """What is done to one recording.

    row             of the recording in the test set
    rir             row in the bank of RIRs
    kind            of noise
    snr             dB, speech to noise
    interferer      row of the interfering recording in the test set; None without interferer
    interferer_rir  row in the bank of RIRs
    sir             dB, speech to interferer
    crops           seed of where noise and interferer are cut
    """

    row: int
    rir: int
    kind: str
    snr: float
    interferer: int | None
    interferer_rir: int
    sir: float
    crops: int


def main(options: Options) -> None:
    utterances, banks = Utterances.open(options.test), _open_banks(options.noise)
    trials = read_trials(options.test / "trials" / f"{options.trials}.txt")
    named = np.unique(trials.rows_in(utterances.ids(), str(options.test)))
    people = read_people(options.test, utterances.ids())
    if _is_made(options):
        print(f"{options.out}: made before, nothing to do")
        return
    rows = named if options.only_trials else range(len(utterances))
    conditions = [draw_condition(options.seed, int(row), people["speaker"], banks) for row in rows]
    write = partial(write_recording, options.out.absolute() / "audio", options.test, options.noise)
    paths = list(progress(in_order(write, conditions, options.nj), "adverse recordings", total=len(rows)))
    write_lists(options, utterances, people, conditions, paths, trials)
    disturbed = sum(condition.interferer is not None for condition in conditions)
    print(f"{options.out}: {len(paths):,} recordings, {disturbed:,} of them with an interfering speaker")


def _is_made(options: Options) -> bool:
    """Whether the set is complete. If not, record what it is about to be made from.

    Raises UserError when the folder holds recordings made with other options or from other data.
    """
    settings = {name: str(value) for name, value in asdict(options).items() if name not in ("out", "nj")}
    sources = [options.test / "recordings.jsonl.gz", options.test / "trials" / f"{options.trials}.txt"]
    sources += sorted(options.noise.glob("*/segments.npy"))
    settings["sources"] = str(zlib.crc32(b"".join(path.read_bytes() for path in sources if path.exists())))
    marker = options.out / "adverse.json"
    if marker.exists() and read_json(marker) != settings:
        raise UserError(f"{options.out}: was made with other options or from other data; remove it")
    if not marker.exists():
        write_json(marker, settings)
    return (options.out / "trials" / "adverse.txt").exists()


def _open_banks(folder: Path) -> Banks:
    banks = open_banks(folder)
    if banks.rirs is None or not banks.noise:
        raise UserError(f"{folder}: lacks RIRs or noise, and the adverse test set needs both; prepare them")
    return banks


def read_people(folder: Path, ids: list[str]) -> dict[str, list[str]]:
    """The columns of speakers.tsv (speaker, and sex and session if present), in the order of `ids`.

    Raises UserError when the file is absent, lacks an utterance or has one speaker only.
    """
    path = folder / "speakers.tsv"
    if not path.exists():
        raise UserError(f"{path}: there is no such file, but interferers must be other speakers; give a set with it")
    try:
        header, *rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    except ValueError:  # empty, or not UTF-8
        header, rows = [], []
    if header[:2] != ["utterance", "speaker"] or any(len(row) != len(header) for row in rows):
        raise UserError(f"{path}: damaged, a line does not have the columns of the first; prepare the set again")
    row_of = {row[0]: row for row in rows}
    missing = [name for name in ids if name not in row_of]
    if missing:
        raise UserError(f"{path}: lacks {len(missing):,} utterances ({missing[0]}); prepare the set again")
    people = {column: [row_of[name][i] for name in ids] for i, column in enumerate(header)}
    if len(set(people["speaker"])) < 2:
        raise UserError(f"{path}: has one speaker only, but interferers must be other speakers; add speakers")
    return people


def draw_condition(seed: int, row: int, speakers: list[str], banks: Banks) -> Condition:
    """Draw the condition of one recording; it depends on the seed and the row only, given the set and the banks."""
    assert banks.rirs is not None, "checked when the banks were opened"
    rng = np.random.default_rng([seed, row])
    rir, interferer_rir = (int(number) for number in rng.integers(len(banks.rirs), size=2))
    other = int(rng.integers(len(speakers)))
    while speakers[other] == speakers[row]:
        other = int(rng.integers(len(speakers)))
    return Condition(
        row,
        rir,
        kind=str(rng.choice(list(banks.noise))),
        snr=float(rng.uniform(*SNR)),
        interferer=other if rng.random() < INTERFERER_P else None,
        interferer_rir=interferer_rir,
        sir=float(rng.uniform(*SIR)),
        crops=int(rng.integers(2**32)),
    )


def degrade(condition: Condition, utterances: Utterances, banks: Banks) -> tuple[np.ndarray, np.ndarray]:
    """The adverse recording, int16 [n], and its parts, float32 [2 or 3, n]: speech, noise, interferer.

    SNR and SIR are relative to the reverberant speech, over the whole recording.
    """
    rng = np.random.default_rng(condition.crops)
    speech = utterances.read(condition.row)
    noise = banks.noise[condition.kind].crop(rng, len(speech))
    sources, ratios = [_reverberant(speech, banks, condition.rir), _as_float(noise)], [condition.snr]
    if condition.interferer is not None:
        other = _excerpt(rng, utterances, condition.interferer, len(speech))
        sources.append(_reverberant(other, banks, condition.interferer_rir))
        ratios.append(condition.sir)
    mixture, parts = mix_at_sir(torch.stack(sources), torch.tensor(ratios))
    gain = min(1.0, PEAK / max(float(mixture.abs().max()), 1e-9))
    return np.round(mixture.numpy() * gain * 32768).astype(np.int16), parts.numpy() * gain


def _reverberant(speech: np.ndarray, banks: Banks, rir: int) -> torch.Tensor:
    assert banks.rirs is not None, "checked when the banks were opened"
    start, length = banks.rirs.segments[rir]
    return reverberate(_as_float(speech), torch.tensor(banks.rirs.samples[start : start + length]))


def _as_float(samples: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(samples.astype(np.float32) / 32768)


def _excerpt(rng: np.random.Generator, utterances: Utterances, row: int, frames: int) -> np.ndarray:
    """A random part of an utterance, int16 [frames]; a shorter one is placed at random within silence."""
    spare = int(utterances.num_samples[row]) - frames
    if spare >= 0:
        return utterances.read(row, int(rng.integers(spare + 1)), frames)
    start = int(rng.integers(-spare + 1))
    return np.pad(utterances.read(row), (start, -spare - start))


def write_recording(audio: Path, test: Path, noise: Path, condition: Condition) -> Path:
    """Write one adverse recording, unless an earlier run did."""
    utterances, banks = _open_once(test, noise)
    path = audio / f"{utterances.id(condition.row)}.flac"
    if not path.exists():
        samples, _ = degrade(condition, utterances, banks)
        with writing(path) as temporary:
            soundfile.write(temporary, samples, SAMPLE_RATE, "PCM_16", format="FLAC")
    return path


@cache
def _open_once(test: Path, noise: Path) -> tuple[Utterances, Banks]:
    torch.set_num_threads(1)  # there may be as many processes as cores
    return Utterances.open(test), open_banks(noise)


def write_lists(
    options: Options,
    utterances: Utterances,
    people: dict[str, list[str]],
    conditions: list[Condition],
    paths: list[Path],
    trials: Trials,
) -> None:
    """Write manifests, speakers.tsv, conditions.tsv and, last, trials/adverse.txt, which marks the set as complete."""
    columns = [name for name in ("speaker", "sex", "session") if name in people]
    entries, table = [], ["utterance\trir\tsnr\tkind\tinterferer\tsir"]
    for condition, path in zip(conditions, paths, strict=True):
        row, name = condition.row, utterances.id(condition.row)
        labels = {column: people[column][row] for column in columns}
        entries.append(Entry(name, path, int(utterances.num_samples[row]), **labels))
        other = "-\t-"
        if condition.interferer is not None:
            other = f"{utterances.id(condition.interferer)}\t{condition.sir:.2f}"
        table.append(f"{name}\t{condition.rir}\t{condition.snr:.2f}\t{condition.kind}\t{other}")
    write_set(options.out, entries)
    write_lines(options.out / "conditions.tsv", table)
    write_trials(options.out / "trials" / "adverse.txt", trials.enrol, trials.test, trials.targets)


if __name__ == "__main__":
    run(main, Options)
