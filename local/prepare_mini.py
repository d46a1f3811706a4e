"""Synthesise the mini corpus: speech of many voices, recorded over many channels, in about a minute.

    python local/prepare_mini.py --out data/mini --nj 2

It has 100 training speakers and 20 unseen test speakers, of both sexes, with eight accents of English. Every session of
a speaker has its own microphone, room, noise floor and level. Recordings have random numbers as names, so only
speakers.tsv says who speaks. The same seed gives the same bytes, whatever --nj.

Target trials are all pairs of one speaker across sessions. Of the non-target trials, two thirds are between speakers of
one sex and one third between a woman and a man.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cslib.config import UserError, run
from cslib.corpora.synthesis.channels import draw_channel
from cslib.corpora.synthesis.speakers import Speaker, say_sentence, write_speech
from cslib.corpora.synthesis.voices import Synthesiser, draw_voice
from cslib.data.manifests import SAMPLE_RATE, Entry, write_set
from cslib.data.trials import write_trials
from cslib.files import progress, read_json, write_json
from cslib.parallel import in_fresh_processes

SAME_SEX_SHARE = 2 / 3  # of the non-target trials; trials between a woman and a man are easy


@dataclass
class Options:
    out: Path = Path("data/mini")  # makes train/ and test/ in it
    seed: int = 0  # of speakers, channels and sentences
    nj: int = 2  # number of processes; the result does not depend on it
    train_speakers: int = 100  # training speakers, half of them women
    train_sessions: int = 2  # sessions per training speaker, each with its own recording channel
    train_utterances: int = 5  # utterances per training session
    test_speakers: int = 20  # test speakers, none of them in the training set
    test_sessions: int = 3  # sessions per test speaker; at least 2, since target trials are across sessions
    test_utterances: int = 4  # utterances per test session
    nontargets_per_target: int = 10  # non-target trials per target trial


def main(options: Options) -> None:
    settings = {name: value for name, value in asdict(options).items() if name not in ("out", "nj")}
    if _already_made(options.out / "mini.json", settings):
        print(f"{options.out}: made before, nothing to do")
        return
    _check(options)
    for number, name in enumerate(("train", "test")):
        entries = _make_set(options, name, number)
        write_set(options.out / name, entries)
        minutes = sum(entry.num_samples for entry in entries) / SAMPLE_RATE / 60
        speakers = len({entry.speaker for entry in entries})
        print(f"{options.out / name}: {len(entries):,} utterances of {speakers} speakers, {minutes:.1f} min")
    enrol, test, targets = draw_trials(entries, options.nontargets_per_target, options.seed)
    write_trials(options.out / "test" / "trials" / "clean.txt", enrol, test, targets)
    print(f"clean.txt: {targets.sum():,} targets, all across sessions, and {(~targets).sum():,} non-targets")
    write_json(options.out / "mini.json", settings)


def _already_made(marker: Path, settings: dict[str, int]) -> bool:
    if not marker.exists():
        return False
    if read_json(marker) != settings:
        raise UserError(f"{marker.parent}: was made with other options; remove it or choose another --out")
    return True


def _check(options: Options) -> None:
    for name, value in asdict(options).items():
        lowest = {"out": None, "seed": 0, "test_sessions": 2, "test_speakers": 2}.get(name, 1)
        if lowest is not None and value < lowest:
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} is {value}; it must be at least {lowest}")


def _make_set(options: Options, name: str, number: int) -> list[Entry]:
    """Synthesise all utterances of one set; they are sorted by id."""
    sizes = [getattr(options, f"{name}_{what}") for what in ("speakers", "sessions", "utterances")]
    order = np.random.default_rng([options.seed, number]).permutation(np.prod(sizes))
    ids = np.array([f"{name}-{n:06d}" for n in order]).reshape(sizes).tolist()
    audio = (options.out / name / "audio").absolute()
    tasks = [
        Speaker(f"{name}-speaker-{i:03d}", "fm"[i % 2], (options.seed, number, i), audio, sessions)
        for i, sessions in enumerate(ids)
    ]
    made = progress(in_fresh_processes(make_speaker, tasks, options.nj), f"{name} speakers", total=len(tasks))
    return sorted((entry for entries in made for entry in entries), key=lambda entry: entry.id)


def make_speaker(speaker: Speaker) -> list[Entry]:
    """Write all recordings of one speaker; always the same bytes in a fresh process."""
    rng = np.random.default_rng(speaker.seed)
    entries = []
    with tempfile.TemporaryDirectory(prefix="espeak-") as folder:
        synthesiser = Synthesiser({"speaker": draw_voice(rng, speaker.sex)}, Path(folder))
        for number, ids in enumerate(speaker.sessions, start=1):
            channel = draw_channel(rng)
            rate, pitch = rng.uniform(0.93, 1.07), rng.uniform(44, 56)  # of the day
            for name in ids:
                speech = channel.record(rng, _speak(rng, synthesiser, rate, pitch))
                path = write_speech(speaker.audio / f"{name}.flac", speech)
                session = f"{speaker.name}-{number}"
                entries.append(Entry(name, path, len(speech), speaker.name, speaker.sex, session))
    return entries


def _speak(rng: np.random.Generator, synthesiser: Synthesiser, rate: float, pitch: float) -> np.ndarray:
    """A sentence of 3 to 6 seconds, float [n] at 16 kHz, with a rate and a pitch close to those given."""
    rate, pitch = rate * rng.uniform(0.95, 1.05), int(np.clip(rng.normal(pitch, 3), 30, 70))
    return say_sentence(rng, synthesiser, rate, pitch)


def draw_trials(entries: list[Entry], nontargets_per_target: int, seed: int) -> tuple[list[str], list[str], np.ndarray]:
    """(enrol, test, targets): ids, ids and bool, each [trials], sorted by id."""
    first, second = np.triu_indices(len(entries), 1)
    speaker, session, sex = np.array([(entry.speaker, entry.session, entry.sex) for entry in entries]).T
    same_speaker, same_sex = speaker[first] == speaker[second], sex[first] == sex[second]
    targets = np.flatnonzero(same_speaker & (session[first] != session[second]))
    rng = np.random.default_rng([seed, 3])
    wanted = len(targets) * nontargets_per_target
    alike = _sample(rng, ~same_speaker & same_sex, wanted * SAME_SEX_SHARE)
    unlike = _sample(rng, ~same_speaker & ~same_sex, wanted * (1 - SAME_SEX_SHARE))
    chosen = np.sort(np.concatenate([targets, alike, unlike]))
    ids = [entry.id for entry in entries]
    return [ids[i] for i in first[chosen]], [ids[i] for i in second[chosen]], same_speaker[chosen]


def _sample(rng: np.random.Generator, pairs: np.ndarray, count: float) -> np.ndarray:
    pool = np.flatnonzero(pairs)
    return rng.choice(pool, min(round(count), len(pool)), replace=False)


if __name__ == "__main__":
    run(main, Options)
