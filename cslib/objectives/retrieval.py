"""Progress of a training without labels, on held-out utterances: does one part find the other part of its utterance?"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib.config import require
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import to_float

BLOCK = 64  # parts per forward pass
SECONDS = 3.0  # of each part, at most


class Retrieval(nn.Module):
    """The share of held-out utterances whose beginning is nearest to their own end, by cosine.

    rows   int64 [n], their rows in the set
    share  float32 scalar as last measured; 1 / n, chance, before that; 1 at best
    parts  int16 [n, 2, T], beginning and end of each

    Speakers are not used: a recording is compared with other recordings, so knowledge of the channel counts too. The
    figure shows whether a training learns, not which of two methods is better.
    Raises UserError unless from 2 to half of the utterances are held out.
    """

    parts: Tensor
    share: Tensor

    def __init__(self, utterances: Utterances, count: int, seed: int) -> None:
        super().__init__()
        wanted = f"0, or from 2 to half of the {len(utterances):,} utterances"
        require(2 <= count <= len(utterances) / 2, "objective.held_out", count, wanted)
        # Seeds of items have two numbers, those of the order of passes have three, the last of them 1.
        self.rows = np.sort(np.random.default_rng([seed, 0, 2]).permutation(len(utterances))[:count])
        parts = torch.from_numpy(np.stack([_parts(utterances, row) for row in self.rows]))
        self.register_buffer("parts", parts, persistent=False)
        self.register_buffer("share", torch.tensor(1 / count))

    @torch.no_grad()
    def measure(self, network: nn.Module) -> None:
        """Update `share`. The network, [B, T] -> [B, E], is used in eval mode and returned to its mode."""
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
    """int16 [2, T]: beginning and end of an utterance, without overlap, repeated where they are shorter than T."""
    samples = utterances.read(int(row))
    size = round(SECONDS * SAMPLE_RATE)
    length = min(size, len(samples) // 2)
    return np.stack([np.resize(samples[:length], size), np.resize(samples[len(samples) - length :], size)])
