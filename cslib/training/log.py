"""The log of a training: log.jsonl, TensorBoard and the progress bar."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from cslib.files import progress
from cslib.objectives.base import Losses
from cslib.training.config import TrainingConfig
from cslib.training.distributed import Processes, mean


class Log:
    """A context manager that averages losses, diagnostics and times over `log_every` steps. The first process writes.

    start    number of finished steps; lines after it are dropped, because a killed run may have written them
    warning  Objective.warning: given the means, what is wrong, if anything. A warning that stays is shown once
    """

    def __init__(
        self,
        folder: Path,
        config: TrainingConfig,
        processes: Processes,
        start: int,
        warning: Callable[[dict[str, float]], str | None],
    ) -> None:
        self.folder, self.config, self.processes, self.start = folder, config, processes, start
        self.warning, self._warned = warning, False
        self._reset()

    def __enter__(self) -> Log:
        if self.processes.first:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self.folder.mkdir(parents=True, exist_ok=True)
            _drop_lines_after(self.folder / "log.jsonl", self.start)
            self.file = open(self.folder / "log.jsonl", "a", encoding="utf-8")
            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start + 1)
            self.bar: tqdm = progress((), "training", total=self.config.steps)
            self.bar.update(self.start)
            self.bar.start_t = time.time()
        return self

    def __exit__(self, *_: object) -> None:
        if self.processes.first:
            self.bar.close()
            self.file.close()
            self.board.close()

    def timed_next(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """The next batch; the wait for it counts as data_seconds."""
        began = time.perf_counter()
        batch = next(batches)
        self._data_seconds += time.perf_counter() - began
        return batch

    def add(self, step: int, losses: Losses, norm: Tensor, rate: float) -> None:
        """Add a step, and write a line if one is due.

        norm  gradient norm before clipping
        rate  learning rate of the step
        """
        values = {"loss": losses.total.detach(), **losses.parts, **losses.diagnostics, "gradient_norm": norm.detach()}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + torch.as_tensor(value, dtype=torch.float32)
        self._count += 1
        if self.processes.first:
            self.bar.update()
        if step % self.config.log_every == 0 or step == self.config.steps:
            self._write(step, rate)
            self._reset()

    def _write(self, step: int, rate: float) -> None:
        sums = torch.stack([value.to(self.processes.device) for value in self._sums.values()])
        means = mean(sums / self._count)
        if not self.processes.first:
            return
        seconds = time.perf_counter() - self._began
        line = dict(zip(self._sums, means.tolist(), strict=True))
        self._warn(step, self.warning(line))
        line |= {
            "learning_rate": rate,
            "data_seconds": self._data_seconds / self._count,
            "compute_seconds": (seconds - self._data_seconds) / self._count,
            "items_per_second": self._count * self.config.batch_size / seconds,
            "memory_gb": _peak_memory_gib(self.processes.device),
        }
        rounded = {name: float(f"{value:.6g}") for name, value in line.items()}
        self.file.write(json.dumps({"step": step, **rounded}) + "\n")
        self.file.flush()
        for name, value in line.items():
            self.board.add_scalar(name, value, step)
        self.bar.set_postfix_str(f"loss {line['loss']:.3f}, {line['items_per_second']:.0f} items/s", refresh=False)

    def _warn(self, step: int, warning: str | None) -> None:
        if warning and not self._warned:
            self.bar.write(f"WARNING at step {step}: {warning}", file=sys.stderr)
        self._warned = bool(warning)

    def _reset(self) -> None:
        self._sums: dict[str, Any] = {}
        self._count, self._data_seconds, self._began = 0, 0.0, time.perf_counter()


def _drop_lines_after(path: Path, step: int) -> None:
    """Drop the lines of later steps, and a line that was cut off."""
    if path.exists():
        kept = [
            line
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
            if line.endswith("\n") and json.loads(line)["step"] <= step
        ]
        path.write_text("".join(kept), encoding="utf-8")


def _peak_memory_gib(device: torch.device) -> float:
    """Peak memory so far, in GiB: allocated on the GPU, or resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
