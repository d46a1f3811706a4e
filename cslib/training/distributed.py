"""One process or many: the same script runs alone or under torchrun."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from cslib.config import UserError


@dataclass(frozen=True)
class Processes:
    """Where this process stands among `count`; RANK numbers processes, LOCAL_RANK the GPUs of one machine."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


def start(device: str) -> Processes:
    """Join the processes that torchrun started, if it did. device: auto | cpu | cuda.

    Raises UserError when cuda is asked for and absent.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device is auto, cpu or cuda, not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no GPU can be used here; leave the option out to run on the CPU")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(where)
    if "RANK" not in os.environ:
        return Processes(0, 1, where)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    return Processes(dist.get_rank(), dist.get_world_size(), where)


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def mean(values: torch.Tensor) -> torch.Tensor:
    """Mean of `values` over all processes."""
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def collect(item: object) -> list:
    """One object from every process, in rank order."""
    if not dist.is_initialized():
        return [item]
    items = [None] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items


def wait() -> None:
    if dist.is_initialized():
        dist.barrier()
