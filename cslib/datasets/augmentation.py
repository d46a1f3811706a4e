"""Augmentation of training audio: microphone channel, reverberation and additive noise, and mixing of sources.

Loader workers only draw what to apply to each crop (numpy); the training device applies it to whole batches (torch,
without gradient). Audio is float in [-1, 1] at 16 kHz. Shapes: T samples of a crop, R taps of a room impulse response
(RIR), K = CHANNEL_TAPS, C sources, * any leading dimensions.

Every item of the datasets holds, for each crop:

noise    int16 [T], silent for none
snr      float32, signal-to-noise ratio in dB, infinite for none
rir      float32 [R], zero-padded to a common length; the unit impulse for none
channel  float32 [K], impulse response of a microphone; the unit impulse for none

To add an augmentation, edit this file only: add its options to AugmentConfig, write a function that draws and one that
applies, and list both in AUGMENTATIONS. Datasets and objectives pass its keys on. With its probability at 0, draw
nothing from the generator, so that earlier trainings stay reproducible::

    def draw_polarity(rng, banks, config, frames):
        inverted = config.polarity_p > 0 and rng.random() < config.polarity_p
        return (np.float32(-1 if inverted else 1),)

    def apply_polarity(speech, polarity):  # [*, T], [*]
        return speech * polarity[..., None]

    AUGMENTATIONS = (REVERBERATION, NOISE, Augmentation(("polarity",), draw_polarity, apply_polarity))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from cslib.config import require
from cslib.data.banks import Banks
from cslib.data.manifests import SAMPLE_RATE
from cslib.models.layers.levels import SILENCE, amplitude_gain, energy, power_ratio

CHANNEL_TAPS = 256  # 16 ms
CHANNEL_WAVES = 4  # cosines of a channel's gain; the fastest has two periods from 0 to 8 kHz


@dataclass
class AugmentConfig:
    """Augmentation of speech: a channel, reverberation, one kind of noise.

    The defaults are those of Cho et al. (2022), except for max_rir_seconds, a choice of this project.
    """

    reverb_p: float = 0.45  # probability that a crop is reverberated
    max_rir_seconds: float = 0.5  # longer RIRs are cut off
    channel_p: float = 0.0  # probability that a crop is filtered by a random equaliser, like another microphone
    channel_db: float = 6.0  # standard deviation of the equaliser's gain over frequencies, in dB
    noise_p: float = 0.7  # probability that a crop gets noise of one kind
    noise_snr: tuple[float, float] = (0.0, 18.0)  # dB, drawn uniformly; noises such as doors, cars and rain
    music_snr: tuple[float, float] = (3.0, 18.0)  # dB, drawn uniformly
    babble_snr: tuple[float, float] = (3.0, 18.0)  # dB, drawn uniformly; several speakers at once
    noise_weight: float = 1.0  # relative frequency of noises among the kinds; kinds without recordings are never drawn
    music_weight: float = 1.0  # relative frequency of music
    babble_weight: float = 1.0  # relative frequency of babble

    def __post_init__(self) -> None:
        for name in ("reverb_p", "channel_p", "noise_p"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"augment.{name}", value, "a probability from 0 to 1")
        for name in ("noise_snr", "music_snr", "babble_snr"):
            low, high = getattr(self, name)
            good = math.isfinite(low + high) and low <= high
            require(good, f"augment.{name}", [low, high], "a range in dB, the lower bound first")
        for name in ("noise_weight", "music_weight", "babble_weight", "channel_db"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"augment.{name}", value, "at least 0")
        seconds = self.max_rir_seconds
        require(0 < seconds < math.inf, "augment.max_rir_seconds", seconds, "more than 0")


@dataclass(frozen=True)
class Augmentation:
    """One kind of augmentation.

    keys   names of the drawn values in an item
    draw   (generator, banks, config, samples of the crop) -> the drawn values, in the order of the keys
    apply  (speech [*, T], the values of a batch, [*, ...] each) -> speech [*, T]
    """

    keys: tuple[str, ...]
    draw: Callable[[np.random.Generator, Banks, AugmentConfig, int], tuple[Any, ...]]
    apply: Callable[..., Tensor]


def draw_augmentations(
    rng: np.random.Generator, banks: Banks, config: AugmentConfig, frames: int
) -> dict[str, np.ndarray | np.float32]:
    """Draw what to apply to a crop of `frames` samples, for `augment`: a function of the generator's state alone."""
    drawn: dict[str, np.ndarray | np.float32] = {}
    # In reverse order of application: which values a seed gives depends on it.
    for kind in reversed(AUGMENTATIONS):
        drawn |= zip(kind.keys, kind.draw(rng, banks, config, frames), strict=True)
    return drawn


def augment(speech: Tensor, batch: Mapping[str, Tensor], prefix: str = "") -> Tensor:
    """Apply what `draw_augmentations` drew: speech [*, T] -> [*, T], reverberated, with noise that stays dry.

    batch   the collated values, [*, ...] each, under <prefix><key>
    """
    for kind in AUGMENTATIONS:
        speech = kind.apply(speech, *(batch[prefix + key] for key in kind.keys))
    return speech


def draw_noise(
    rng: np.random.Generator, banks: Banks, config: AugmentConfig, frames: int
) -> tuple[np.ndarray, np.float32]:
    """Noise int16 [frames] of one kind, and its SNR in dB."""
    kinds = list(banks.noise)
    weights = np.array([getattr(config, f"{kind}_weight") for kind in kinds])
    if rng.random() >= config.noise_p or not weights.sum() > 0:
        return np.zeros(frames, np.int16), np.float32(np.inf)
    kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
    snr = rng.uniform(*getattr(config, f"{kind}_snr"))
    return banks.noise[kind].crop(rng, frames), np.float32(snr)


