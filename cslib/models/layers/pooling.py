"""From frames to one vector: weighted mean and standard deviation over time, with padded frames left out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cslib.config import UserError

VARIANCE_FLOOR = 1e-5  # keeps the gradient of the square root finite where a channel is constant


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over time (Snyder et al. 2018): [B, D, T] -> [B, 2 D]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.output_size = 2 * channels

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask bool [B, T], True inside the utterance; all inside when None."""
        return weighted_statistics(frames, equal_weights(frames, mask))


class AttentiveStatisticsPooling(nn.Module):
    """The same with weights that each channel learns for itself (Okabe et al. 2018; per channel: Desplanques
    et al. 2020).

    channels     D
    bottleneck   width of the layer between the frames and their scores
    """

    def __init__(self, channels: int, bottleneck: int = 128) -> None:
        super().__init__()
        self.output_size = 2 * channels
        self.score = nn.Sequential(nn.Conv1d(channels, bottleneck, 1), nn.Tanh(), nn.Conv1d(bottleneck, channels, 1))

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """frames [B, D, T], mask bool [B, T] -> [B, 2 D]."""
        scores = self.scores(frames, mask).float()
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -torch.inf)
        return weighted_statistics(frames, scores.softmax(dim=-1))

    def scores(self, frames: Tensor, mask: Tensor | None) -> Tensor:
        """How much each channel wants each frame: [B, D, T] -> [B, D, T]."""
        return self.score(frames)


class ContextPooling(AttentiveStatisticsPooling):
    """The same, where a frame is scored with the mean and standard deviation of the utterance joined to it
    (Desplanques et al. 2020, section 3.1): a frame may count for what sets it apart from the others.
    """

    def __init__(self, channels: int, bottleneck: int = 128) -> None:
        super().__init__(channels, bottleneck)
        # The first layer's weights of what is joined: it is the same at every frame, so once is enough.
        self.context = nn.Linear(2 * channels, bottleneck, bias=False)

    def scores(self, frames: Tensor, mask: Tensor | None) -> Tensor:
        context = self.context(weighted_statistics(frames, equal_weights(frames, mask)))
        return self.score[1:](self.score[0](frames) + context[..., None])


def equal_weights(frames: Tensor, mask: Tensor | None) -> Tensor:
    """float32 [B, 1, T]: one over the number of frames where mask bool [B, T] is True, 0 elsewhere."""
    inside = torch.ones_like(frames[:, 0], dtype=torch.bool) if mask is None else mask
    return (inside.float() / inside.sum(-1, keepdim=True))[:, None]


def weighted_statistics(frames: Tensor, weights: Tensor) -> Tensor:
    """Mean and standard deviation, float32 [B, 2 D], of frames [B, D, T]; weights sum to one over T."""
    with torch.autocast(frames.device.type, enabled=False):
        frames = frames.float()
        mean = (frames * weights).sum(-1)
        variance = ((frames - mean[..., None]).square() * weights).sum(-1)
        return torch.cat([mean, (variance + VARIANCE_FLOOR).sqrt()], dim=1)


ATTENTIVE = {"attentive": AttentiveStatisticsPooling, "context": ContextPooling}


def make_pooling(kind: str, channels: int, bottleneck: int = 128) -> nn.Module:
    """The pooling that `network.pooling` names. Raises UserError when there is none of that name."""
    if kind == "statistics":
        return StatisticsPooling(channels)
    if kind not in ATTENTIVE:
        raise UserError(f"network.pooling: {kind} is not one of {', '.join(['statistics', *ATTENTIVE])}")
    return ATTENTIVE[kind](channels, bottleneck)
