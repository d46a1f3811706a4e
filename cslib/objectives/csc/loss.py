"""Loss functions of CSC: separation by SI-SNR under the best permutation, and the contrast of identities.

Shapes: B mixtures, C streams and sources, T samples, n embeddings.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from cslib.objectives.angular_margin import add_angle


def pairwise_si_snr(estimates: Tensor, sources: Tensor) -> Tensor:
    """Scale-invariant SNR in dB, float32 [B, C', C], of every estimate [B, C', T] for every source [B, C, T].

    A silent source or estimate gives a finite, very low value. Computed in float64, under autocast too: the residual is
    a difference of nearly equal sums, which in float32 is off by several dB at 60 dB, and by how many depends on the
    processor; in bfloat16 the dot products alone would limit it to about 20 dB.
    """
    estimates, sources = estimates.double(), sources.double()
    estimates = estimates - estimates.mean(-1, keepdim=True)
    sources = sources - sources.mean(-1, keepdim=True)
    with torch.autocast(estimates.device.type, enabled=False):
        dot = estimates @ sources.transpose(1, 2)
    power = sources.square().sum(-1)[:, None] + 1e-8
    projected = dot.square() / power
    residual = (estimates.square().sum(-1)[..., None] - projected).clamp(min=0)
    return (10 * torch.log10((projected + 1e-8) / (residual + 1e-8))).float()


def best_permutation(agreement: Tensor, active: Tensor) -> Tensor:
    """agreement [B, stream, speaker], active bool [B, C] -> the stream of each speaker, int64 [B, C].

    The permutation of the largest total agreement over active speakers; the others take the streams that are left.
    """
    streams = agreement.shape[1]
    orders = torch.tensor(list(itertools.permutations(range(streams))), device=agreement.device)
    chosen = agreement.detach()[:, orders, torch.arange(streams, device=agreement.device)]
    # orders [C!, speaker] hold streams; chosen [B, C!, speaker]
    return orders[(chosen * active[:, None]).sum(-1).argmax(1)]


def without_outliers(gradient: Tensor) -> Tensor:
    """Gradient of the streams [B, C, T] with the norm of each stream limited to ten times the median norm.

    The SI-SNR of a faint stream has a gradient of one over its amplitude. Where the whole gradient is clipped to a
    norm, a single such stream would take it all, step after step.
    """
    norms = gradient.norm(dim=-1, keepdim=True)
    present = norms[norms > 0]
    return gradient * (10 * present.median() / norms.clamp(min=1e-20)).clamp(max=1) if len(present) else gradient


def contrastive_losses(true: Tensor, log_sum: Tensor, scale: Tensor, margin: float = 0.0) -> Tensor:
    """Cross-entropy [n] of picking the true identity among all.

    true     [n] cosine with the true identity's global vector
    log_sum  [n] log of the sum over all identities of exp(scale * cosine), the true one included
    scale    scalar, 2 alpha
    margin   radians added to the angle to the true identity (AAM-softmax)
    """
    if not margin:
        return log_sum - scale * true
    widened = add_angle(true, margin)
    # log(sum - exp(true) + exp(widened)) without leaving the logarithm.
    others = log_sum + torch.log1p(-torch.exp(scale * true - log_sum).clamp(max=1 - 1e-6))
    return torch.logaddexp(others, scale * widened) - scale * widened
