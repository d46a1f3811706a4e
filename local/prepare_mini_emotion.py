"""Make the mini emotion corpus: synthetic voices in four speaking styles, called after emotions, in a minute or so.

    python local/prepare_mini_emotion.py --out data/mini_emotion --nj 2

40 speakers, half of them women, none of them in another mini corpus of the same seed. Each has three recording channels
and in each of them speaks once in each style, so that the channel tells nothing about the style. A style moves rate,
pitch, range of the pitch and level; all four vary from one utterance to the next, and between neighbouring styles they
overlap. The level of a recording varies more between channels than between styles. The speakers are dealt into five
folds, on a second run with another number of them anew. The same seed gives the same bytes, whatever --nj.

It shows that everything works. Nobody has felt anything here: of emotions it says nothing.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cslib.config import UserError, run
from cslib.corpora.class_preparation import TABLE, write_classes
from cslib.corpora.synthesis.channels import draw_channel
from cslib.corpora.synthesis.speakers import Speaker, say_sentence, write_speech
from cslib.corpora.synthesis.voices import Synthesiser, draw_voice
from cslib.data.classes import ClassTable, Labelled, assign_folds
from cslib.data.manifests import SAMPLE_RATE, Entry, write_set
from cslib.files import claim, progress
from cslib.parallel import in_fresh_processes

PART = 3  # of the seed: prepare_mini.py draws its speakers from parts 0 and 1


class Style(NamedTuple):
    """Means over utterances; rate as a factor on the voice's own, pitch and range as espeak-ng has them (50: its own).

    level  dB against the other styles
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
SPREAD = Style(rate=0.08, pitch=6, pitch_range=12, level=1.5)  # standard deviations of an utterance

QUIETER = 20.0  # dB less noise than in the mini corpus: who records emotions does so in a quiet room


@dataclass
class Options:
    out: Path = Path("data/mini_emotion")  # gets all/
    seed: int = 0  # that of prepare_mini.py: another one means other speakers, channels and texts
    nj: int = 2  # processes; the result does not depend on it
    speakers: int = 40  # half of them women
    sessions: int = 3  # recording channels of each; an utterance in every style through each of them
    folds: int = 5  # of speakers


def main(options: Options) -> None:
    if options.sessions < 1 or not 2 <= options.folds <= options.speakers:
        raise UserError("sessions is at least 1, folds at least 2, and there are as many speakers as folds or more")
    claim(
        options.out, {name: str(value) for name, value in asdict(options).items() if name not in ("out", "nj", "folds")}
    )
    folder = options.out / "all"
    if (folder / "cuts.jsonl.gz").exists() and (folder / TABLE).exists():
        deal_anew(folder, options.folds)
        return
    entries, styles = speak_all(options, folder.absolute() / "audio")
    table = dealt([(entry.id, styles[entry.id], entry.speaker) for entry in entries], options.folds)
    write_set(folder, entries)
    minutes = sum(entry.num_samples for entry in entries) / SAMPLE_RATE / 60
    print(f"{folder}: {len(entries):,} utterances of {options.speakers} speakers, {minutes:.1f} min")
    write_classes(folder, table)


def dealt(utterances: list[tuple[str, str, str]], folds: int) -> ClassTable:
    """The table of (id, style, speaker), the speakers in so many folds."""
    fold_of = assign_folds([speaker for *_, speaker in utterances], folds)
    return ClassTable.of(Labelled(name, style, speaker, fold_of[speaker]) for name, style, speaker in utterances)


def deal_anew(folder: Path, folds: int) -> None:
    """The table of a finished set with so many folds; nothing is written when it has them."""
    old = ClassTable.read(folder / TABLE)
    new = dealt(list(zip(old.utterances, old.labels, old.speakers, strict=True)), folds)
    if np.array_equal(new.folds, old.folds):
        print(f"{folder}: made before, nothing to do")
    else:
        print(f"{folder}: made before; the speakers are dealt into {folds} folds anew")
        write_classes(folder, new)


def speak_all(options: Options, audio: Path) -> tuple[list[Entry], dict[str, str]]:
    """All utterances, sorted by id, and the style of each. Ids are numbers drawn at random, as in the mini corpus."""
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
    """Write all utterances of one speaker; the same bytes whenever it is called in a fresh process.

    sessions  of the speaker: for each the ids of its utterances, in the order of STYLES
    """
    rng = np.random.default_rng(speaker.seed)
    entries = []
    with tempfile.TemporaryDirectory(prefix="espeak-") as folder:
        synthesiser = Synthesiser({"speaker": draw_voice(rng, speaker.sex)}, Path(folder))
        for number, ids in enumerate(speaker.sessions, start=1):
            channel = draw_channel(rng)
            for name, style in zip(ids, STYLES.values(), strict=True):
                drawn = Style(*rng.normal(style, SPREAD))
                # Who speaks up does so against the same noise.
                heard = replace(
                    channel, level=channel.level + drawn.level, noise_level=channel.noise_level - QUIETER - drawn.level
                )
                speech = heard.record(rng, _say(rng, synthesiser, drawn))
                path = write_speech(speaker.audio / f"{name}.flac", speech)
                session = f"{speaker.name}-{number}"
                entries.append(Entry(name, path, len(speech), speaker.name, speaker.sex, session))
    return entries


def _say(rng: np.random.Generator, synthesiser: Synthesiser, style: Style) -> np.ndarray:
    """float [n] at 16 kHz: a sentence of 3 to 6 seconds in exactly this style, but for its level."""
    pitch, pitch_range = (int(np.clip(round(value), 5, 95)) for value in (style.pitch, style.pitch_range))
    return say_sentence(rng, synthesiser, style.rate, pitch, (pitch_range, pitch_range))


if __name__ == "__main__":
    run(main, Options)
