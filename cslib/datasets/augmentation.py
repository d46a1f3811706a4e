"""Reverberation, additive noise and mixtures, in batches, on whichever device the audio is.

Loader workers only draw what shall be done to a crop (`draw_degradation`, numpy); the training device does it
(`degrade`, torch, without gradient). Offline preparation calls the same functions. Audio is float in [-1, 1]
at 16 kHz.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from cslib.config import UserError
from cslib.data.banks import Banks
from cslib.data.manifests import SAMPLE_RATE

SILENCE = 1e-20  # total energy; far below one step of a 16-bit sample, and safe to divide by

CHANNEL_TAPS = 256  # 16 ms
CHANNEL_WAVES = 4  # the fastest swings twice between 0 and 8 kHz


@dataclass
class AugmentConfig:
    """How speech is degraded: a channel, reverberation, one kind of noise. The defaults are Cho et al.'s (2022), but
    for the length of RIRs, which is ours.
    """

    reverb_p: float = 0.45  # probability that a crop is reverberated
    max_rir_seconds: float = 0.5  # longer RIRs are cut off here
    channel_p: float = 0.0  # probability that a crop passes a random equaliser, as through another microphone
    channel_db: float = 6.0  # how far its response strays from flat: standard deviation over frequencies
    noise_p: float = 0.7  # probability that a crop gets noise of one kind
    noise_snr: tuple[float, float] = (0.0, 18.0)  # dB, drawn uniformly; noises such as doors, cars and rain
    music_snr: tuple[float, float] = (3.0, 18.0)  # dB
    babble_snr: tuple[float, float] = (3.0, 18.0)  # dB; several people who talk at once
    noise_weight: float = 1.0  # how often the kind is noise, relative to the other two; no bank = never
    music_weight: float = 1.0  # the same for music
    babble_weight: float = 1.0  # the same for babble

    def __post_init__(self) -> None:
        for name in ("reverb_p", "channel_p", "noise_p"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a probability from 0 to 1")
        for name in ("noise_snr", "music_snr", "babble_snr"):
            low, high = getattr(self, name)
            good = math.isfinite(low + high) and low <= high
            _require(good, name, [low, high], "the lower bound first, in dB")
        for name in ("noise_weight", "music_weight", "babble_weight", "channel_db"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "a number of 0 or more")
        seconds = self.max_rir_seconds
        _require(0 < seconds < math.inf, "max_rir_seconds", seconds, "more than 0")


def _require(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise UserError(f"augment.{name}: {value} will not do; give {wanted}")


class Degradation(NamedTuple):
    """What shall be done to one crop; `default_collate` makes a batch of it, keeping noise in int16.

    noise   int16 [frames]; zeros = none
    snr     float32 scalar, dB; infinite = none
    rir     float32 [rir_frames], zero-padded to the same length for every crop; the unit impulse = none
    """

    noise: np.ndarray
    snr: np.float32
    rir: np.ndarray


def draw_degradation(rng: np.random.Generator, banks: Banks, config: AugmentConfig, frames: int) -> Degradation:
    """Draw what to do to a crop of `frames` samples; a function of the generator's state and nothing else."""
    return Degradation(*_draw_noise(rng, banks, config, frames), _draw_rir(rng, banks, config))


def _draw_noise(
    rng: np.random.Generator, banks: Banks, config: AugmentConfig, frames: int
) -> tuple[np.ndarray, np.float32]:
    kinds = list(banks.noise)
    weights = np.array([getattr(config, f"{kind}_weight") for kind in kinds])
    if rng.random() >= config.noise_p or not weights.sum() > 0:
        return np.zeros(frames, np.int16), np.float32(np.inf)
    kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
    snr = rng.uniform(*getattr(config, f"{kind}_snr"))
    return banks.noise[kind].crop(rng, frames), np.float32(snr)


def _draw_rir(rng: np.random.Generator, banks: Banks, config: AugmentConfig) -> np.ndarray:
    rir = np.zeros(max(1, round(config.max_rir_seconds * SAMPLE_RATE)), np.float32)
    if banks.rirs is not None and rng.random() < config.reverb_p:
        response = banks.rirs.draw(rng, len(rir))
        rir[: len(response)] = response
    else:
        rir[0] = 1.0
    return rir


def draw_channel(rng: np.random.Generator, config: AugmentConfig) -> np.ndarray:
    """A random equaliser, float32 [CHANNEL_TAPS] of minimum phase, for `reverberate`; the unit impulse = none.

    Its gain in dB is a sum of cosines along the mel scale: smooth, as the responses of microphones are. Two crops
    of one utterance share a microphone, which is the cheapest way to tell that they belong together.
    """
    if rng.random() >= config.channel_p:
        return np.eye(1, CHANNEL_TAPS, dtype=np.float32)[0]
    mels = np.log1p(np.linspace(0, SAMPLE_RATE / 2, CHANNEL_TAPS + 1) / 700)
    waves = np.cos(np.pi * np.arange(1, CHANNEL_WAVES + 1)[:, None] * mels / mels[-1])
    decibel = rng.normal(0, config.channel_db * math.sqrt(2 / CHANNEL_WAVES), CHANNEL_WAVES) @ waves
    # Folding the cepstrum of a gain onto positive times gives the response of minimum phase that has it.
    cepstrum = np.fft.irfft(decibel * math.log(10) / 20)
    cepstrum[1:CHANNEL_TAPS] *= 2
    cepstrum[CHANNEL_TAPS + 1 :] = 0
    return np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))[:CHANNEL_TAPS].astype(np.float32)


