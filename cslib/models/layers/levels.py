"""Level normalisation: scale audio to a root mean square (RMS) of LEVEL_DBFS.

Three functions, because what is measured differs:

at_level            each signal by its own energy: crops of training data
at_level_of_first   all signals of an item by one gain, from the first: noisy speech with its clean reference
at_level_inside     each item of a padded batch by the mean power inside its length: input of a network

Each leaves silence as it is, with a threshold of its own: total energy 1e-20, RMS 1e-6 and mean power 1e-20. Results
also differ in the last bit, as the gain is a different formula; keep them apart, so that trainings stay reproducible.
Spectra have `level_gains` in cslib/models/layers/spectra.py. Audio is float in [-1, 1]; 0 dBFS is an RMS of 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVEL_DBFS = -25.0
LEVEL_RMS = 10 ** (LEVEL_DBFS / 20)
SILENCE = 1e-20  # energy or mean power; far below one step of a 16-bit sample, and safe to divide by
SILENT_RMS = 1e-6


@torch.no_grad()
def at_level(audio: Tensor, dbfs: Tensor | float = LEVEL_DBFS) -> Tensor:
    """Scale each signal of audio [*, T] to an RMS of `dbfs` (a number or [*]), without gradient."""
    wanted = audio.shape[-1] * power_ratio(torch.as_tensor(dbfs, device=audio.device))
    return audio * amplitude_gain(wanted, energy(audio), if_silent=1.0)


def at_level_of_first(signals: Tensor) -> Tensor:
    """Scale all signals [B, N, T] of an item by the gain that brings its first one to LEVEL_RMS.

    The first is the noisy speech, the only signal known in use. The others keep their level relative to it, so a
    network does not have to guess the level of the clean speech.
    """
    rms = signals[:, :1].square().mean(-1, keepdim=True).sqrt()
    return signals * torch.where(rms > SILENT_RMS, LEVEL_RMS / rms.clamp(min=SILENT_RMS), 1.0)


def at_level_inside(audio: Tensor, lengths: Tensor) -> Tensor:
    """Scale audio [B, T], zero from `lengths` [B] on, to LEVEL_RMS inside the lengths."""
    power = audio.square().sum(1) / lengths
    gain = torch.where(power > SILENCE, LEVEL_RMS * power.clamp(min=SILENCE).rsqrt(), 1.0)
    return audio * gain[:, None]


def energy(audio: Tensor) -> Tensor:
    """Sum of squares: [*, T] -> [*, 1]."""
    return audio.square().sum(-1, keepdim=True)


def power_ratio(decibel: Tensor) -> Tensor:
    """The ratio of powers, float32, that a level difference in dB stands for: [*] -> [*, 1]."""
    return torch.pow(10.0, decibel.float() / 10).unsqueeze(-1)


def amplitude_gain(wanted: Tensor, energy: Tensor, if_silent: float) -> Tensor:
    """The factor that brings a signal of `energy` to the energy `wanted`; `if_silent` where there is none to scale."""
    return torch.where(energy > SILENCE, (wanted / energy).sqrt(), if_silent)
