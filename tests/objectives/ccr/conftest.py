"""Pairs of clean and noisy speech with negatives, and networks that make negatives."""

import numpy as np
import pytest
import torch

from cslib.data.banks import BankWriter
from tests.objectives.ccr.tiny_ccr import config_of, trained
from tests.tiny_pairs import make_negative, make_pairs


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """train and valid of six pairs each, and two negatives: a poor one and a good one."""
    root = tmp_path_factory.mktemp("data")
    sets = [make_pairs(root / name, count=6, seconds=0.5) for name in ("train", "valid")]
    for name, factor in (("poor", 0.7), ("good", 0.1)):
        for pairs in sets:
            make_negative(root / name, pairs, factor)
    return root


@pytest.fixture(scope="session")
def mixing(data, tmp_path_factory):
    """Of `data` the clean side of train and the pairs of valid; noise; two networks that learnt for six steps."""
    root = tmp_path_factory.mktemp("mixing")
    with BankWriter(root / "noise/noise", np.int16) as writer:
        writer.add(np.random.default_rng(0).integers(-9000, 9000, 20_000).astype(np.int16))
    for number, name in enumerate(("early", "late")):
        config = config_of(data, "none")
        config.validation.pairs = data / "valid"
        trained(data, root / name, config)
        path = root / name / "checkpoints/final.pt"
        state = torch.load(path, weights_only=True)
        state["encoder"] = {
            key: value + 0.3 * (1 - number) * torch.randn(value.shape) if value.is_floating_point() else value
            for key, value in state["encoder"].items()
        }
        torch.save(state, path)
    return root
