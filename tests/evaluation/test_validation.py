"""Validation during a training: processes that measure are no forks of the one that trains."""

import os

import pytest
import torch
from torch import nn

from cslib.data.pairs import PairedUtterances
from cslib.evaluation import validation as validating
from cslib.evaluation.validation import Validation, ValidationConfig
from tests.tiny_pairs import make_pairs

pytest.importorskip("pesq")


class Halving(nn.Module):
    """Enhances with a matrix product, so that torch has started its threads."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(256, 256)

    def enhance(self, audio, lengths=None):
        self.layer(torch.zeros(512, 256))
        return audio / 2


def test_a_process_with_threads_is_never_forked(tmp_path, monkeypatch):
    pairs = make_pairs(tmp_path / "valid", count=4, seconds=1.0)
    validation = Validation(PairedUtterances.open(pairs), ValidationConfig(pairs))
    alone = validation.of_network(Halving(), torch.device("cpu"))
    monkeypatch.setattr(validating, "WORTH_A_PROCESS", 2)
    validation.cores = 2
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert validation.of_network(Halving(), torch.device("cpu")) == alone
    finally:
        torch.set_num_threads(threads)
