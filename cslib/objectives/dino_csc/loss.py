"""Losses of mixtures of two speakers: each stream is compared with the teacher's distributions of both speakers.

Shapes: B mixtures, C = 2 streams and speakers, D size of a point, K prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cslib.objectives.csc.loss import best_permutation
from cslib.objectives.dino.loss import LogPartition


def pairwise_cross_entropy(points: Tensor, prototypes: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """-sum_k P_t(k | speaker) log P_s(k | stream) of each stream and each speaker, [B, stream, speaker].

    points      [B, C, D] unit vectors of the streams
    prototypes  [K, D]
    targets     [B, C, K] the teacher's distributions of the speakers

    As in `distillation_loss` of DINO, a speaker's mean prototype is enough, except for the sum in the softmax.
    """
    with torch.autocast(points.device.type, enabled=False):
        points = points / temperature
        log_sums = LogPartition.apply(points.flatten(0, 1), prototypes).unflatten(0, points.shape[:2])
        return log_sums[..., None] - points @ (targets @ prototypes).transpose(1, 2)


def loss_by_speaker(losses: Tensor, by_loudness: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses [B, stream, speaker] -> those of the best permutation, [B, speaker], and diagnostics.

    by_loudness  assign the first stream to the louder speaker, whatever the losses

    louder, quieter       mean loss of either speaker
    permutation_accuracy  share of mixtures in which each speaker has a smaller loss with the stream of the permutation
                          than with the other one: 0 when both streams are equal, 0.5 when they differ by chance
    first_is_louder       share of mixtures in which the first stream, the plain embedding, fits the louder speaker
                          better: the one whom a verification trial is about
    """
    everyone = torch.ones_like(losses[:, 0], dtype=torch.bool)
    best = best_permutation(-losses, everyone)  # [B, speaker]
    order = torch.arange(2, device=best.device).expand_as(best) if by_loudness else best
    own, others = (losses.gather(1, streams[:, None])[:, 0] for streams in (order, order.flip(1)))
    values = own.detach()
    return own, {
        "louder": values[:, 0].mean(),
        "quieter": values[:, 1].mean(),
        "permutation_accuracy": (values < others).all(1).float().mean(),
        "first_is_louder": (best[:, 0] == 0).float().mean(),
    }
