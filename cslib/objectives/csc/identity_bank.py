"""Recent embeddings of each identity: the keys that the contrast of CSC is made with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class IdentityBank(nn.Module):
    """The last R embeddings (keys) of each of N identities, with the origin of each; all of it is in the checkpoint.

    With `swap`, a pass is written to a shadow while the loss reads the pass before: all keys that are read are equally
    old, whichever identity they belong to. (Fresh keys for the true identity among stale ones reveal the label through
    the drift of the network.)

    kind     swap | batch: an entry per view, overwritten by the next pass (swap) or batch
             fifo: the newest entries, whenever they came
    ready    whether enough identities can be read for a comparison with them to mean something
    keys     float32 [N, R, E]
    origins  int64 [N, R], what an entry was made from; -1 = empty
    pushed   int64 [N], entries pushed so far (fifo)
    """

    keys: Tensor
    origins: Tensor
    pushed: Tensor
    shadow_keys: Tensor
    shadow_origins: Tensor
    ready: bool
    pass_number: int

    def __init__(self, identities: int, entries: int, size: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        # Of two entries one remains where the other is hidden from a query. With swap and batch all identities are
        # equally old, and an identity that was silent in one view is read from the next.
        self.needed = min(2, entries) if kind == "fifo" else 1
        self.register_buffer("keys", torch.zeros(identities, entries, size))
        self.register_buffer("origins", torch.full((identities, entries), -1))
        self.register_buffer("pushed", torch.zeros(identities, dtype=torch.long))
        self.ready, self.pass_number = False, -1
        if kind == "swap":
            self.register_buffer("shadow_keys", torch.zeros_like(self.keys))
            self.register_buffer("shadow_origins", torch.full_like(self.origins, -1))

    def start_pass(self, number: int, fresh: bool) -> None:
        """Swap: read what the pass before has written. Nothing is ready in a fresh cell. Idempotent."""
        if number == self.pass_number:
            return
        self.keys.copy_(self.shadow_keys)
        self.origins.copy_(self.shadow_origins)
        self.shadow_origins.fill_(-1)
        self.ready, self.pass_number = not fresh, number

    def get_extra_state(self) -> dict[str, int]:
        return {"ready": self.ready, "pass_number": self.pass_number}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.ready, self.pass_number = bool(state["ready"]), state["pass_number"]

    def clear(self) -> None:
        self.origins.fill_(-1)

    def push(self, keys: Tensor, identity: Tensor, origin: Tensor, view: Tensor) -> None:
        """Store keys [n, E] of identities [n]: in the place of their view [n] (swap, batch) or the oldest (fifo)."""
        if self.kind != "fifo":
            self._write(keys, identity, origin, view)
            return
        order = torch.argsort(identity, stable=True)
        keys, identity, origin = keys[order], identity[order], origin[order]
        # The k-th of several entries of one identity in this step goes k places further.
        first = torch.searchsorted(identity, identity)
        place = self.pushed[identity] + torch.arange(len(identity), device=identity.device) - first
        self._write(keys, identity, origin, place % self.keys.shape[1])
        self.pushed += torch.bincount(identity, minlength=len(self.pushed))
        if not self.ready:
            # Until most identities are there, a query would be compared with those met first. 90 % suffice: a cluster
            # of one utterance gets one entry per pass, and an identity without any would block the start for ever.
            self.ready = bool(10 * self.enough().sum() >= 9 * len(self.pushed))

    def _write(self, keys: Tensor, identity: Tensor, origin: Tensor, place: Tensor) -> None:
        """Write keys [n, E] to places [n]. Of two for the same place the later wins, which indexing leaves open."""
        slot, order = torch.sort(identity * self.keys.shape[1] + place, stable=True)
        order = order[torch.cat([slot[1:] != slot[:-1], slot.new_ones(min(1, len(slot)), dtype=torch.bool)])]
        to_keys, to_origins = (
            (self.shadow_keys, self.shadow_origins) if self.kind == "swap" else (self.keys, self.origins)
        )
        identity, place = identity[order], place[order]
        to_keys[identity, place], to_origins[identity, place] = keys[order].float(), origin[order]

    def enough(self) -> Tensor:
        """bool [N]: identities with enough entries to be read; the others take part in no comparison."""
        return self._readable(self.origins).any(1)

    def allowed(self, origin: Tensor, identity: Tensor) -> Tensor:
        """bool [n, R]: entries of `identity` [n] that can be read and are not from `origin` [n]."""
        origins = self.origins[identity]
        return self._readable(origins) & (origins != origin[:, None])

    def hidden(self, origin: Tensor, identity: Tensor) -> Tensor:
        """bool [n, R]: places where the query's `identity` [n] has entries from its `origin` [n]."""
        return self.origins[identity] == origin[:, None]

    def allowed_all(self, origin: Tensor, hidden: Tensor, part: slice) -> Tensor:
        """bool [n, N, R]: what a query may read of every identity in `part`.

        The places hidden from it for its own identity are hidden for all of them: if its own were the only one with
        entries missing, attention could learn to recognise it by that.
        """
        origins = self.origins[part]
        return self._readable(origins) & (origins != origin[:, None, None]) & ~hidden[:, None]

    def _readable(self, origins: Tensor) -> Tensor:
        """bool [m, R]: non-empty entries of identities that have enough of them."""
        filled = origins >= 0
        return filled & (filled.sum(1, keepdim=True) >= self.needed)
