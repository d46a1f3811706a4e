"""A few pairs of clean and noisy speech-like recordings on disk, with folders of what networks made of them."""

from pathlib import Path

import numpy as np
import soundfile

from cslib.data.manifests import Entry, write_set
from tests.evaluation.speech import noisy, pcm, talk


def make_pairs(folder: Path, count: int = 6, seconds: float = 1.0, snr: tuple[float, float] = (0.0, 15.0)) -> Path:
    """data/<set>/{clean,noisy}; the SNR in dB rises from the first recording to the last."""
    entries = {"clean": [], "noisy": []}
    for n, ratio in enumerate(np.linspace(*snr, count)):
        clean = 0.2 * talk(n, seconds + 0.02 * n)
        for side, signal in (("clean", clean), ("noisy", noisy(clean, ratio, seed=100 + n))):
            path = folder / side / f"audio/u{n:02d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, pcm(signal), 16000)
            entries[side].append(Entry(f"u{n:02d}", path, len(signal)))
    for side, listed in entries.items():
        write_set(folder / side, listed)
    return folder


def make_negative(folder: Path, pairs: Path, noise: float) -> Path:
    """<folder>/<set>/<id>.wav: the pairs' recordings with `noise` times their noise."""
    made = folder / pairs.name
    made.mkdir(parents=True)
    for path in sorted((pairs / "clean/audio").iterdir()):
        clean, rate = soundfile.read(path)
        mixed, _ = soundfile.read(pairs / "noisy/audio" / path.name)
        soundfile.write(made / path.name, pcm(clean + noise * (mixed - clean)), rate)
    return folder
