"""Cross-attention from a speaker embedding over what every identity looked like under other interference.

The query asks *every* identity's bank, the wrong ones too: were the true identity alone summarised with the
query's help, the label would leak into the score (CSC, arXiv 2103.00816; formula reconstructed, see
egs/voxceleb/README.md, "Differences from the paper").
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ABSENT = -1e4  # not minus infinity: sums over nothing but absent identities keep a finite gradient


class IdentityAttention(nn.Module):
    """Cosine between a query and the global vector of every identity, which the query itself gathers.

    g_j(v) = normalise(sum_m a_jm k_jm),  a_jm = softmax_m(v W_Q . k_jm W_K / sqrt(E)),  k_j: j's entries.

    Never builds g [n, N, E]: with the bank's Gram matrices, cos(v, g_j) follows from dot products with the
    entries.

    size       E
    attention  False: plain mean over an identity's entries, the "no attention" ablation
    chunk      identities handled at once; beyond one chunk, scores are recomputed in the backward pass
    """

    def __init__(self, size: int, attention: bool = True, chunk: int = 16384) -> None:
        super().__init__()
        self.attention, self.chunk = attention, chunk
        if attention:
            self.query, self.key = nn.Linear(size, size, bias=False), nn.Linear(size, size, bias=False)

    def cosines(self, queries: Tensor, bank: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """queries [n, E] of unit length, bank [N, R, E], allowed bool [n, N, R] -> cosines, entropy [n, N].

        An identity with no allowed entry has cosine ABSENT and drops out of any softmax. The entropy, of the
        attention over an identity's entries, is relative to that of equal weights: 1 = no preference, 0 = one
        entry only. All in float32.
        """
        with torch.autocast(queries.device.type, enabled=False):
            return self._cosines(queries.float(), bank.float(), allowed)

    def log_partition(
        self, queries: Tensor, scale: Tensor, bank: Tensor, allowed: Callable[[slice], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """log sum_j exp(scale cos(v, g_j)) [n] over all N identities, in chunks.

        Also the largest cosine [n], and how many identities have an allowed entry [n] (float).

        allowed(slice of identities) -> bool [n, <= chunk, R]: made per chunk, [n, N, R] never exists.
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
        """The same for one identity per query: entries [n, R, E], allowed [n, R] -> cosines, entropy [n]."""
        with torch.autocast(queries.device.type, enabled=False):
            queries, entries = queries.float(), entries.float()
            scores = torch.einsum("ne,nre->nr", self._asked(queries), entries)
            gram = entries @ entries.transpose(1, 2)
            return _gathered(scores, torch.einsum("ne,nre->nr", queries, entries), gram, allowed)

    def _cosines(self, queries: Tensor, bank: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        identities, entries = bank.shape[:2]
        flat = bank.flatten(0, 1).T
        scores = (self._asked(queries) @ flat).unflatten(1, (identities, entries))
        similar = (queries @ flat).unflatten(1, (identities, entries))
        return _gathered(scores, similar, bank @ bank.transpose(1, 2), allowed)

    def _asked(self, queries: Tensor) -> Tensor:
        """v W_Q W_K^T / sqrt(E): projecting the query through both spares projecting the bank."""
        if not self.attention:
            return torch.zeros_like(queries)
        return self.query(queries) @ self.key.weight / math.sqrt(queries.shape[1])


def _gathered(scores: Tensor, similar: Tensor, gram: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and cosines of the entries [..., R], Gram [..., R, R] -> cosine to their weighted sum."""
    present = allowed.any(-1)
    # A row without entries is given equal weights, so that its softmax stays finite, and is struck out below.
    weights = torch.softmax(scores.masked_fill(~allowed & present[..., None], -math.inf), dim=-1)
    length = (torch.einsum("...r,...rs->...s", weights, gram) * weights).sum(-1).clamp(min=1e-12).sqrt()
    cosines = ((weights * similar).sum(-1) / length).masked_fill(~present, ABSENT)
    count = allowed.sum(-1).clamp(min=2)
    entropy = -(weights.detach() * weights.detach().clamp(min=1e-12).log()).sum(-1) / count.log()
    return cosines, entropy
