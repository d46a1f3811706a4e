"""A corpus of noise, and CSC with an encoder that knows nothing about speakers."""

import numpy as np
import pytest
import soundfile

from cslib.data.banks import BankWriter
from cslib.data.manifests import Entry, write_set
from cslib.models import galr
from tests.objectives.csc.tiny_csc import COUNT, Uninformed, objective


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """24 utterances of noise, a noise bank and an RIR bank."""
    root, rng, entries = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0), []
    for index in range(COUNT):
        path = root / f"u{index:02d}.wav"
        soundfile.write(path, rng.integers(-3000, 3000, 2000).astype(np.int16), 16000)
        entries.append(Entry(path.stem, path, 2000))
    write_set(root / "set", entries)
    with BankWriter(root / "banks/noise", np.int16) as writer:
        writer.add(rng.integers(-3000, 3000, 5000).astype(np.int16))
    with BankWriter(root / "banks/rirs", np.float32) as writer:
        writer.add(np.array([1.0, 0.0, 0.5, 0.2], np.float32))
    return root


@pytest.fixture
def uninformed(monkeypatch, corpus):
    def make(**values):
        monkeypatch.setattr(galr, "build", lambda config: Uninformed())
        settings = {"batch_size": 12, "frames": 32, **values}
        return objective(corpus, **settings)

    return make
