"""Devices by name, and deterministic arithmetic."""

import os

import pytest
import torch

from cslib.config import UserError
from cslib.devices import computes_in_bf16, deterministic_algorithms, device_named


def settings():
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark


def test_device_of_a_name():
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_absent_device_is_one_sentence(name):
    with pytest.raises(UserError, match="there is no such device here"):
        device_named(name)


def test_deterministic_algorithms_are_used_within_the_block_only(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = settings()
    with deterministic_algorithms():
        assert settings() == (True, True, False) and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert settings() == before == (False, False, True)
    with pytest.raises(KeyboardInterrupt), deterministic_algorithms():
        raise KeyboardInterrupt
    assert settings() == before
    with deterministic_algorithms(False):
        assert settings() == before


def test_workspace_that_the_user_chose_stays(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic_algorithms():
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize(
    "capabilities, wanted",
    [
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx2": True}, False),
        ({}, False),
    ],
)
def test_bf16_is_for_processors_that_have_it(monkeypatch, capabilities, wanted):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert computes_in_bf16(torch.device("cpu")) is wanted
