"""Pairs that are mixed anew for every crop, from clean speech and banks of noise: nothing noisy lies on the disk."""

from __future__ import annotations

import numpy as np

from cslib.corpora.pair_mixing import audible_crop, mix_at_snr
from cslib.data.banks import NoiseBank
from cslib.data.utterances import Utterances
from cslib.datasets.pairs import PairConfig, Pairs, take_crop

PAUSE = 10 ** (-55 / 20) * 32768  # root mean square, in 16-bit steps, below which a crop is a pause
TRIES = 10


class MixedPairs(Pairs):
    """Random crops of clean speech, and the same with noise of a random kind at a random ratio.

    noise  banks by kind, one or more; each kind is drawn as often
    Items are those of `Pairs`, without negatives. A recording meets other noise in every pass; the ratio holds for the
    crop, not for the whole recording. So that there is something to have a ratio to, pauses are passed over.
    """

    def __init__(self, utterances: Utterances, noise: dict[str, NoiseBank], config: PairConfig, seed: int) -> None:
        super().__init__(utterances, config, seed)
        self.noise, self.snr_db = list(noise.values()), config.snr_db

    def signals(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """int16 [2, T]: noisy and clean"""
        speech = self._speech(row, rng)
        noise = audible_crop(rng, self.noise[rng.integers(len(self.noise))], self.frames)
        clean, noisy = mix_at_snr(rng, speech, noise, rng.uniform(*self.snr_db))
        return np.stack([noisy, clean])

    def _speech(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """int16 [T], the first of a few crops that is no pause; where all seem to be pauses, the loudest of them."""
        loudest, most = np.zeros(self.frames, np.int16), -1.0
        for _ in range(TRIES):
            crop = take_crop(self.utterances, row, self.frames, rng)
            size = float(np.sqrt(np.mean(crop.astype(np.float32) ** 2)))
            if size > most:
                loudest, most = crop, size
            if size >= PAUSE or len(crop) >= self.utterances.num_samples[row]:
                break
        return loudest
