"""AAM-softmax against its formula, and the objective around it."""

import math

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import default_collate

from cslib.config import UserError
from cslib.data.augment import AugmentConfig
from cslib.data.banks import open_banks
from cslib.data.crops import CropConfig
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.models import resnet
from cslib.objectives import Task
from cslib.objectives.margin import Config, build, class_cosines, degraded, with_margin


class Network(resnet.Config):
    name = "resnet"


@pytest.fixture
def task(tmp_path):
    """Eight utterances of a second, in three classes; the last one is rejected."""
    rng, entries = np.random.default_rng(0), []
    for index in range(8):
        soundfile.write(tmp_path / f"u{index}.wav", rng.integers(-3000, 3000, 16000).astype(np.int16), 16000)
        entries.append(Entry(f"u{index}", tmp_path / f"u{index}.wav", 16000))
    write_set(tmp_path / "set", entries)
    network = Network(num_mels=24, channels=[4, 6], blocks=[1, 1], stem_stride=2, embedding_size=8)
    labels = np.array([0, 0, 1, 1, 2, 2, 2, -1])
    return Task(
        Utterances.open(tmp_path / "set"), open_banks(None), AugmentConfig(), 4, 0, 100, network, labels
    )


def objective(task, **values):
    torch.manual_seed(0)
    return build(Config(crops=CropConfig(seconds=0.5, interferer_p=0.5), **values), task)


def batch_of(objective, start=0):
    return default_collate([objective.dataset[index] for index in range(start, start + 4)])


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5])
def test_margin_is_added_to_the_angle_of_the_true_class_only(margin):
    cosines = torch.rand(500, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    labels = torch.arange(500) % 7
    rows = torch.arange(500)
    angles = torch.arccos(cosines[rows, labels])
    found = with_margin(cosines, labels, margin)
    inside = angles + margin <= math.pi
    torch.testing.assert_close(
        found[rows, labels][inside], torch.cos(angles + margin)[inside], atol=1e-4, rtol=0
    )
    others = torch.ones_like(cosines, dtype=torch.bool)
    others[rows, labels] = False
    torch.testing.assert_close(found[others], cosines[others])


@pytest.mark.parametrize("margin", [0.2, 0.5])
def test_logit_of_the_true_class_rises_with_its_cosine_everywhere(margin):
    cosines = torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None]
    found = with_margin(cosines, torch.zeros(2001, dtype=torch.long), margin)[:, 0]
    assert (found.diff() > 0).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradient_is_finite_on_and_opposite_the_centre(sign):
    centres = torch.eye(3)[:, None]
    embeddings = (sign * torch.eye(3)).requires_grad_()
    labels = torch.arange(3)
    logits = 30 * with_margin(class_cosines(embeddings, centres), labels, 0.3)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    assert embeddings.grad.isfinite().all()


def test_nearest_sub_centre_counts():
    embeddings, centres = torch.randn(5, 8), torch.randn(4, 3, 8)
    expected = torch.nn.functional.cosine_similarity(embeddings[:, None, None], centres[None], dim=-1).amax(
        -1
    )
    torch.testing.assert_close(class_cosines(embeddings, centres), expected)


def test_cosines_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        cosines = class_cosines(torch.randn(2, 8).bfloat16(), torch.randn(3, 2, 8))
    assert cosines.dtype == torch.float32


def test_margin_rises_linearly_and_stays(task):
    margin = objective(task, margin=0.3, margin_warmup=0.2)
    found = []
    for margin.step in (0, 10, 20, 99):
        found.append(round(margin.margin(), 6))
    assert found == [0.0, 0.15, 0.3, 0.3]


def test_loss_without_margin_is_the_cross_entropy_of_scaled_cosines(task):
    margin = objective(task, margin=0.0).eval()
    batch = batch_of(margin)
    losses = margin(batch)
    embeddings = margin.embedding_network().embed(degraded(batch))
    cosines = torch.nn.functional.cosine_similarity(embeddings[:, None], margin.centres[None, :, 0], dim=-1)
    expected = torch.nn.functional.cross_entropy(30 * cosines, batch["label"])
    torch.testing.assert_close(losses.total, expected)
    assert losses.health["accuracy"] == (cosines.argmax(1) == batch["label"]).float().mean()


def test_a_few_steps_lower_the_loss(task):
    margin = objective(task, sub_centres=2)
    optimiser = torch.optim.Adam(margin.parameters(), lr=0.01)
    batch, losses = batch_of(margin), []
    for margin.step in range(15):
        total = margin(batch).total
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        losses.append(total.item())
    assert losses[-1] < 0.5 * losses[0]


def test_interferer_is_as_much_softer_as_drawn(task):
    batch = batch_of(objective(task))
    alone = degraded(batch | {"interferer": torch.zeros_like(batch["interferer"])})
    both = degraded(batch)
    talking = batch["interferer"].any(dim=1)
    ratio = 10 * torch.log10(alone.square().sum(1) / (both - alone).square().sum(1))
    assert talking.any()
    torch.testing.assert_close(ratio[talking], batch["sir"][talking], atol=0.05, rtol=0)


def test_labels_are_required(task):
    task.labels = None
    with pytest.raises(UserError, match="--labels"):
        objective(task)
