"""The batches of a training: each process loads its share of every global batch."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from cslib.training.config import TrainingConfig
from cslib.training.distributed import Processes


def batches(dataset: Dataset, config: TrainingConfig, processes: Processes, start: int) -> Iterator[dict[str, Any]]:
    """This process's share of every global batch from step `start` on.

    Step n takes items n * batch_size to (n + 1) * batch_size - 1. Processes take consecutive shares of them, so the
    global batch does not depend on the number of processes.
    """
    share = config.batch_size // processes.count
    firsts = [step * config.batch_size + processes.rank * share for step in range(start, config.steps)]
    loader: DataLoader = DataLoader(
        dataset,
        batch_sampler=_Ranges(firsts, share),
        num_workers=config.workers,
        pin_memory=processes.device.type == "cuda",
        worker_init_fn=_start_worker,
        prefetch_factor=4 if config.workers else None,
        # A generator of its own: a seed drawn from the global generator would change the dropout masks.
        generator=torch.Generator(),
    )
    return iter(loader)


class _Ranges:
    """Batch sampler: `size` consecutive item numbers from each of `firsts`."""

    def __init__(self, firsts: list[int], size: int) -> None:
        self.firsts, self.size = firsts, size

    def __iter__(self) -> Iterator[list[int]]:
        return (list(range(first, first + self.size)) for first in self.firsts)

    def __len__(self) -> int:
        return len(self.firsts)


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    # Schedulers send SIGTERM to every process of a job; the training process ends its workers itself.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
