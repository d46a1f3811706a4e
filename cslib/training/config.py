"""The `training:` section of a config."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cslib.config import require

OPTIMISERS = ("adam", "adam_amsgrad", "adamw", "sgd")


@dataclass
class TrainingConfig:
    steps: int = 100_000  # optimiser steps; the learning-rate schedule spans them
    batch_size: int = 64  # items per step, summed over all processes
    optimiser: str = "adam"  # adam | adam_amsgrad | adamw | sgd
    learning_rate: float = 1e-3  # peak learning rate
    final_rate: float = 0.01  # last learning rate of the cosine schedule, as a fraction of the peak; 1 = constant
    warmup_steps: int = 0  # steps of linear warm-up to the peak learning rate
    weight_decay: float = 1e-6  # applied to matrices only, not to biases, norms and scalars
    beta2: float = 0.999  # decay of Adam's second moment; sgd ignores it. Momentum is 0.9 for every optimiser
    clip_norm: float = 5.0  # maximum norm of the whole gradient; 0 = no clipping
    # arithmetic of the networks; losses are computed in fp32. fp32 | bf16 | auto: bf16 where the processor has it
    precision: str = "fp32"
    compile: bool = False  # compile the networks with torch.compile; pays off in long runs on a GPU
    deterministic: bool = False  # only deterministic algorithms: repeatable bit for bit on CUDA too, but slower
    ema: float = 0.0  # decay per step of the moving average of the weights that becomes final.pt; 0 = no average
    average_last: int = 1  # final.pt is the mean of this many last checkpoints; 1 = the last weights
    checkpoint_every: int = 1000  # steps between checkpoints
    keep_every: int = 0  # steps between encoders that are kept as encoder-*.pt; 0 = none
    log_every: int = 20  # steps between log lines
    workers: int = 2  # loader processes per training process; 0 = load in the training process itself

    def __post_init__(self) -> None:
        self._require(self.optimiser in OPTIMISERS, "optimiser", f"one of {', '.join(OPTIMISERS)}")
        self._require(self.precision in ("fp32", "bf16", "auto"), "precision", "fp32, bf16 or auto")
        for name in ("steps", "batch_size", "average_last", "checkpoint_every", "log_every"):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("warmup_steps", "keep_every", "workers"):
            self._require(getattr(self, name) >= 0, name, "at least 0")
        for name in ("learning_rate", "final_rate", "weight_decay", "clip_norm"):
            self._require(0 <= getattr(self, name) < math.inf, name, "a finite number, at least 0")
        for name in ("ema", "beta2"):
            self._require(0 <= getattr(self, name) < 1, name, "at least 0 and less than 1")
        self._require(
            self.keep_every % self.checkpoint_every == 0,
            "keep_every",
            f"a multiple of training.checkpoint_every ({self.checkpoint_every})",
        )

    def _require(self, good: bool, name: str, wanted: str) -> None:
        require(good, f"training.{name}", getattr(self, name), wanted)
