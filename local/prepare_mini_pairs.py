"""Synthesise pairs of the mini corpus: dry, clean speech of its speakers, and the same mixed with synthetic noise.

    python local/prepare_noise.py --out data/mini --synthetic
    python local/prepare_mini_pairs.py --noise data/mini/noise --noise-test data/mini/noise_test --out data/mini_pairs

The speakers are those of prepare_mini.py with the same seed: its first training speakers for training, the next ones
for validation, its test speakers for the test. They say other sentences, and without a recording channel, since
channels add noise and reverberation and the target of enhancement must be clean. Training and validation are mixed at
0, 5, 10 and 15 dB; the test is mixed at 2.5, 7.5, 12.5 and 17.5 dB, with noises that training never uses. The same seed
gives the same bytes, whatever --nj.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cslib.config import UserError, run
from cslib.corpora.pair_mixing import TEST_SNRS, TRAIN_SNRS, mix_set
from cslib.corpora.synthesis.speakers import Speaker, say_sentence, write_speech
from cslib.corpora.synthesis.voices import Synthesiser, draw_voice
from cslib.data.banks import open_banks
from cslib.data.manifests import Entry, write_set
from cslib.files import claim, progress
from cslib.parallel import in_fresh_processes

LEVELS = (-30.0, -20.0)  # dB of full scale, root mean square of an utterance
PEAK = 0.95  # of full scale


@dataclass
class Options:
    noise: Path = Path("data/mini/noise")  # folder of noise from prepare_noise.py, for training and validation
    noise_test: Path = Path("data/mini/noise_test")  # folder of noise from prepare_noise.py, for the test
    out: Path = Path("data/mini_pairs")  # makes train/, valid/ and test/ in it, each with clean/ and noisy/
    seed: int = 0  # that of prepare_mini.py; another seed gives other speakers
    mix_train: bool = True  # false: training utterances stay clean, for training that mixes every crop
    nj: int = 2  # number of processes; the result does not depend on it
    train_speakers: int = 90  # training speakers, half of them women
    train_utterances: int = 6  # utterances per training speaker
    valid_speakers: int = 10  # validation speakers, none of them in the training set
    valid_utterances: int = 4  # utterances per validation speaker
    test_speakers: int = 20  # test speakers, none of them in any training set of the mini corpus
    test_utterances: int = 4  # utterances per test speaker


def main(options: Options) -> None:
    _check(options)
    claim(
        options.out,
        {
            name: str(value)
            for name, value in asdict(options).items()
            if name not in ("out", "nj", "noise", "noise_test", "mix_train")
        },
    )
    for number, name in enumerate(("train", "valid", "test")):
        folder = options.out / name
        if not (folder / "speech" / "cuts.jsonl.gz").exists():
            write_set(folder / "speech", _speak_all(options, name, number))
        noise, snrs = (options.noise_test, TEST_SNRS) if name == "test" else (options.noise, TRAIN_SNRS)
        if name != "train" or options.mix_train:
            mix_set(folder / "speech", noise, folder, snrs, (options.seed, number), options.nj)


def _check(options: Options) -> None:
    for name, value in asdict(options).items():
        if name.endswith(("_speakers", "_utterances")) and value < 1:
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} is {value}; it must be at least 1")
    if options.noise.resolve() == options.noise_test.resolve():
        raise UserError(f"--noise-test: {options.noise_test} is the training noise, too; give other noise")
    for folder in (options.noise, options.noise_test):
        open_banks(folder)


def _speak_all(options: Options, name: str, number: int) -> list[Entry]:
    """Synthesise the clean utterances of one set; they are sorted by id, and ids are random as in the mini corpus."""
    speakers, utterances = getattr(options, f"{name}_speakers"), getattr(options, f"{name}_utterances")
    order = np.random.default_rng([options.seed, number, 2]).permutation(speakers * utterances)
    ids = np.array([f"{name}-{n:06d}" for n in order]).reshape(speakers, utterances).tolist()
    part, first = {"train": (0, 0), "valid": (0, options.train_speakers), "test": (1, 0)}[name]
    audio = (options.out / name / "speech" / "audio").absolute()
    of = "test" if part else "train"
    tasks = [
        Speaker(f"{of}-speaker-{i:03d}", "fm"[i % 2], (options.seed, part, i), audio, [own])
        for i, own in enumerate(ids, start=first)
    ]
    made = progress(in_fresh_processes(speak_dry, tasks, options.nj), f"{name} speakers", total=len(tasks))
    return sorted((entry for entries in made for entry in entries), key=lambda entry: entry.id)


def speak_dry(speaker: Speaker) -> list[Entry]:
    """Write all utterances of one speaker; always the same bytes in a fresh process."""
    voice = draw_voice(np.random.default_rng(speaker.seed), speaker.sex)  # prepare_mini.py draws it first, too
    rng = np.random.default_rng([*speaker.seed, 1])
    entries = []
    with tempfile.TemporaryDirectory(prefix="espeak-") as folder:
        synthesiser = Synthesiser({"speaker": voice}, Path(folder))
        for name in speaker.sessions[0]:
            speech = _say(rng, synthesiser)
            path = write_speech(speaker.audio / f"{name}.flac", speech)
            entries.append(Entry(name, path, len(speech), speaker.name, speaker.sex))
    return entries


def _say(rng: np.random.Generator, synthesiser: Synthesiser) -> np.ndarray:
    """int16 [n] at 16 kHz: a sentence of 3 to 6 seconds, at a rate, a pitch and a level of its own."""
    rate, pitch = rng.uniform(0.9, 1.1), int(rng.integers(40, 61))
    speech = say_sentence(rng, synthesiser, rate, pitch)
    speech *= 10 ** (rng.uniform(*LEVELS) / 20) / np.sqrt(np.mean(speech**2))
    return np.rint(speech * 32767 * min(1.0, PEAK / np.abs(speech).max())).astype(np.int16)


if __name__ == "__main__":
    run(main, Options)
