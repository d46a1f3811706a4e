"""How far a training is, from utterances that it never hears."""

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from cslib.config import UserError
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.objectives.retrieval import SECONDS, Retrieval
from tests.objectives.dino.test_dino import batch_of, objective, steps, task  # noqa: F401

LENGTHS = [160_000, 40_000, 40_000, 160_000, 40_001, 39_000, 50_000, 60_000]


@pytest.fixture
def utterances(tmp_path):
    """Utterance i is a ramp from 1000 i to 1000 i + 499."""
    entries = []
    for index, length in enumerate(LENGTHS):
        ramp = 1000 * index + np.linspace(0, 499, length)
        soundfile.write(tmp_path / f"u{index}.flac", ramp.astype(np.int16), 16000)
        entries.append(Entry(f"u{index}", tmp_path / f"u{index}.flac", length))
    write_set(tmp_path / "set", entries)
    return Utterances.open(tmp_path / "set")


class Level(nn.Module):
    """Knows a recording by its level, in eval mode; in training mode it knows nothing."""

    def forward(self, audio):
        angle = audio.mean(1) * 32768 / 8000 * np.pi
        return torch.stack([angle.cos(), angle.sin()], dim=1) * (0.0 if self.training else 1.0) + 1e-6


def test_parts_do_not_overlap_and_have_one_length(utterances):
    found = Retrieval(utterances, 4, seed=0)
    assert found.parts.shape == (4, 2, round(SECONDS * 16000)) and found.parts.dtype == torch.int16
    for row, (first, second) in zip(found.rows, found.parts, strict=True):
        assert set((first // 1000).tolist()) == set((second // 1000).tolist()) == {row}
        assert first.max() <= second.min()  # the ramp rises by less than one a sample


def test_share_counts_parts_that_are_nearest_to_their_own_other_part(utterances):
    found, network = Retrieval(utterances, 4, seed=0), Level().train()
    found.measure(network)
    assert found.share == 1 and network.training
    found.parts = found.parts[:, [0, 1]].roll(1, 0).where(torch.arange(2)[None, :, None] == 1, found.parts)
    found.measure(network)
    assert found.share == 0


def test_rows_depend_on_the_seed_alone(utterances):
    one, again, other = (Retrieval(utterances, 4, seed).rows.tolist() for seed in (0, 0, 1))
    assert one == again != other and len(set(one)) == 4


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_or_too_many_are_refused(utterances, count):
    with pytest.raises(UserError, match="objective.held_out"):
        Retrieval(utterances, count, seed=0)


def test_dino_measures_retrieval_on_utterances_that_it_never_trains_on(task, monkeypatch):  # noqa: F811
    task.labels = np.zeros(8, np.int64)
    settings = {"held_out": 2, "views": {"positives": "cluster"}}
    assert objective(task, **settings).retrieval is None, "one in twenty at the most is held out, and here that is none"
    monkeypatch.setattr("cslib.objectives.crops.MAX_HELD_OUT", 0.25)
    dino = objective(task, held_out=2, held_out_every=2, views={"positives": "cluster"})
    held_out = {f"u{row}" for row in dino.retrieval.rows}
    heard = {name for index in range(60) for name in dino.dataset[index]["ids"].split()}
    assert heard == {f"u{n}" for n in range(8)} - held_out
    measured = []
    dino.retrieval.measure = measured.append
    shares = [losses.diagnostics["retrieval"].item() for losses in steps(dino, 3, batch_of(dino))]
    assert measured == [dino.teacher_encoder] and shares == [0.5] * 3, "until it is measured it is that of chance"
    assert "retrieval" not in steps(objective(task, views={"positives": "cluster"}), 1)[0].diagnostics
