"""Batches of recordings of like length."""

from __future__ import annotations

import numpy as np


def batches_by_length(lengths: np.ndarray, batch_samples: int) -> list[np.ndarray]:
    """Rows in batches of like length, longest first: memory that is too small shows at once.

    lengths         int [n] samples
    batch_samples   longest length times number of utterances stays within it; a longer utterance is alone
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches, start = [], 0
    while start < len(order):
        count = max(1, int(batch_samples // max(1, lengths[order[start]])))
        batches.append(order[start : start + count])
        start += count
    return batches
