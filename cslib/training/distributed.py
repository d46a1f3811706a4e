"""One process or many: the same script runs alone or under torchrun."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from cslib.config import UserError
from cslib.devices import device_named


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
    on_gpu = device_named(device).type == "cuda"
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


def synchronise_batch_norms(module: nn.Module, processes: Processes) -> None:
    """Let batch norms below `module` see the batch of all GPUs. torch can do this on GPUs only.

    On CPUs each process normalises by its own share of the batch: see `average_running_statistics`.
    """
    if processes.count > 1 and processes.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)


@torch.no_grad()
def average_running_statistics(module: nn.Module) -> None:
    """Make the running means and variances of batch norms the same in all processes: their mean.

    Where batch norms are not synchronised each process has gathered its own, of which one would be saved and
    the others lost, and a run that is continued would not be the run that was stopped.
    """
    for name, buffer in module.named_buffers():
        if name.rpartition(".")[2].startswith("running_"):
            mean(buffer)


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
