"""One process or many: the same script runs alone and under torchrun."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from cslib.config import require
from cslib.devices import device_named


@dataclass(frozen=True)
class Processes:
    """This process among all processes of a training: its rank, their number and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


def start(device: str) -> Processes:
    """Join the other processes if torchrun started this one. Under torchrun, each process takes the GPU LOCAL_RANK.

    device  auto | cpu | cuda
    Raises UserError for another device, and for cuda without a GPU.
    """
    require(device in ("auto", "cpu", "cuda"), "--device", device, "auto, cpu or cuda")
    on_gpu = device_named(device).type == "cuda"
    where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(where)
    if "RANK" not in os.environ:
        return Processes(0, 1, where)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    return Processes(dist.get_rank(), dist.get_world_size(), where)


def stop() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def mean(values: torch.Tensor) -> torch.Tensor:
    """Mean of `values` over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def synchronise_batch_norms(module: nn.Module, processes: Processes) -> None:
    """Make the batch norms in `module` normalise over the batches of all GPUs.

    torch can do this on GPUs only. On CPUs each process normalises over its own share of the batch.
    """
    if processes.count > 1 and processes.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)


@torch.no_grad()
def average_running_statistics(module: nn.Module) -> None:
    """Average the running means and variances of batch norms over all processes, in place.

    Without synchronised batch norm each process has statistics of its own. A checkpoint holds those of one process, so
    a continued run would differ from an uninterrupted one.
    """
    for name, buffer in module.named_buffers():
        if name.rpartition(".")[2].startswith("running_"):
            mean(buffer)


def collect(item: object) -> list:
    """The object that each process passes, in order of rank."""
    if not dist.is_initialized():
        return [item]
    items: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items


def wait() -> None:
    """Wait until all processes are here."""
    if dist.is_initialized():
        dist.barrier()
