"""Loss functions of DINO and of the methods that follow it.

distillation_loss          cross-entropy of teacher and student (Caron et al. 2021, equation 3)
sinkhorn_knopp_offsets     balanced targets (SwAV: Caron et al. 2020; SDPN: Chen et al. 2025)
koleo_loss                 keeps neighbours in a batch apart (Sablayrolles et al. 2019; SDPN)
me_max_loss                keeps all prototypes in use (Assran et al. 2022; SDPN)
variance_covariance_loss   keeps dimensions in use and independent (Chen et al. 2023, RDINO)

Shapes: B utterances, M global crops and N crops of each, E size of an embedding, D size of a point, K prototypes.
Points are unit vectors, the outputs of the head. Everything is computed in float32, under autocast too.

With several processes, me_max_loss and the Sinkhorn-Knopp offsets are those of the global batch. koleo_loss and
variance_covariance_loss use only the embeddings of their own process.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cslib.objectives.base import gather
from cslib.objectives.covariance import variance_and_covariance_losses

SINKHORN_ROUNDS = 3  # as in SwAV and SDPN


def prototype_cosines(points: Tensor, prototypes: Tensor) -> Tensor:
    """[..., D], [K, D] -> [..., K] in float32: bfloat16 resolves them to 1/256, too coarse to divide by 0.04."""
    with torch.autocast(points.device.type, enabled=False):
        return points @ prototypes.T


def distillation_loss(points: Tensor, prototypes: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Mean over pairs of a global crop i and another crop j of  -sum_k P_t(k|i) log P_s(k|j)  (Caron et al., eq. 3).

    points      [B, N, D] student's points, global crops first; P_s is the softmax of their cosines / temperature
    prototypes  [K, D] unit vectors
    targets     [B, M, K] P_t of the M global crops

    Cosines are linear in the points, so a target acts on them through its mean prototype alone, and only the sum
    log Z_j = log sum_k exp(cos_jk / temperature) needs all K of them:  -sum_k P_t log P_s = log Z_j - point_j .
    mean_i / temperature.  So the cosines of all crops are held once, [B N, K], and nothing of size [pairs, B, K] is.
    """
    num_global, crops = targets.shape[1], points.shape[1]
    num_local = crops - num_global
    with torch.autocast(points.device.type, enabled=False):
        points = points / temperature
        log_sums = LogPartition.apply(points.flatten(0, 1), prototypes).unflatten(0, points.shape[:2])
        means = targets @ prototypes  # [B, M, D]
        every = means.sum(1, keepdim=True)
        wanted = torch.cat([every - means, every.expand(-1, num_local, -1)], dim=1)  # sum over each crop's targets
        num_targets = torch.tensor([num_global - 1] * num_global + [num_global] * num_local, device=points.device)
        return (num_targets * log_sums - (wanted * points).sum(-1)).sum(1).mean() / (num_global * (crops - 1))


class LogPartition(torch.autograd.Function):
    """log sum_k exp(point . prototype_k): [n, D], [K, D] -> [n], with the exponentials in one matrix [n, K].

    torch.logsumexp holds four of them at its peak, which is 770 MiB at 768 crops and 65,536 prototypes.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, prototypes: Tensor) -> Tensor:
        exponentials = points @ prototypes.T
        largest = exponentials.amax(1, keepdim=True)
        sums = exponentials.sub_(largest).exp_().sum(1)
        ctx.save_for_backward(points, prototypes, exponentials, sums)
        return largest[:, 0] + sums.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        points, prototypes, exponentials, sums = ctx.saved_tensors
        weights = (gradient / sums)[:, None]
        of_prototypes = exponentials.T @ (weights * points) if ctx.needs_input_grad[1] else None
        return weights * (exponentials @ prototypes), of_prototypes


@torch.no_grad()
def sinkhorn_knopp_offsets(logits: Tensor, rounds: int = SINKHORN_ROUNDS) -> Tensor:
    """Offsets [K] such that the softmax of logits [n, K] - offsets gives every prototype the same total.

    Sinkhorn-Knopp on the matrix of the rows' distributions: each round scales every prototype's column to n / K, then
    every row to 1. The scales of the columns are all that one row depends on of the others, so they suffice.

    With fewer rows than prototypes each row must cover K / n of them: the mean entropy of balanced rows is at least
    ln(K / n).
    """
    logits = logits.float()
    offsets = torch.zeros_like(logits[0])
    for _ in range(rounds):
        offsets = offsets + (logits - offsets).log_softmax(1).logsumexp(0)
    return offsets


def me_max_loss(points: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """ln K - the entropy of the mean distribution over all points [n, D] of all processes; 0 = uniform use.

    Mean-entropy maximisation (me-max) of Assran et al. 2022 (Masked Siamese Networks, arXiv 2204.07141).
    """
    own = (prototype_cosines(points, prototypes) / temperature).softmax(-1).mean(0)
    # The value is that of all processes. Each contributes the gradient of its own share; DDP averages them.
    mean = own + (gather(own[None]).mean(0) - own.detach())
    return math.log(len(mean)) - torch.special.entr(mean).sum()


def koleo_loss(embeddings: Tensor) -> Tensor:
    """-mean log distance of each embedding, scaled to length 1, to its nearest neighbour among [B, E].

    Sablayrolles et al. 2019, arXiv 1806.03198. Needs B >= 2. B is the batch of one process: with more processes at the
    same global batch, neighbours are further away and the loss is smaller.
    """
    unit = F.normalize(embeddings, dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
    return -((unit - unit[nearest]).square().sum(-1) + 1e-8).log().mean() / 2


def variance_covariance_loss(embeddings: Tensor) -> Tensor:
    """10 x mean shortfall of standard deviations below 1, + squared covariances of different dimensions / E, of [B, E].

    Terms and ratio are those of RDINO (Chen et al. 2023, arXiv 2211.04168), which applies them to an expander of 8,192
    dimensions in the head; here they act on the embedding itself. Needs B >= 2. B is the batch of one process: the
    smaller it is, the larger is the squared covariance of independent dimensions, about 1 / (B - 1) at variance 1.
    """
    variance, covariance = variance_and_covariance_losses(embeddings)
    return 10 * variance + covariance
