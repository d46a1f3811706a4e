"""The device that --device names, its precision, and deterministic arithmetic on it."""

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


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices by itself, so that training in it is faster than in float32.

    True of GPUs from the Ampere generation on, and of CPUs with AMX or AVX512_BF16 (Intel from Sapphire Rapids on, AMD
    from Zen 4 on). A training step of a ResNet on one core of such a CPU took about half of the time in bfloat16.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


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
