'''What a training objective is, and how to add one.

An objective is a loss together with the networks that it trains and whatever it keeps between steps. A config finds it
by name: `objective: {name: dino}` is cslib/objectives/dino/objective.py. A small one may be a single file,
cslib/objectives/<name>.py. Either module defines

    Config                            dataclass: the `objective:` section of a training config
    class <Name>(Objective)           what is minimised
    build(config, task) -> Objective  an instance of it

and nothing else has to change. The arithmetic of a larger one goes into loss.py beside it, and what it keeps into
modules of their own. A whole objective, the core of SimCLR:

    """The first crop of an utterance finds its second crop among those of the batch."""

    from dataclasses import dataclass

    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    from cslib.config import find
    from cslib.datasets.augmentation import to_float
    from cslib.datasets.views import ViewConfig, Views
    from cslib.objectives.base import Losses, Objective, Task


    @dataclass
    class Config:
        seconds: float = 2.0  # length of a crop
        temperature: float = 0.1  # of the cosines


    class Instances(Objective):
        def __init__(self, config: Config, task: Task) -> None:
            super().__init__()
            self.temperature = config.temperature
            views = ViewConfig(global_seconds=config.seconds, local_crops=0)
            self.dataset = Views(task.utterances, task.banks, views, task.augment, task.seed)
            self.encoder = find("models", task.network.name).build(task.network)

        def forward(self, batch: dict[str, Tensor]) -> Losses:
            first, second = to_float(batch["global"]).unbind(1)  # [B, T] each
            cosines = F.normalize(self.encoder(first), dim=-1) @ F.normalize(self.encoder(second), dim=-1).T
            own = torch.arange(len(cosines), device=cosines.device)
            loss = F.cross_entropy(cosines.float() / self.temperature, own)
            return Losses(loss, diagnostics={"accuracy": (cosines.argmax(1) == own).float().mean()})

        def embedding_network(self) -> nn.Module:
            return self.encoder


    def build(config: Config, task: Task) -> Instances:
        return Instances(config, task)
'''

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
    """The subclass of Objective that the module of this name defines. Raises UserError for an unknown name."""
    module = find("objectives", name)
    return next(
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Objective) and kind.__module__ == module.__name__
    )


@dataclass
class Losses:
    """What `Objective.forward` returns.

    total        scalar to minimise, with its graph; float32
    parts        the terms that it consists of, by name: scalars to log, detached
    diagnostics  scalars that show whether the training is healthy, by name: to log, detached

    The names become keys of log.jsonl, where every value is the mean over the steps since the last line.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Task:
    """What `build` receives besides the `objective:` section.

    utterances  what `Objective.open_data` returned for --data
    banks       noise and RIRs; empty without --noise
    augment     the `augment:` section
    batch_size  items per step, over all processes
    seed        of everything that is drawn
    steps       optimiser steps of the whole training, which schedules span
    network     the `network:` section: cslib.models.<name>.Config with its `name`; `find("models", network.name)` is
                the module whose `build(network)` makes the network
    labels      int64 [n], identity of each utterance, -1 for "none"; None: no --labels were given
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
    """A loss, the networks that it trains, and whatever it keeps between steps.

    The training loop calls, in this order,

        open_data, label_column      before anything is built
        embedding_network, networks, parameter_groups, digests      once
        dataset[i]                   in loader processes; default_collate makes batches of the items
        step = ...; forward(batch); after_step()      every step
        warning(means)               with every line of the log

    A subclass has to define `dataset`, `forward` and `embedding_network`. Whatever it keeps must be in parameters,
    buffers or `get_extra_state`, so that checkpoints hold it and a resumed run equals an uninterrupted one.

    dataset  item i is a dictionary of arrays, numbers and strings, and a pure function of (seed, i) for every i >= 0:
             step s takes the items from s * batch_size on, so resuming needs no state. An item's "ids", a string with
             the names of its utterances, is shown when a loss is not finite.
    step     how many steps are done
    """

    dataset: Dataset
    step: int = 0

    @classmethod
    def open_data(cls, folder: Path, config: Any) -> Any:
        """Open --data: by default the recordings of a set. What is returned becomes `Task.utterances`.

        folder  data/<set>
        config  the `objective:` section, an instance of Config

        Raises UserError when the folder does not hold what the objective learns from.
        """
        return Utterances.open(folder)

    @staticmethod
    def label_column(config: Any) -> str:
        """Column of the file --labels to read as `Task.labels`, when that option is given.

        "label" holds pseudo-labels. Only an objective whose config says that it is supervised may return "speaker".
        """
        return "label"

    def forward(self, batch: dict[str, Any]) -> Losses:
        """The losses of this process's share of the batch.

        batch  items of `dataset`, collated: tensors [B, ...] on the training device and lists of B strings, where B is
               batch_size / processes

        Runs in training mode, under bfloat16 autocast if the config says so; compute losses in float32. Gradients are
        averaged over processes, so a mean over a fixed number of items per process is right as it is; use `global_mean`
        where that number varies and `gather` where a loss needs the items of all processes.
        """
        raise NotImplementedError

    def after_step(self) -> None:
        """Update moving averages, banks, centres, curricula. Called after the optimiser, outside the graph."""

    def embedding_network(self) -> nn.Module:
        """The network that final.pt keeps: a SpeakerEncoder or an EnhancementNetwork of cslib/models/base.py."""
        raise NotImplementedError

    def digests(self) -> dict[str, Any]:
        """Digests of the files that the objective reads besides the training set, by name, as text or lists of text.

        A run continues its checkpoints only if they are the same.
        """
        return {}

    def networks(self) -> list[nn.Module]:
        """The networks that take most of the time: these are compiled with `training.compile`."""
        return [self.embedding_network()]

    def warning(self, means: dict[str, float]) -> str | None:
        """A sentence that says what is wrong and what to try when the training goes astray; None when it does not.

        means  "loss" and every part and diagnostic by name, means since the last line of the log
        """
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser. Weight decay acts on matrices, not on biases, norms and scalars.

        A group's "rate_scale" multiplies the learning rate of the schedule.
        """
        trained = [p for p in self.parameters() if p.requires_grad]
        return [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]


def num_processes() -> int:
    """Processes that train together; 1 outside of torchrun."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def gather(tensor: Tensor) -> Tensor:
    """[n, ...] of this process -> [n * processes, ...] of all of them, in rank order, without gradient."""
    tensor = tensor.detach()
    if not torch.distributed.is_initialized():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """`gather`, with the gradient of this process's own part.

    For a loss that every process computes from the same gathered items: its gradients, averaged over processes, are
    exactly those of one process that has all items, as the gradient of each part is multiplied by the processes.
    """
    if not torch.distributed.is_initialized():
        return tensor
    count, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    parts = list(gather(tensor).chunk(count))
    parts[rank] = parts[rank] + count * (tensor - tensor.detach())
    return torch.cat(parts)


def global_mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values [n] over all processes, chosen bool [n], as a term of a loss.

    Its gradients, averaged over processes, are those of the global mean. Zero, with zero gradient, when nothing is
    chosen anywhere.
    """
    chosen = chosen.to(values.dtype)
    total, count = torch.where(chosen > 0, values, 0.0).sum(), chosen.sum()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        return total * torch.distributed.get_world_size() / count.clamp(min=1)
    return total / count.clamp(min=1)
