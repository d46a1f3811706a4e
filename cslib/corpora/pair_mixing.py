"""Sets of pairs from clean speech and noise, mixed once, offline, at given signal-to-noise ratios.

Everything follows from a seed and a recording's place in its set. Signal-to-noise ratios are of total energies over the
whole recording. The clean speech gets a little dither, so that it has no digital silence, and both sides of a pair are
scaled down together where the mixture would clip.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from cslib.config import UserError
from cslib.data.banks import Banks, NoiseBank, open_banks
from cslib.data.manifests import SAMPLE_RATE, Entry, write_set
from cslib.data.pairs import Condition, PairedUtterances, write_conditions
from cslib.data.utterances import Utterances
from cslib.files import claim, progress, writing
from cslib.parallel import in_order

TRAIN_SNRS = (0.0, 5.0, 10.0, 15.0)  # dB, as in VoiceBank-DEMAND
TEST_SNRS = (2.5, 7.5, 12.5, 17.5)  # dB, likewise
PEAK = 0.98 * 32767
# Standard deviation in 16-bit steps: -90 dBFS. Linear prediction is undefined for a frame of zeros, and so are measures
# based on it, such as LLR.
DITHER = 1.0


class Mixing(NamedTuple):
    """How one recording is mixed: row `row` of its set gets noise of this kind at `snr` dB."""

    row: int
    kind: str
    snr: float


@dataclass(frozen=True)
class Places:
    """Sources and destination of a mixed set, all absolute.

    speech  a set of clean speech
    noise   data/<corpus>/noise or noise_test
    folder  data/<corpus>/<set>
    """

    speech: Path
    noise: Path
    folder: Path


def mix_set(
    speech: Path, noise: Path, folder: Path, snrs: Sequence[float], seed: Sequence[int], nj: int
) -> PairedUtterances:
    """Mix all recordings of the set `speech` with noise into data/<corpus>/<set>: clean/, noisy/ and pairs.tsv.

    noise   a folder of banks; each combination of a kind of noise and an SNR is used equally often
    folder  data/<corpus>/<set>
    snrs    dB
    seed    any numbers, others for each set
    nj      number of processes; the result does not depend on it
    A killed run continues where it was. Raises UserError when the folder was made from other speech or noise, or with
    another seed or other SNRs.
    """
    places = Places(speech.absolute(), noise.absolute(), folder.absolute())
    utterances, banks = Utterances.open(speech), _open_noise(noise)
    claim(
        folder,
        {
            "seed": str(list(seed)),
            "snrs": str(list(snrs)),
            "speech": utterances.digest()[:12],
            "noise": str({kind: _fingerprint(bank) for kind, bank in banks.noise.items()}),
        },
    )
    if (folder / "pairs.tsv").exists():
        print(f"{folder}: made before, nothing to do")
        return PairedUtterances.open(folder)
    mixings = draw_mixings(len(utterances), list(banks.noise), snrs, seed)
    write = partial(write_pair, places, tuple(seed))
    lengths = list(progress(in_order(write, mixings, nj), f"mixing {folder.name}", total=len(mixings)))
    for side in ("clean", "noisy"):
        write_set(
            folder / side,
            (
                Entry(name, _path(places, side, name), length)
                for name, length in zip(utterances.ids(), lengths, strict=True)
            ),
        )
    # Written last: it marks the set as finished.
    write_conditions(folder, {utterances.id(mixing.row): Condition(mixing.snr, mixing.kind) for mixing in mixings})
    print(f"{folder}: {len(mixings):,} pairs, {sum(lengths) / SAMPLE_RATE / 60:.1f} min")
    return PairedUtterances.open(folder)


def draw_mixings(count: int, kinds: Sequence[str], snrs: Sequence[float], seed: Sequence[int]) -> list[Mixing]:
    """One for each of `count` recordings, in random order; numbers of uses of (kind, SNR) differ by at most one."""
    grid = [(kind, snr) for snr in snrs for kind in kinds]
    # Seeds of single recordings end in 1, so this generator is independent of theirs.
    order = np.random.default_rng([*seed, count]).permutation(count) % len(grid)
    return [Mixing(row, *grid[place]) for row, place in enumerate(order)]


def write_pair(places: Places, seed: tuple[int, ...], mixing: Mixing) -> int:
    """Write both sides of a pair, unless an earlier run did; return its number of samples."""
    utterances, banks = _open_once(places.speech, places.noise)
    name = utterances.id(mixing.row)
    paths = [_path(places, side, name) for side in ("clean", "noisy")]
    if not all(path.exists() for path in paths):
        rng = np.random.default_rng([*seed, mixing.row, 1])
        speech = utterances.read(mixing.row)
        noise = audible_crop(rng, banks.noise[mixing.kind], len(speech))
        for path, samples in zip(paths, mix_at_snr(rng, speech, noise, mixing.snr), strict=True):
            with writing(path) as temporary:
                soundfile.write(temporary, samples, SAMPLE_RATE, "PCM_16", format="FLAC")
    return int(utterances.num_samples[mixing.row])


def mix_at_snr(
    rng: np.random.Generator, speech: np.ndarray, noise: np.ndarray, snr: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mix speech and noise: (clean, noisy), int16 [T] each; the noise is `snr` dB below the clean speech.

    speech  int16 [T], not silent
    noise   int16 [T], not silent
    """
    clean = speech + rng.normal(0.0, DITHER, len(speech))
    noise = noise.astype(np.float64)
    noise *= np.sqrt(np.sum(clean**2) / np.sum(noise**2)) * 10 ** (-snr / 20)
    noisy = clean + noise
    gain = min(1.0, PEAK / max(np.abs(clean).max(), np.abs(noisy).max()))
    return np.rint(gain * clean).astype(np.int16), np.rint(gain * noisy).astype(np.int16)


def audible_crop(rng: np.random.Generator, bank: NoiseBank, frames: int) -> np.ndarray:
    """A crop of noise, int16 [frames], that is not silent. Raises UserError after a hundred silent crops."""
    for _ in range(100):
        crop = bank.crop(rng, frames)
        if crop.any():
            return crop
    raise UserError(f"{bank.folder}: 100 crops of {frames:,} samples were silent; prepare noise from other recordings")


def _open_noise(folder: Path) -> Banks:
    banks = open_banks(folder)
    if not banks.noise:
        raise UserError(f"{folder}: holds RIRs only, and no noise to mix with; prepare noise")
    return banks


@cache
def _open_once(speech: Path, noise: Path) -> tuple[Utterances, Banks]:
    return Utterances.open(speech), _open_noise(noise)


def _path(places: Places, side: str, name: str) -> Path:
    return places.folder / side / "audio" / f"{name}.flac"


def _fingerprint(bank: NoiseBank) -> int:
    """A CRC-32 of lengths and ten thousand samples; synthetic noises have the same lengths whatever their seed."""
    values = bank.samples[:: max(1, len(bank.samples) // 10_000)]
    return zlib.crc32(values.tobytes(), zlib.crc32(bank.segments.tobytes()))
