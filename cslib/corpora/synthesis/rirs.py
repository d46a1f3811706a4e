"""Room impulse responses (RIRs): simulated, or brought into the form in which every bank keeps them."""

from __future__ import annotations

import numpy as np

from cslib.data.manifests import SAMPLE_RATE

MAX_SECONDS = 1.0
_SPEED_OF_SOUND = 343.0
_EARLY_SECONDS = 0.06  # earlier reflections are computed one by one, later ones are decaying noise
_NEGLIGIBLE_DB = -60.0  # a tail with a smaller share of the energy is cut off


def align_rir(response: np.ndarray) -> np.ndarray:
    """Align an RIR: float32 [<= 16000], from its largest tap on, which is scaled to 1, and without the inaudible tail.

    response  [n] at 16 kHz, at any scale; dropping what precedes the main tap keeps the speech in time
    Raises ValueError when it is empty, silent or not finite.
    """
    response = np.asarray(response, dtype=np.float64)
    if not len(response) or not np.isfinite(response).all() or not response.any():
        raise ValueError("a room impulse response must be finite and must not be silent")
    main = int(np.argmax(np.abs(response)))
    response = response[main : main + round(MAX_SECONDS * SAMPLE_RATE)] / response[main]
    remaining = np.cumsum(response[::-1] ** 2)[::-1]
    audible = np.flatnonzero(remaining >= remaining[0] * 10 ** (_NEGLIGIBLE_DB / 10))
    return response[: audible[-1] + 1].astype(np.float32)


def draw_rir(rng: np.random.Generator, rt60: float, distance: tuple[float, float] = (0.5, 3.0)) -> np.ndarray:
    """The RIR of a random shoebox room: early reflections by the image method (Allen and Berkley 1979), then noise.

    Returns float32 [<= 16000] at 16 kHz, aligned as by `align_rir`.

    rt60      seconds until the sound has decayed by 60 dB
    distance  lowest and highest distance between speaker and microphone in metres, as far as the room allows
    """
    size = rng.uniform([3.5, 3.0, 2.4], [9.0, 7.0, 4.0])
    microphone = rng.uniform(0.5, size - 0.5)
    speaker = _at_distance(rng, microphone, size, rng.uniform(*distance))
    reflectance = _reflectance(size, rt60)
    delays, gains = _images(size, microphone, speaker, reflectance)
    response = np.zeros(round(min(MAX_SECONDS, max(rt60, _EARLY_SECONDS)) * SAMPLE_RATE) + 1)
    taps = np.round((delays - delays.min()) * SAMPLE_RATE).astype(int)
    early = round(_EARLY_SECONDS * SAMPLE_RATE)
    heard = taps < min(early, len(response))
    np.add.at(response, taps[heard], gains[heard])
    late = np.arange(early, len(response)) / SAMPLE_RATE
    level = np.sqrt(np.mean(response[early // 2 : early] ** 2)) * np.exp(6.9 / rt60 * 0.75 * _EARLY_SECONDS)
    response[early:] = level * np.exp(-6.9 * late / rt60) * rng.standard_normal(len(late))
    return align_rir(response)


def _reflectance(size: np.ndarray, rt60: float) -> float:
    surface = 2 * (size[0] * size[1] + size[1] * size[2] + size[0] * size[2])
    return float(np.exp(-0.5 * 0.161 * np.prod(size) / (surface * rt60)))


def _at_distance(rng: np.random.Generator, centre: np.ndarray, size: np.ndarray, metres: float) -> np.ndarray:
    direction = rng.standard_normal(3) * [1.0, 1.0, 0.3]  # people differ little in height
    return np.clip(centre + metres * direction / np.linalg.norm(direction), 0.3, size - 0.3)


def _images(
    size: np.ndarray, microphone: np.ndarray, speaker: np.ndarray, reflectance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Delays (s) and gains of all mirror images whose sound arrives early."""
    reach = int(np.ceil(_SPEED_OF_SOUND * _EARLY_SECONDS / (2 * size.min()))) + 1
    cells = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    mirrored = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(1, -1, 3)
    position = np.where(mirrored == 1, -speaker, speaker) + 2 * cells * size
    bounces = (np.abs(cells) + np.abs(cells - mirrored)).sum(-1).ravel()
    metres = np.maximum(np.linalg.norm(position - microphone, axis=-1).ravel(), 0.1)
    return metres / _SPEED_OF_SOUND, reflectance**bounces / metres
