"""How far a training without labels is, on utterances that it never hears: does a part find its own other part?"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cslib.config import UserError
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import to_float

BLOCK = 64  # parts that pass through the network at once
SECONDS = 3.0  # of each part, at most; the beginning and the end of a recording


class Retrieval(nn.Module):
    """Some held-out utterances, in two parts each, and the share of first parts that find their own second part.

    rows   int64 [n] which utterances of the set they are
    share  float32, when it was last measured: 1 / n by chance, which it is before, 1 at best

    Who speaks is not asked: the same recording against other ones. So what a network knows of the recording channel
    counts as well, and the figure tells a training that learns from one that does not, not the better of two methods.
    Raises UserError when so many are held out that fewer than half are left.
    """

    def __init__(self, utterances: Utterances, count: int, seed: int) -> None:
        super().__init__()
        if count < 2 or 2 * count > len(utterances):
            raise UserError(
                f"objective.held_out: {count:,} of {len(utterances):,} utterances will not do; give 0, or "
                "from 2 to half of them"
            )
        # Items have seeds of two numbers, orders of passes have three, the last of them 1.
        self.rows = np.sort(np.random.default_rng([seed, 0, 2]).permutation(len(utterances))[:count])
        parts = torch.from_numpy(np.stack([_parts(utterances, row) for row in self.rows]))
        self.register_buffer("parts", parts, persistent=False)
        self.register_buffer("share", torch.tensor(1 / count))

    @torch.no_grad()
    def measure(self, network: nn.Module) -> None:
        """Update `share`; the network [B, T] -> [B, E] is used in eval mode, and left in the mode it was in."""
        training = network.training
        network.eval()
        first, second = (
            torch.cat([F.normalize(network(to_float(block)).float(), dim=-1) for block in part.split(BLOCK)])
            for part in self.parts.unbind(1)
        )
        network.train(training)
        nearest = (first @ second.T).argmax(1)
        self.share.copy_((nearest == torch.arange(len(nearest), device=nearest.device)).float().mean())


def _parts(utterances: Utterances, row: int) -> np.ndarray:
    """int16 [2, T] beginning and end of an utterance that have nothing in common, repeated where they are too short."""
    samples = utterances.read(int(row))
    size = round(SECONDS * SAMPLE_RATE)
    length = min(size, len(samples) // 2)
    return np.stack([np.resize(samples[:length], size), np.resize(samples[len(samples) - length :], size)])