def draw_rir(rng: np.random.Generator, banks: Banks, config: AugmentConfig, frames: int) -> tuple[np.ndarray]:
    """An RIR, float32 [R], zero-padded to max_rir_seconds; `frames` has no effect."""
    rir = np.zeros(max(1, round(config.max_rir_seconds * SAMPLE_RATE)), np.float32)
    if banks.rirs is not None and rng.random() < config.reverb_p:
        response = banks.rirs.draw(rng, len(rir))
        rir[: len(response)] = response
    else:
        rir[0] = 1.0
    return (rir,)


def draw_channel(rng: np.random.Generator, config: AugmentConfig) -> np.ndarray:
    """A random minimum-phase equaliser, float32 [CHANNEL_TAPS], for `reverberate`; the unit impulse for none.

    Its gain in dB is a sum of cosines along the mel scale: smooth, like the responses of microphones. Two crops of one
    utterance share a microphone, the easiest cue that they belong together; a channel of their own removes it.
    """
    if rng.random() >= config.channel_p:
        return np.eye(1, CHANNEL_TAPS, dtype=np.float32)[0]
    mels = np.log1p(np.linspace(0, SAMPLE_RATE / 2, CHANNEL_TAPS + 1) / 700)
    waves = np.cos(np.pi * np.arange(1, CHANNEL_WAVES + 1)[:, None] * mels / mels[-1])
    decibel = rng.normal(0, config.channel_db * math.sqrt(2 / CHANNEL_WAVES), CHANNEL_WAVES) @ waves
    # Folding the cepstrum of a gain onto positive times gives the minimum-phase response with that gain.
    cepstrum = np.fft.irfft(decibel * math.log(10) / 20)
    cepstrum[1:CHANNEL_TAPS] *= 2
    cepstrum[CHANNEL_TAPS + 1 :] = 0
    return np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))[:CHANNEL_TAPS].astype(np.float32)


def to_float(audio: Tensor) -> Tensor:
    """int16 samples -> float32 in [-1, 1); float audio is returned unchanged."""
    return audio.float() / 32768 if audio.dtype == torch.int16 else audio


@torch.no_grad()
def reverberate(speech: Tensor, rir: Tensor) -> Tensor:
    """Convolve with impulse responses; length, timing and energy stay those of the input.

    speech [*, T], rir [*, R] -> [*, T]. The tap of largest magnitude is time zero, so that the direct sound stays
    aligned with the speech; reverberation beyond T is cut off. The result is scaled to the energy of the input: the
    level does not reveal the room, and a later SNR is relative to the reverberated speech. A response with at most one
    tap other than 0 leaves the signal exactly unchanged.
    """
    wet = speech.clone()
    several = (rir != 0).sum(-1) > 1  # most crops get no RIR; their transforms would take half of the time
    if several.any():
        wet[several] = _convolve(speech[several], rir[several])
    return wet


def _convolve(speech: Tensor, rir: Tensor) -> Tensor:
    frames, taps = speech.shape[-1], rir.shape[-1]
    size = next_fast_len(max(frames, taps) + taps - 1, real=True)
    spectrum = torch.fft.rfft(speech, size) * torch.fft.rfft(_main_tap_first(rir, size))
    wet = torch.fft.irfft(spectrum, size)[..., :frames]
    return wet * amplitude_gain(energy(speech), energy(wet), if_silent=1.0)


def _main_tap_first(rir: Tensor, size: int) -> Tensor:
    """[*, R] -> [*, size >= 2R - 1], main tap at 0; the taps before it go to the end, as negative times."""
    taps = rir.shape[-1]
    main = rir.abs().argmax(-1, keepdim=True)
    around = main + torch.arange(2 * taps - 1, device=rir.device)
    centred = torch.nn.functional.pad(rir, (taps - 1, taps - 1)).gather(-1, around)
    before, after = centred.split([taps - 1, taps], dim=-1)
    gap = rir.new_zeros(*rir.shape[:-1], size - (2 * taps - 1))
    return torch.cat([after, gap, before], dim=-1)


@torch.no_grad()
def add_noise(speech: Tensor, noise: Tensor, snr: Tensor) -> Tensor:
    """Add noise at a signal-to-noise ratio of total energies over the crop.

    speech [*, T], noise [*, T] (int16 or float), snr [*] in dB -> [*, T]. With an infinite SNR, silent speech or silent
    noise, the speech is returned exactly unchanged.
    """
    noise = to_float(noise)
    wanted = energy(speech) * power_ratio(-snr)
    return speech + noise * amplitude_gain(wanted, energy(noise), if_silent=0.0)


@torch.no_grad()
def mix_at_sir(sources: Tensor, sir_db: Tensor) -> tuple[Tensor, Tensor]:
    """Mix sources at signal-to-interference ratios (SIR) of total energies, of the first source to each other one.

    sources [*, C, T], sir_db [*, C-1] -> mixture [*, T], scaled sources [*, C, T] that add up to it. The first source
    keeps its level. So does any other one when it or the first is silent.
    """
    first, others = sources[..., :1, :], sources[..., 1:, :]
    audible = energy(first) > SILENCE
    gain = amplitude_gain(energy(first) * power_ratio(-sir_db), energy(others), if_silent=1.0)
    scaled = torch.cat([first, others * torch.where(audible, gain, 1.0)], dim=-2)
    return scaled.sum(-2), scaled


REVERBERATION = Augmentation(("rir",), draw_rir, reverberate)
NOISE = Augmentation(("noise", "snr"), draw_noise, add_noise)
AUGMENTATIONS: tuple[Augmentation, ...] = (REVERBERATION, NOISE)  # in order of application
