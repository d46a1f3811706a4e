"""The queue of MoCo: the keys of the last batches, the negatives of the next (He et al. 2020, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class KeyQueue(nn.Module):
    """The newest K keys, first in, first out; all of it is in the checkpoint.

    There are V rings of keys of the same items, which are pushed together. A place that holds no key yet is not a
    negative. (The authors' code starts with random vectors instead.) K need not be a multiple of the batch.

    keys    float32 [V, K, D]
    owners  int64 [K], the number of what a key was made from; -1 = empty
    place   int64 scalar, where the next key goes
    """

    keys: Tensor
    owners: Tensor
    place: Tensor

    def __init__(self, rings: int, length: int, size: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(rings, length, size))
        self.register_buffer("owners", torch.full((length,), -1))
        self.register_buffer("place", torch.tensor(0))

    def push(self, keys: Tensor, owners: Tensor) -> None:
        """Replace the oldest keys by these, [n, V, D] with owners [n]; n <= K."""
        length = len(self.owners)
        places = (self.place + torch.arange(len(owners), device=owners.device)) % length
        self.keys[:, places] = keys.transpose(0, 1).to(self.keys.dtype)
        self.owners[places] = owners
        self.place.copy_((self.place + len(owners)) % length)

    def negatives(self, owners: Tensor) -> tuple[Tensor, Tensor]:
        """Of queries with owners [n], bool [n, K] each: the keys that are negatives, and those of the query's owner."""
        same = self.owners == owners[:, None]
        return (self.owners >= 0) & ~same, same
