"""AAM-softmax against its formula, and the objective around it."""

import math

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import default_collate

from cslib.config import UserError
from cslib.data.banks import open_banks
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig
from cslib.datasets.crops import CropConfig
from cslib.models import resnet
from cslib.objectives.base import Task
from cslib.objectives.margin.loss import class_cosines, cross_entropies, with_margin, with_top_k_margin
from cslib.objectives.margin.objective import Config, augmented, build


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
    return Task(Utterances.open(tmp_path / "set"), open_banks(None), AugmentConfig(), 4, 0, 100, network, labels)


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
    torch.testing.assert_close(found[rows, labels][inside], torch.cos(angles + margin)[inside], atol=1e-4, rtol=0)
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


def random_cosines(*shape):
    """float64 in [-1, 1], some of them nearer to 1 than any margin."""
    cosines = torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.where(cosines > 0.8, 1 - 1e-3 * (1 - cosines), cosines)


@pytest.mark.parametrize("margin, count", [(0.1, 5), (0.3, 1), (0.1, 6), (0.1, 20)])
def test_top_k_margin_is_taken_from_the_angles_of_the_nearest_wrong_classes(margin, count):
    cosines, labels = random_cosines(50, 7), torch.arange(50) % 7
    found = with_top_k_margin(cosines, labels, margin, count)
    for row, label in enumerate(labels.tolist()):
        wrong = [column for column in range(7) if column != label]
        nearest = sorted(wrong, key=lambda column: -cosines[row, column])[:count]
        for column in range(7):
            angle = math.acos(cosines[row, column])
            expected = math.cos(angle)
            if column in nearest:
                expected = math.cos(angle - margin) if angle > margin else expected + 1 - math.cos(margin)
            assert found[row, column].item() == pytest.approx(expected, abs=1e-4)


def test_logit_of_a_near_wrong_class_rises_with_its_cosine_everywhere():
    cosines = torch.stack([torch.linspace(-1, 1, 2001, dtype=torch.float64), torch.zeros(2001)], dim=1)
    found = with_top_k_margin(cosines, torch.ones(2001, dtype=torch.long), 0.1, 5)[:, 0]
    assert (found.diff() > 0).all()


