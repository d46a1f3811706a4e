"""A small CSC on noise, for the tests of its parts."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import default_collate

from cslib.data.banks import open_banks
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig
from cslib.datasets.mixtures import MixtureConfig
from cslib.models import galr
from cslib.objectives.base import Task
from cslib.objectives.csc.objective import Config, build

COUNT, SIZE = 24, 16


LABELS = np.array([0] * 10 + [1] * 5 + [2] * 4 + [3] * 3 + [-1] * 2)  # far from uniform


PAIRS = np.array([*range(11)] * 2 + [11, -1])  # and one on its own


class Network(galr.Config):
    name = "galr"


def network(**values):
    return Network(
        **{
            "filters": 8,
            "features": 8,
            "hidden": 6,
            "segment": 8,
            "low_dim": 3,
            "heads": 2,
            "dropout": 0.0,
            "shared_blocks": 1,
            "speech_blocks": 1,
            "speaker_blocks": 1,
            "embedding_size": SIZE,
            **values,
        }
    )


def objective(corpus, labels=None, batch_size=4, steps=100, streams=2, frames=800, mixtures=None, **values):
    torch.manual_seed(0)
    task = Task(
        Utterances.open(corpus / "set"),
        open_banks(corpus / "banks"),
        AugmentConfig(max_rir_seconds=0.01),
        batch_size,
        0,
        steps,
        network(streams=streams),
        labels,
    )
    config = MixtureConfig(**{"crop_seconds": frames / 16000, "streams": streams, **(mixtures or {})})
    identity = "utterance" if labels is None else "cluster"
    return build(Config(**{"identity": identity, "mixtures": config, **values}), task)


def batch_of(csc, step=0):
    first = step * csc.batch_size
    return default_collate([csc.dataset[index] for index in range(first, first + csc.batch_size)])


def take_steps(csc, count, start=0):
    """The loop's calls without an optimiser: gives the losses of each step."""
    found = []
    for step in range(start, start + count):
        csc.step = step
        found.append(csc(batch_of(csc, step)))
        csc.after_step()
    return found


class Uninformed(nn.Module):
    """Embeddings that know the mixture and the time, as networks do, but nothing of the speakers."""

    embedding_size, common, rate = 32, 3.0, 0.2

    def __init__(self):
        super().__init__()
        self.generator, self.calls = torch.Generator().manual_seed(1), 0

    def draw(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def forward(self, mixture):
        embeddings, self.calls = self.draw(len(mixture), 2, 32), self.calls + 1
        embeddings[..., 0] += self.common * math.cos(self.rate * self.calls)  # drifts while training goes on
        embeddings[..., 1] += self.common * math.sin(self.rate * self.calls)
        embeddings[..., 2] += 2 * self.draw(len(mixture), 1)  # what a mixture's streams share
        return self.draw(len(mixture), 2, mixture.shape[1]), F.normalize(embeddings, dim=-1)
