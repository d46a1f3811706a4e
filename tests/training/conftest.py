"""Data and one uninterrupted run, shared by the tests of this folder."""

import pytest

from tests.tiny_run import make_set, train


@pytest.fixture(scope="package")
def data(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("data") / "train")


@pytest.fixture(scope="package")
def whole(data, tmp_path_factory):
    """An uninterrupted run."""
    return train(data, tmp_path_factory.mktemp("exp") / "whole")