def test_cross_entropies_are_exact_where_they_are_tiny():
    logits = 40 * torch.randn(200, 9, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 9
    wrong = logits.double().scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    expected = torch.log1p((wrong - logits.double().gather(1, labels[:, None])[:, 0]).exp())
    assert (expected < 1e-8).any() and (expected > 10).any()
    torch.testing.assert_close(cross_entropies(logits, labels), expected.float(), atol=0, rtol=1e-4)


def test_nearest_sub_centre_counts():
    embeddings, centres = torch.randn(5, 8), torch.randn(4, 3, 8)
    expected = torch.nn.functional.cosine_similarity(embeddings[:, None, None], centres[None], dim=-1).amax(-1)
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
    embeddings = margin.embedding_network().embed(augmented(batch))
    cosines = torch.nn.functional.cosine_similarity(embeddings[:, None], margin.centres[None, :, 0], dim=-1)
    expected = torch.nn.functional.cross_entropy(30 * cosines, batch["label"])
    torch.testing.assert_close(losses.total, expected)
    assert losses.diagnostics["accuracy"] == (cosines.argmax(1) == batch["label"]).float().mean()


def test_both_margins_are_in_the_loss_and_rise_together(task):
    margin = objective(task, margin=0.3, top_k_margin=0.1, margin_warmup=0.5).eval()
    batch, expected, found = batch_of(margin), [], []
    labels = batch["label"]
    cosines = class_cosines(margin.encoder(augmented(batch)), margin.centres)
    for margin.step, share in ((0, 0.0), (25, 0.5), (50, 1.0), (90, 1.0)):
        logits = with_margin(with_top_k_margin(cosines, labels, 0.1 * share, 5), labels, 0.3 * share)
        expected.append(torch.nn.functional.cross_entropy(30 * logits, labels).item())
        found.append(margin(batch).total.item())
    assert found == pytest.approx(expected, rel=1e-4) and found[0] < found[1] < found[2]


def train(margin, batch, steps, optimiser=None):
    """Losses of these steps, taken as the loop takes them."""
    optimiser, losses = optimiser or torch.optim.Adam(margin.parameters(), lr=0.01), []
    for margin.step in steps:
        total = margin(batch).total
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        optimiser.step()
        margin.after_step()
        losses.append(total.item())
    return losses


def test_a_few_steps_lower_the_loss(task):
    margin = objective(task, sub_centres=2)
    losses = train(margin, batch_of(margin), range(15))
    assert losses[-1] < 0.5 * losses[0]


def changed(before, after):
    """Names of the tensors that differ, without those that count batches."""
    return {name for name in before if not torch.equal(before[name], after[name]) and "num_batches" not in name}


def copy_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("pooling", ["statistics", "attentive"])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_encoder_is_frozen_at_first_and_then_learns(task, pooling, kind):
    task.network.pooling = pooling
    margin = objective(task, freeze_encoder=0.1)
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimiser = kind(margin.parameters(), lr=0.01, weight_decay=0.1, **options)
    states = [copy_of(margin)]
    for steps in (range(10), range(10, 12)):
        train(margin, batch_of(margin), steps, optimiser)
        states.append(copy_of(margin))
    layers = {"centres"} | {f"encoder.project.{name}" for name in margin.encoder.project.state_dict()}
    learnt = {
        name
        for name in states[0]
        if "num_batches" not in name and not name.startswith("gate.") and not name.startswith("encoder.log_mel")
    }
    assert changed(*states[:2]) == {name for name in layers if "num_batches" not in name}
    assert changed(*states[1:]) == learnt
    # What was frozen begins with fresh moments.
    steps_of = {name: optimiser.state[p].get("step") for name, p in margin.named_parameters()}
    if kind is torch.optim.Adam:
        assert steps_of["centres"] == 12 and steps_of["encoder.stem.0.weight"] == 2


def test_freezing_follows_the_step_alone(task):
    once, again = (objective(task, freeze_encoder=0.1) for _ in range(2))
    batch = batch_of(once)
    train(once, batch, range(8, 12))
    for margin in (once, again):
        margin.load_state_dict(copy_of(once))
        margin.step = 50
    assert once(batch).total == again(batch).total
    assert all(p.requires_grad for p in again.parameters()) and all(m.training for m in again.modules())


def test_centres_have_a_learning_rate_of_their_own(task):
    margin = objective(task, centre_rate=10.0)
    groups = margin.parameter_groups()
    assert [p for group in groups if group.get("rate_scale") == 10 for p in group["params"]] == [margin.centres]
    every = [id(p) for group in groups for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in margin.parameters())


def test_correction_does_not_change_batch_norm_statistics(task):
    rejecting = {"gate": "fixed", "gate_loss": 0.0, "gate_start": 0.0}
    without = objective(task, **rejecting)
    corrected = objective(task, **rejecting, correction=True, correction_start=0.0, correction_confidence=0.0)
    losses = [margin(batch_of(margin)) for margin in (without, corrected)]
    assert losses[1].diagnostics["corrected"] == 1 and losses[1].total > 0 == losses[0].total
    assert changed(without.state_dict(), corrected.state_dict()) == set()
    assert all(module.training for module in corrected.modules())


def test_interferer_has_the_drawn_sir(task):
    batch = batch_of(objective(task))
    alone = augmented(batch | {"interferer": torch.zeros_like(batch["interferer"])})
    both = augmented(batch)
    talking = batch["interferer"].any(dim=1)
    ratio = 10 * torch.log10(alone.square().sum(1) / (both - alone).square().sum(1))
    assert talking.any()
    torch.testing.assert_close(ratio[talking], batch["sir"][talking], atol=0.05, rtol=0)


def test_labels_are_required(task):
    task.labels = None
    with pytest.raises(UserError, match="--labels"):
        objective(task)


def test_one_label_for_all_is_refused(task):
    task.labels = np.zeros(8, dtype=int)
    with pytest.raises(UserError, match="all utterances have the same label"):
        objective(task)


class Unnamed(torch.nn.Module):
    """A network that does not name its embedding layers."""

    embedding_size = 4


def test_network_without_named_embedding_layers_cannot_be_frozen(task, monkeypatch):
    monkeypatch.setattr(resnet, "build", lambda config: Unnamed())
    objective(task)
    with pytest.raises(UserError, match="freeze_encoder: network resnet names no embedding layers"):
        objective(task, freeze_encoder=0.1)
