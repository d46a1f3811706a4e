"""Cross-attention from a speaker embedding over each identity's embeddings under other interference.

Part of CSC (Wang et al. 2021, arXiv 2103.00816); the formula is reconstructed. The query attends to the bank of *every*
identity, not only of the true one: if only the true identity were summarised with the query's help, the label would
leak into the score.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ABSENT = -1e4  # not minus infinity: sums over nothing but absent identities keep a finite gradient


class IdentityAttention(nn.Module):
    """Cosine between a query and the global vector that it gathers from each identity.

    g_j(v) = normalise(sum_m a_jm k_jm),  a_jm = softmax_m(v W_Q . k_jm W_K / sqrt(E)),  k_j: j's entries.

    g [n, N, E] is never built: with the bank's Gram matrices, cos(v, g_j) follows from dot products with the entries.

    size       E
    attention  False: mean over an identity's entries, the ablation without attention
    chunk      identities per chunk; with more than one chunk, scores are recomputed in the backward pass
    """

    def __init__(self, size: int, attention: bool = True, chunk: int = 16384) -> None:
        super().__init__()
        self.attention, self.chunk = attention, chunk
        if attention:
            self.query, self.key = nn.Linear(size, size, bias=False), nn.Linear(size, size, bias=False)

    def cosines(self, queries: Tensor, bank: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """queries [n, E] of unit length, bank [N, R, E], allowed bool [n, N, R] -> cosines, entropy [n, N].

        An identity with no allowed entry has cosine ABSENT and drops out of any softmax. The entropy of the attention
        over an identity's entries is relative to that of equal weights: 1 = no preference, 0 = one entry only. All in
        float32.
        """
        with torch.autocast(queries.device.type, enabled=False):
            return self._cosines(queries.float(), bank.float(), allowed)

    def log_partition(
        self, queries: Tensor, scale: Tensor, bank: Tensor, allowed: Callable[[slice], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """log sum_j exp(scale cos(v, g_j)) [n] over all N identities, in chunks.

        Returns also the largest cosine [n] and the number of identities with an allowed entry [n] (float).

        allowed(slice of identities) -> bool [n, <= chunk, R]: made per chunk, so [n, N, R] never exists.
        """

        def one(queries: Tensor, scale: Tensor, begin: int) -> tuple[Tensor, Tensor, Tensor]:
            part = slice(begin, begin + self.chunk)
            cosines, _ = self.cosines(queries, bank[part], allowed(part))
            found = cosines.detach()
            return torch.logsumexp(scale * cosines, dim=1), found.amax(1), (found > ABSENT / 2).float().sum(1)

        begins = range(0, len(bank), self.chunk)
        if len(begins) == 1:
            return one(queries, scale, 0)
        parts = [checkpoint(one, queries, scale, begin, use_reentrant=False) for begin in begins]
        sums, largest, present = (torch.stack(values) for values in zip(*parts, strict=True))
        return torch.logsumexp(sums, dim=0), largest.amax(0), present.sum(0)

    def cosines_to(self, queries: Tensor, entries: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """As `cosines`, for one identity per query: entries [n, R, E], allowed [n, R] -> cosines, entropy [n]."""
        with torch.autocast(queries.device.type, enabled=False):
            queries, entries = queries.float(), entries.float()
            scores = torch.einsum("ne,nre->nr", self._projected(queries), entries)
            gram = entries @ entries.transpose(1, 2)
            return _gathered(scores, torch.einsum("ne,nre->nr", queries, entries), gram, allowed)

    def _cosines(self, queries: Tensor, bank: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        identities, entries = bank.shape[:2]
        flat = bank.flatten(0, 1).T
        scores = (self._projected(queries) @ flat).unflatten(1, (identities, entries))
        similar = (queries @ flat).unflatten(1, (identities, entries))
        return _gathered(scores, similar, bank @ bank.transpose(1, 2), allowed)

    def _projected(self, queries: Tensor) -> Tensor:
        """v W_Q W_K^T / sqrt(E) [n, E]: projecting the query through both avoids projecting the bank."""
        if not self.attention:
            return torch.zeros_like(queries)
        return self.query(queries) @ self.key.weight / math.sqrt(queries.shape[1])


def _gathered(scores: Tensor, similar: Tensor, gram: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and cosines of entries [..., R], Gram [..., R, R] -> cosine with their weighted sum, entropy [...]."""
    present = allowed.any(-1)
    # A row without entries gets equal weights, so that its softmax stays finite, and is masked below.
    weights = torch.softmax(scores.masked_fill(~allowed & present[..., None], -math.inf), dim=-1)
    length = (torch.einsum("...r,...rs->...s", weights, gram) * weights).sum(-1).clamp(min=1e-12).sqrt()
    cosines = ((weights * similar).sum(-1) / length).masked_fill(~present, ABSENT)
    count = allowed.sum(-1).clamp(min=2)
    entropy = -(weights.detach() * weights.detach().clamp(min=1e-12).log()).sum(-1) / count.log()
    return cosines, entropy
