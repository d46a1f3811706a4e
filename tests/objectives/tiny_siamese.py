"""Small objectives on pairs of crops, and steps of them, for the tests of simclr, moco and vicreg."""

import numpy as np
import soundfile
import torch
from torch.utils.data import default_collate

from cslib.config import find
from cslib.data.banks import open_banks
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig
from cslib.models import resnet
from cslib.objectives.base import Task
from cslib.objectives.siamese import PairViews

TINY = """
objective: {{{objective}, views: {{global_seconds: 0.4}}}}
network: {{name: resnet, num_mels: 24, channels: [4, 6], blocks: [1, 1], stem_stride: 2, embedding_size: 8}}
training: {{steps: 8, batch_size: 4, learning_rate: 0.01, checkpoint_every: 3, log_every: 1, workers: 0}}
"""


class Network(resnet.Config):
    name = "resnet"


def make_task(folder, count=8):
    """Utterances of a second, a hum of its own pitch in noise each; batches of 8."""
    rng, entries = np.random.default_rng(0), []
    for index in range(count):
        hum = 3000 * np.sin(2 * np.pi * 200 * (index + 1) * np.arange(16000) / 16000)
        soundfile.write(folder / f"u{index}.wav", (hum + rng.normal(0, 500, 16000)).astype(np.int16), 16000)
        entries.append(Entry(f"u{index}", folder / f"u{index}.wav", 16000))
    write_set(folder / "set", entries)
    network = Network(num_mels=24, channels=[4, 6], blocks=[1, 1], stem_stride=2, embedding_size=8)
    return Task(Utterances.open(folder / "set"), open_banks(None), AugmentConfig(), 8, 0, 100, network)


def objective(name, task, views=None, **values):
    torch.manual_seed(0)
    module = find("objectives", name)
    pairs = PairViews(**{"global_seconds": 0.3, **(views or {})})
    return module.build(module.Config(**values, views=pairs), task).train()


def batch_of(built, start=0, size=8):
    return default_collate([built.dataset[index] for index in range(start, start + size)])


def steps(built, count, batch=None, rate=0.01):
    """Train for some steps; the losses of each."""
    optimiser, found = torch.optim.Adam(built.parameter_groups(), lr=rate), []
    for _ in range(count):
        told = built(batch if batch is not None else batch_of(built, 8 * built.step))
        optimiser.zero_grad()
        told.total.backward()
        optimiser.step()
        built.after_step()
        built.step += 1
        found.append(told)
    return found


def means_of(losses):
    return {name: v.item() for name, v in {**losses.parts, **losses.diagnostics, "loss": losses.total}.items()}


def unit_vectors(*shape, seed=0):
    """float64, with gradient through the normalisation: (leaf, unit vectors)"""
    generator = torch.Generator().manual_seed(seed)
    leaf = torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()
    return leaf, leaf / leaf.square().sum(-1, keepdim=True).sqrt()
