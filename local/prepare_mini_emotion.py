"""Synthesise the mini emotion corpus: voices in four speaking styles, named after emotions, in about a minute.

    python local/prepare_mini_emotion.py --out data/mini_emotion --nj 2

It has 40 speakers, half of them women, none of them in another mini corpus of the same seed. Each speaker speaks once
in each style over each of three recording channels, so the channel does not reveal the style. A style changes speaking
rate, pitch, pitch range and level; all four vary between utterances, and neighbouring styles overlap. The level varies
more between channels than between styles. The speakers are divided into five folds; a later run with another --folds
only divides them again. The same seed gives the same bytes, whatever --nj.

The corpus shows that the recipe works. Results on it say nothing about real emotions.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cslib.config import require, run
from cslib.corpora.class_preparation import TABLE, write_classes
from cslib.corpora.synthesis.channels import draw_channel
from cslib.corpora.synthesis.speakers import Speaker, say_sentence, write_speech
from cslib.corpora.synthesis.voices import Synthesiser, draw_voice
from cslib.data.classes import ClassTable, Labelled, assign_folds
from cslib.data.manifests import SAMPLE_RATE, Entry, write_set
from cslib.files import claim, progress
from cslib.parallel import in_fresh_processes

PART = 3  # of the seed; prepare_mini.py draws its speakers from parts 0 and 1


class Style(NamedTuple):
    """Means over utterances.

    rate         factor on the voice's own speaking rate
    pitch        0..100; 50 is the voice's own
    pitch_range  0..100; 50 is the voice's own
    level        dB relative to the neutral style
    """

    rate: float
    pitch: float
    pitch_range: float
    level: float


STYLES = {
    "angry": Style(rate=1.32, pitch=54, pitch_range=75, level=3.0),
    "happy": Style(rate=1.12, pitch=72, pitch_range=90, level=1.0),
    "neutral": Style(rate=1.00, pitch=48, pitch_range=45, level=0.0),
    "sad": Style(rate=0.80, pitch=38, pitch_range=15, level=-3.0),
}
DEVIATIONS = Style(rate=0.08, pitch=6, pitch_range=12, level=1.5)  # standard deviations over utterances

QUIETER = 20.0  # dB less noise than in the mini corpus, as in a recording studio


@dataclass
class Options:
    out: Path = Path("data/mini_emotion")  # makes all/ in it
    seed: int = 0  # of speakers, channels and sentences
    nj: int = 2  # number of processes; the result does not depend on it
    speakers: int = 40  # number of speakers, half of them women
    sessions: int = 3  # recording channels per speaker, with one utterance in each style
    folds: int = 5  # number of folds that the speakers are divided into


def main(options: Options) -> None:
    require(options.sessions >= 1, "--sessions", options.sessions, "at least 1")
    require(
        2 <= options.folds <= options.speakers,
        "--folds",
        options.folds,
        f"at least 2 and at most --speakers ({options.speakers})",
    )
    claim(
        options.out, {name: str(value) for name, value in asdict(options).items() if name not in ("out", "nj", "folds")}
    )
    folder = options.out / "all"
    if (folder / "cuts.jsonl.gz").exists() and (folder / TABLE).exists():
        divide_again(folder, options.folds)
        return
    entries, styles = speak_all(options, folder.absolute() / "audio")
    table = divided([(entry.id, styles[entry.id], str(entry.speaker)) for entry in entries], options.folds)
    write_set(folder, entries)
    minutes = sum(entry.num_samples for entry in entries) / SAMPLE_RATE / 60
    print(f"{folder}: {len(entries):,} utterances of {options.speakers} speakers, {minutes:.1f} min")
    write_classes(folder, table)


def divided(utterances: list[tuple[str, str, str]], folds: int) -> ClassTable:
    """The table of (id, style, speaker), with the speakers divided into folds."""
    fold_of = assign_folds([speaker for *_, speaker in utterances], folds)
    return ClassTable.of(Labelled(name, style, speaker, fold_of[speaker]) for name, style, speaker in utterances)


def divide_again(folder: Path, folds: int) -> None:
    """Divide the speakers of a finished set into `folds` folds; write its table unless it has them already."""
    old = ClassTable.read(folder / TABLE)
    new = divided(list(zip(old.utterances, old.labels, old.speakers, strict=True)), folds)
    if np.array_equal(new.folds, old.folds):
        print(f"{folder}: made before, nothing to do")
    else:
        print(f"{folder}: made before; the speakers are divided into {folds} folds now")
        write_classes(folder, new)


def speak_all(options: Options, audio: Path) -> tuple[list[Entry], dict[str, str]]:
    """Synthesise all utterances: (entries sorted by id, style by id). Ids are random, as in the mini corpus."""
    shape = options.speakers, options.sessions, len(STYLES)
    order = np.random.default_rng([options.seed, PART]).permutation(np.prod(shape))
    ids = np.array([f"styled-{n:06d}" for n in order]).reshape(shape)
    tasks = [
        Speaker(f"styled-speaker-{i:03d}", "fm"[i % 2], (options.seed, PART, i), audio, own)
        for i, own in enumerate(ids.tolist())
    ]
    made = progress(in_fresh_processes(speak_in_styles, tasks, options.nj), "speakers", total=len(tasks))
    styles = {name: style for at, style in enumerate(STYLES) for name in ids[..., at].flat}
    return sorted((entry for entries in made for entry in entries), key=lambda entry: entry.id), styles


def speak_in_styles(speaker: Speaker) -> list[Entry]:
    """Write all utterances of one speaker; always the same bytes in a fresh process.

    speaker  its sessions hold ids in the order of STYLES
    """
    rng = np.random.default_rng(speaker.seed)
    entries = []
    with tempfile.TemporaryDirectory(prefix="espeak-") as folder:
        synthesiser = Synthesiser({"speaker": draw_voice(rng, speaker.sex)}, Path(folder))
        for number, ids in enumerate(speaker.sessions, start=1):
            channel = draw_channel(rng)
            for name, style in zip(ids, STYLES.values(), strict=True):
                drawn = Style(*rng.normal(style, DEVIATIONS))
                # Louder speech does not make the noise louder.
                heard = replace(
                    channel, level=channel.level + drawn.level, noise_level=channel.noise_level - QUIETER - drawn.level
                )
                speech = heard.record(rng, _say(rng, synthesiser, drawn))
                path = write_speech(speaker.audio / f"{name}.flac", speech)
                session = f"{speaker.name}-{number}"
                entries.append(Entry(name, path, len(speech), speaker.name, speaker.sex, session))
    return entries


def _say(rng: np.random.Generator, synthesiser: Synthesiser, style: Style) -> np.ndarray:
    """A sentence of 3 to 6 seconds in this style, whatever its level: float [n] at 16 kHz."""
    pitch, pitch_range = (int(np.clip(round(value), 5, 95)) for value in (style.pitch, style.pitch_range))
    return say_sentence(rng, synthesiser, style.rate, pitch, (pitch_range, pitch_range))


if __name__ == "__main__":
    run(main, Options)
