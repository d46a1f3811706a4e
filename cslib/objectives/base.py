"""Training objectives, one file each, found by the name in the configuration.

A file cslib/objectives/<name>.py defines

    Config                          dataclass, the `objective:` section of a training config
    class <Name>(Objective)
    build(config, task) -> Objective

and nothing else has to be touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cslib.config import find
from cslib.data.banks import Banks
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig


def objective_named(name: str) -> type[Objective]:
    """The subclass of Objective in cslib/objectives/<name>/objective.py. Raises UserError for an unknown name."""
    module = find("objectives", name)
    return next(
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Objective) and kind.__module__ == module.__name__
    )


@dataclass
class Losses:
    """What one step gives back: the scalar to minimise, its parts and diagnostics to log (detached)."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Task:
    """What an objective is built for: the audio there is, and how a global batch is made of it.

    network     the `network:` section, of class cslib.models.<name>.Config with its name
    labels      int64 [n] identity of each utterance, -1 for "none"; None: every utterance is its own
    batch_size  items per step over all processes
    """

    utterances: Utterances
    banks: Banks
    augment: AugmentConfig
    batch_size: int
    seed: int
    steps: int
    network: Any
    labels: Any = None


class Objective(nn.Module):
    """A loss together with the networks it trains and whatever it has to remember between steps.

    Anything remembered lives in buffers or in `extra_state`, so that a checkpoint holds it.
    """

    @classmethod
    def open_data(cls, folder: Path, config: Any) -> Any:
        """What the objective learns from: by default the recordings of data/<set>.

        config  the `objective:` section, of the class Config of the objective's module
        """
        return Utterances.open(folder)

    @staticmethod
    def label_column(config: Any) -> str:
        """The column of --labels to read. Only an objective whose config says it is supervised gives "speaker"."""
        return "label"

    dataset: Dataset  # item i is a pure function of (seed, i), for every i >= 0: resuming needs no state
    step: int = 0  # set by the loop before each call: how many steps are done

    def forward(self, batch: dict[str, Any]) -> Losses:
        raise NotImplementedError

    def after_step(self) -> None:
        """Moving averages, banks, centres, curricula. Called after the optimiser, outside the graph."""

    def embedding_network(self) -> nn.Module:
        """The part that is kept: `embed(audio [B, T], lengths [B]) -> [B, E]`."""
        raise NotImplementedError

    def digests(self) -> dict[str, Any]:
        """Digests of what the objective reads besides the training set, by name: other inputs make another run."""
        return {}

    def networks(self) -> list[nn.Module]:
        """Those in which the time goes, to be compiled."""
        return [self.embedding_network()]

    def warning(self, means: dict[str, float]) -> str | None:
        """What is wrong and what to try, when the means since the last log line say that the training goes astray.

        means  "loss" and every part and diagnostic, by name
        """
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weight decay acts on matrices, not on biases, norms and scalars."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]


def gather(tensor: Tensor) -> Tensor:
    """[n, ...] of this process -> [n * processes, ...] of all of them, in rank order, without gradient."""
    tensor = tensor.detach()
    if not torch.distributed.is_initialized():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def global_mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values over all processes, as a term whose gradients, averaged over them, are right.

    Zero, with zero gradient, when nothing is chosen anywhere.
    """
    chosen = chosen.to(values.dtype)
    total, count = torch.where(chosen > 0, values, 0.0).sum(), chosen.sum()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        return total * torch.distributed.get_world_size() / count.clamp(min=1)
    return total / count.clamp(min=1)
