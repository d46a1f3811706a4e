"""Pairs that are mixed anew for every crop, from clean speech and banks of noise: nothing noisy lies on the disk."""

from __future__ import annotations

import numpy as np

from cslib.data.banks import NoiseBank
from cslib.data.pair_mixing import audible_crop, mix
from cslib.data.pairs import PairConfig, Pairs, take_crop
from cslib.data.utterances import Utterances


class MixedPairs(Pairs):
    """Random crops of clean speech, and the same with noise of a random kind at a random ratio.

    noise  banks by kind, one or more; each kind is drawn as often
    Items are those of `Pairs`, without negatives. A recording meets other noise in every pass; the ratio holds for the
    crop, not for the whole recording.
    """

    def __init__(self, utterances: Utterances, noise: dict[str, NoiseBank], config: PairConfig, seed: int) -> None:
        super().__init__(utterances, config, seed)
        self.noise, self.snr_db = list(noise.values()), config.snr_db

    def signals(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """int16 [2, T]: noisy and clean"""
        speech = take_crop(self.utterances, row, self.frames, rng)
        noise = audible_crop(rng, self.noise[rng.integers(len(self.noise))], self.frames)
        clean, noisy = mix(rng, speech, noise, rng.uniform(*self.snr_db))
        return np.stack([noisy, clean])
