"""Halves of recordings, and of pieces of recordings, as a set of their own."""

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from local.split_halves import Options, main
from utils import validate_data


@pytest.fixture
def samples():
    return np.random.default_rng(1).integers(-9000, 9000, 100_001).astype(np.int16)


@pytest.fixture
def data(tmp_path, samples):
    path = tmp_path / "long.flac"
    soundfile.write(path, samples, 16_000)
    entries = [Entry(f"long-{n}", path, 40_001, start=n * 50_000, of_samples=len(samples)) for n in range(2)]
    write_set(tmp_path / "set", [*entries, Entry("short", path, 16_000, of_samples=len(samples))])
    return tmp_path / "set"


def test_two_halves_of_each_utterance_hold_all_of_it(data, samples, tmp_path, capsys):
    main(Options(data, tmp_path / "halves"))
    assert "4 halves of 2 utterances" in capsys.readouterr().out  # the third is too short
    found = Utterances.open(tmp_path / "halves")
    assert found.ids() == ["long-0-1", "long-0-2", "long-1-1", "long-1-2"]
    for number in range(2):
        joined = np.concatenate([found.read(2 * number), found.read(2 * number + 1)])
        np.testing.assert_array_equal(joined, samples[50_000 * number :][:40_001])
    validate_data.main(validate_data.Options(tmp_path / "halves", full=True))


def test_many_utterances_are_sampled_and_too_few_are_refused(data, tmp_path):
    main(Options(data, tmp_path / "some", recordings=2, min_seconds=0.5))
    assert len(Utterances.open(tmp_path / "some")) == 4
    with pytest.raises(UserError, match="fewer than 2 utterances have 3 s; lower --min-seconds"):
        main(Options(data, tmp_path / "none", min_seconds=3.0))
