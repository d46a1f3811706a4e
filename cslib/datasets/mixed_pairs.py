"""Pairs mixed on the fly from clean speech and banks of noise."""

from __future__ import annotations

import numpy as np

from cslib.corpora.pair_mixing import audible_crop, mix_at_snr
from cslib.data.banks import NoiseBank
from cslib.data.utterances import Utterances
from cslib.datasets.pairs import PairConfig, Pairs, take_crop

PAUSE = 10 ** (-55 / 20) * 32768  # a crop with a smaller RMS, in 16-bit steps, is a pause: -55 dBFS
TRIES = 10  # crops drawn at most


class MixedPairs(Pairs):
    """Random crops of clean speech, and the same crops with noise of a random kind at a random SNR.

    noise  banks by kind, at least one; all kinds are equally probable
    Items are those of `Pairs`, without negatives. The noise differs from epoch to epoch. The SNR is that of the crop,
    not of the whole recording; crops that are pauses are therefore drawn again.
    """

    def __init__(self, utterances: Utterances, noise: dict[str, NoiseBank], config: PairConfig, seed: int) -> None:
        super().__init__(utterances, config, seed)
        self.noise, self.snr_db = list(noise.values()), config.snr_db

    def signals(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """int16 [2, T]: noisy, clean."""
        speech = self._speech(row, rng)
        noise = audible_crop(rng, self.noise[rng.integers(len(self.noise))], self.frames)
        clean, noisy = mix_at_snr(rng, speech, noise, rng.uniform(*self.snr_db))
        return np.stack([noisy, clean])

    def _speech(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """int16 [T]: the first of up to TRIES crops that is not a pause; if all are pauses, the loudest."""
        loudest, most = np.zeros(self.frames, np.int16), -1.0
        for _ in range(TRIES):
            crop = take_crop(self.utterances, row, self.frames, rng)
            size = float(np.sqrt(np.mean(crop.astype(np.float32) ** 2)))
            if size > most:
                loudest, most = crop, size
            if size >= PAUSE or len(crop) >= self.utterances.num_samples[row]:
                break
        return loudest
