"""The device that --device names, and deterministic arithmetic on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cslib.config import UserError


def device_named(name: str) -> torch.device:
    """The device of this name: cpu, cuda, cuda:1, ...; "auto" is a GPU if there is one, else the CPU.

    Raises UserError when there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):  # a build without CUDA raises AssertionError
        raise UserError(
            f"--device {name}: there is no such device here; omit the option to use what there is"
        ) from None
    return device


@contextmanager
def deterministic_algorithms(wanted: bool = True) -> Iterator[None]:
    """Use only algorithms that give the same bits in every run of the block; the old settings come back after it.

    CPU results are repeatable without it, with the same number of threads. On CUDA it may be slower, and torch raises
    RuntimeError at an operation that has no deterministic algorithm.
    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at the first matrix product
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
