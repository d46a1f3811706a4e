"""Batches of recordings of similar length."""

from __future__ import annotations

import numpy as np


def batches_by_length(lengths: np.ndarray, batch_samples: int) -> list[np.ndarray]:
    """Group rows into batches of similar length, longest first, so that a lack of memory shows at once.

    lengths        int [n], in samples
    batch_samples  upper bound on the longest length times the number of utterances of a batch; a longer utterance is a
                   batch of its own
    Returns int arrays of rows; each row is in one batch.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches, start = [], 0
    while start < len(order):
        count = max(1, int(batch_samples // max(1, lengths[order[start]])))
        batches.append(order[start : start + count])
        start += count
    return batches
