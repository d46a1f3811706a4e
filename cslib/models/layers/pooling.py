"""Pooling over time: weighted mean and standard deviation of each channel, leaving padded frames out.

Shapes: B recordings, D channels, T frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cslib.config import require

VARIANCE_FLOOR = 1e-5  # keeps the gradient of the square root finite where a channel is constant


class Pooling(nn.Module):
    """frames [B, D, T], mask bool [B, T] (True inside the utterance; None: all) -> float32 [B, output_size]."""

    output_size: int  # 2 D: the means of all channels, then their standard deviations

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.output_size = 2 * channels

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        raise NotImplementedError


class StatisticsPooling(Pooling):
    """Mean and standard deviation over time (Snyder et al. 2018)."""

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        return weighted_statistics(frames, equal_weights(frames, mask))


class AttentiveStatisticsPooling(Pooling):
    """Mean and standard deviation with learnt weights (Okabe et al. 2018), separate for each channel (Desplanques et
    al. 2020).

    channels    D
    bottleneck  width of the layer between the frames and their scores
    """

    def __init__(self, channels: int, bottleneck: int = 128) -> None:
        super().__init__(channels)
        self.score = nn.Sequential(nn.Conv1d(channels, bottleneck, 1), nn.Tanh(), nn.Conv1d(bottleneck, channels, 1))

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = self.scores(frames, mask).float()
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -torch.inf)
        return weighted_statistics(frames, scores.softmax(dim=-1))

    def scores(self, frames: Tensor, mask: Tensor | None) -> Tensor:
        """Logits of the weights, for every channel and frame: [B, D, T] -> [B, D, T]."""
        return self.score(frames)


class ContextPooling(AttentiveStatisticsPooling):
    """Attentive pooling whose scores also see the mean and deviation of the utterance (Desplanques et al. 2020,
    section 3.1): the weight of a frame can depend on how it differs from the others.
    """

    def __init__(self, channels: int, bottleneck: int = 128) -> None:
        super().__init__(channels, bottleneck)
        # First-layer weights of the statistics, which are the same at every frame: one product per utterance.
        self.context = nn.Linear(2 * channels, bottleneck, bias=False)

    def scores(self, frames: Tensor, mask: Tensor | None) -> Tensor:
        context = self.context(weighted_statistics(frames, equal_weights(frames, mask)))
        return self.score[1:](self.score[0](frames) + context[..., None])


def equal_weights(frames: Tensor, mask: Tensor | None) -> Tensor:
    """float32 [B, 1, T]: 1 / (number of frames inside) where mask bool [B, T] is True, 0 elsewhere."""
    inside = torch.ones_like(frames[:, 0], dtype=torch.bool) if mask is None else mask
    return (inside.float() / inside.sum(-1, keepdim=True))[:, None]


def weighted_statistics(frames: Tensor, weights: Tensor) -> Tensor:
    """Mean and standard deviation, float32 [B, 2 D], of frames [B, D, T]; the weights sum to 1 over T."""
    with torch.autocast(frames.device.type, enabled=False):
        frames = frames.float()
        mean = (frames * weights).sum(-1)
        variance = ((frames - mean[..., None]).square() * weights).sum(-1)
        return torch.cat([mean, (variance + VARIANCE_FLOOR).sqrt()], dim=1)


ATTENTIVE = {"attentive": AttentiveStatisticsPooling, "context": ContextPooling}


def make_pooling(kind: str, channels: int, bottleneck: int = 128) -> Pooling:
    """The pooling that `network.pooling` names. Raises UserError for an unknown name."""
    kinds = ("statistics", *ATTENTIVE)
    require(kind in kinds, "network.pooling", kind, f"one of {', '.join(kinds)}")
    return StatisticsPooling(channels) if kind == "statistics" else ATTENTIVE[kind](channels, bottleneck)