def degrade(speech: Tensor, noise: Tensor, snr: Tensor, rir: Tensor) -> Tensor:
    """Reverberate, then add noise: `degrade(speech, *degradation)` with a collated `Degradation`.

    speech [*, T], noise [*, T] (int16 or float), snr [*] in dB, rir [*, R] -> [*, T]. The noise stays dry.
    """
    return add_noise(reverberate(speech, rir), to_float(noise), snr)


def to_float(audio: Tensor) -> Tensor:
    """int16 samples as float32 in [-1, 1); audio that is float already is returned as it is."""
    return audio.float() / 32768 if audio.dtype == torch.int16 else audio


@torch.no_grad()
def reverberate(speech: Tensor, rir: Tensor) -> Tensor:
    """Convolve with room impulse responses (RIRs); length, timing and energy stay those of the input.

    speech [*, T], rir [*, R] -> [*, T]. A response's tap of largest magnitude is time zero, so the direct
    sound stays where the speech is; what rings on after T is cut off. The result is scaled to the input's
    energy: the level does not betray the room, and an SNR set afterwards is relative to the reverberated
    speech. A response of one tap (a unit impulse), or of none, leaves the signal exactly as it is.
    """
    wet = speech.clone()
    rings = (rir != 0).sum(-1) > 1  # most crops get no RIR: their transforms would cost half of the mixing
    if rings.any():
        wet[rings] = _convolve(speech[rings], rir[rings])
    return wet


def _convolve(speech: Tensor, rir: Tensor) -> Tensor:
    frames, taps = speech.shape[-1], rir.shape[-1]
    size = next_fast_len(max(frames, taps) + taps - 1, real=True)
    spectrum = torch.fft.rfft(speech, size) * torch.fft.rfft(_main_tap_first(rir, size))
    wet = torch.fft.irfft(spectrum, size)[..., :frames]
    return wet * _gain(_energy(speech), _energy(wet), otherwise=1.0)


def _main_tap_first(rir: Tensor, size: int) -> Tensor:
    """[*, R] -> [*, size >= 2R - 1], main tap at 0; the taps before it go to the end, as times below 0."""
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

    speech [*, T], noise [*, T], snr [*] in dB -> [*, T]. Where the SNR is infinite, or speech or noise is
    silent, the speech comes back exactly as it was.
    """
    wanted = _energy(speech) * _power_ratio(-snr)
    return speech + noise * _gain(wanted, _energy(noise), otherwise=0.0)


@torch.no_grad()
def mix_at_sir(sources: Tensor, sir_db: Tensor) -> tuple[Tensor, Tensor]:
    """Mix sources, the first one `sir_db` louder than each of the others (ratio of total energies).

    sources [*, C, T], sir_db [*, C-1] -> mixture [*, T], scaled sources [*, C, T] that add up to it. The
    first source keeps its level; so does any other where it or the first is silent.
    """
    first, others = sources[..., :1, :], sources[..., 1:, :]
    audible = _energy(first) > SILENCE
    gain = _gain(_energy(first) * _power_ratio(-sir_db), _energy(others), otherwise=1.0)
    scaled = torch.cat([first, others * torch.where(audible, gain, 1.0)], dim=-2)
    return scaled.sum(-2), scaled


@torch.no_grad()
def level(audio: Tensor, dbfs: Tensor | float = -25.0) -> Tensor:
    """Scale audio [*, T] to a root mean square of `dbfs` (a number or [*], 0 = full scale); silence stays."""
    wanted = audio.shape[-1] * _power_ratio(torch.as_tensor(dbfs, device=audio.device))
    return audio * _gain(wanted, _energy(audio), otherwise=1.0)


def _energy(audio: Tensor) -> Tensor:
    """[*, T] -> [*, 1]"""
    return audio.square().sum(-1, keepdim=True)


def _power_ratio(decibel: Tensor) -> Tensor:
    """[*] -> [*, 1]"""
    return torch.pow(10.0, decibel.float() / 10).unsqueeze(-1)


def _gain(wanted: Tensor, energy: Tensor, otherwise: float) -> Tensor:
    """The factor that brings `energy` to `wanted`; `otherwise` where there is no energy to scale."""
    return torch.where(energy > SILENCE, (wanted / energy).sqrt(), otherwise)
