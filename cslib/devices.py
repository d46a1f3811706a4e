"""The device that --device names."""

from __future__ import annotations

import torch

from cslib.config import UserError


def device_named(name: str) -> torch.device:
    """The device of a name: cpu, cuda, cuda:1, ...; "auto" is a GPU where there is one, else the CPU.

    Raises UserError when there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):  # a build without CUDA raises AssertionError
        raise UserError(
            f"--device {name}: there is no such device here; leave the option out to use what there is"
        ) from None
    return device
