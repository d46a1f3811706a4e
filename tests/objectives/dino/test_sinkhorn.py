"""Sinkhorn targets against a slow transcription of the rounds, and a DINO that has them."""

import copy
import math

import pytest
import torch

from cslib.datasets.augmentation import to_float
from cslib.objectives.crops import augmented
from cslib.objectives.dino.loss import me_max_loss, prototype_cosines, sinkhorn_knopp_offsets
from cslib.training.loop import Trainer
from tests.objectives.dino import test_dino as plain
from tests.objectives.dino.test_dino import batch_of, objective, steps
from tests.tiny_run import log, make_set, same_training, train

task = plain.task  # the fixture


def literal_targets(cosine_rows, temperature, power, rounds):
    """As SDPN describes it: a softmax, sharpened by a power, then columns and rows in turn; one number at a time."""
    rows = [[math.exp(cosine / temperature) for cosine in row] for row in cosine_rows]
    rows = [[(value / sum(row)) ** power for value in row] for row in rows]
    rows = [[value / sum(row) for value in row] for row in rows]
    prototypes = len(rows[0])
    for _ in range(rounds):
        for k in range(prototypes):
            total = sum(row[k] for row in rows)
            for row in rows:
                row[k] /= total * prototypes
        for row in rows:
            total = sum(row)
            row[:] = [value / total for value in row]
    return torch.tensor(rows, dtype=torch.float32)


def sharp_rows(count=12, prototypes=7, seed=0):
    """Cosines that favour the first prototypes, as those of a teacher at its start do."""
    generator = torch.Generator().manual_seed(seed)
    return 0.2 * torch.randn(count, prototypes, generator=generator) + torch.linspace(0.5, -0.5, prototypes)


@pytest.mark.parametrize("rounds", [1, 3, 10])
def test_targets_are_those_of_the_literal_rounds(rounds):
    rows = sharp_rows()
    wanted = literal_targets(rows.tolist(), temperature=0.1, power=4, rounds=rounds)
    logits = rows / 0.025
    torch.testing.assert_close(
        (logits - sinkhorn_knopp_offsets(logits, rounds)).softmax(1), wanted, atol=1e-5, rtol=1e-4
    )


def test_rows_sum_to_one_and_columns_become_even():
    logits = sharp_rows(60, 20) / 0.05
    shares = {rounds: (logits - sinkhorn_knopp_offsets(logits, rounds)).softmax(1) for rounds in (1, 3, 300)}
    uneven = [(share.sum(0) / 3 - 1).abs().max() for share in (logits.softmax(1), *shares.values())]
    assert uneven[0] > 3 and uneven == sorted(uneven, reverse=True) and uneven[3] < 1e-3
    assert all(torch.allclose(share.sum(1), torch.ones(60)) for share in shares.values())


def test_logits_with_a_single_likely_prototype_stay_finite():
    logits = torch.zeros(6, 4)
    logits[:, 2] = 1e4
    targets = (logits - sinkhorn_knopp_offsets(logits)).softmax(1)
    torch.testing.assert_close(targets, torch.full((6, 4), 0.25))


def test_entropy_with_fewer_rows_than_prototypes_reaches_its_lower_bound():
    logits = sharp_rows(5, 20) / 0.002
    targets = (logits - sinkhorn_knopp_offsets(logits, 2000)).softmax(1)
    assert torch.special.entr(targets).sum(1).mean() >= math.log(20 / 5) - 1e-3


def test_one_process_has_the_targets_of_many(task, monkeypatch):
    dino = objective(task, targets="sinkhorn")
    steps(dino, 2)
    dino.eval()  # batch statistics would be each process's own
    audio = augmented(batch_of(dino), "global")
    together, entropy, _ = dino._teach(audio)
    points = dino.teacher_head(dino.teacher_encoder(audio.flatten(0, 1)))
    everyone = prototype_cosines(points, dino.teacher_head.prototypes())
    monkeypatch.setattr("cslib.objectives.dino.objective.gather", lambda mine: everyone)
    halves = [dino._teach(audio[mine]) for mine in (slice(0, 3), slice(3, 8))]
    torch.testing.assert_close(torch.cat([half[0] for half in halves]), together)
    torch.testing.assert_close((3 * halves[0][1] + 5 * halves[1][1]) / 8, entropy)
    monkeypatch.undo()
    assert not torch.allclose(dino._teach(audio[:3])[0], together[:3], atol=1e-3)


def test_targets_of_a_step_are_balanced_and_the_centre_is_without_effect(task):
    dino = objective(task, targets="sinkhorn", teacher_temperature=(0.05, 0.05))
    steps(dino, 3)
    audio = augmented(batch_of(dino), "global")
    other = copy.deepcopy(dino)
    other.centre.uniform_(-1, 1)
    targets = dino._teach(audio)[0]
    assert torch.equal(other._teach(audio)[0], targets)
    assert targets.shape == (8, 2, 24) and targets.sum((0, 1)) == pytest.approx(16 / 24, rel=0.25)
    centred = objective(task, teacher_temperature=(0.05, 0.05))
    assert centred._teach(audio)[0].sum((0, 1)).std() > 3 * targets.sum((0, 1)).std()


def test_lower_temperature_gives_sharper_targets_on_its_schedule(task):
    dino = objective(task, targets="sinkhorn", teacher_temperature=(0.1, 0.01), temperature_warmup=0.5)
    dino.eval()
    audio, entropies = augmented(batch_of(dino), "global"), []
    for dino.step in (0, 25, 50):
        entropies.append(dino._teach(audio)[1].item())
    assert math.log(24) > entropies[0] > entropies[1] > entropies[2] >= math.log(24 / 16) - 0.1


def test_sharp_balanced_targets_are_no_collapse(task):
    means = {"teacher_entropy": 0.01, "distillation": 1.0}
    assert objective(task, targets="sinkhorn").warning(means) is None
    assert "single prototype" in objective(task).warning(means)
    uniform = {"teacher_entropy": 3.17, "distillation": 3.17}
    assert "guessing among all prototypes" in objective(task, targets="sinkhorn").warning(uniform)


def test_clean_teacher_sees_recordings_and_student_sees_augmented_crops(task):
    task.augment.channel_p = 1.0
    dino = objective(task, views={"clean_teacher": True})
    batch, told = batch_of(dino), {}
    for name in ("teacher_encoder", "encoder"):
        getattr(dino, name).register_forward_pre_hook(lambda _, audio, name=name: told.setdefault(name, audio[0]))
    dino(batch)
    assert torch.equal(told["teacher_encoder"], to_float(batch["global"]).flatten(0, 1))
    assert torch.equal(told["encoder"], augmented(batch, "global").flatten(0, 1))
    assert not torch.equal(told["encoder"], told["teacher_encoder"])


def test_me_max_is_zero_for_uniform_use_and_ln_k_for_a_single_prototype(monkeypatch):
    prototypes = torch.eye(6, dtype=torch.float64)
    assert me_max_loss(prototypes, prototypes, 0.01).item() == pytest.approx(0, abs=1e-6)
    assert me_max_loss(prototypes[:1], prototypes, 0.01).item() == pytest.approx(math.log(6))
    # Two processes' gradients average to that of one which has all crops.
    points = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    whole = me_max_loss(points, prototypes, 0.5)
    (wanted,) = torch.autograd.grad(whole, points)
    shares = [(points[mine] @ prototypes / 0.5).softmax(1).mean(0)[None].detach() for mine in (slice(4), slice(4, 8))]
    monkeypatch.setattr("cslib.objectives.dino.loss.gather", lambda mine: torch.cat(shares))
    parts = [me_max_loss(points[mine], prototypes, 0.5) for mine in (slice(4), slice(4, 8))]
    torch.testing.assert_close(torch.stack(parts), whole.expand(2))
    torch.testing.assert_close(torch.autograd.grad(sum(parts) / 2, points)[0], wanted)


@pytest.mark.parametrize(
    "values",
    [{}, {"head_norm": "batch", "me_max_weight": 1.0, "koleo_weight": 0.1, "views": {"clean_teacher": True}}],
)
def test_a_few_steps_lower_the_loss(task, values):
    dino = objective(task, targets="sinkhorn", teacher_temperature=(0.025, 0.025), **values)
    found = steps(dino, 10, batch=batch_of(dino))
    assert found[-1].diagnostics["kl"] < 0.5 * found[0].diagnostics["kl"]
    assert found[-1].parts["distillation"] < 0.8 * found[0].parts["distillation"]
    assert all(value.isfinite() for told in found for value in {**told.parts, **told.diagnostics}.values())
    assert ("me_max" in found[0].parts) == bool(values)


def test_targets_are_float32_under_autocast(task):
    dino = objective(task, targets="sinkhorn", me_max_weight=1.0)
    batch, twin = batch_of(dino), copy.deepcopy(dino)
    with torch.autocast("cpu", torch.bfloat16):
        told = dino(batch)
        assert dino._teach(augmented(batch, "global"))[0].dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in (told.total, *told.parts.values(), *told.diagnostics.values()))
    assert told.total.item() == pytest.approx(twin(batch).total.item(), rel=0.05)


def test_resumed_run_equals_uninterrupted_run(tmp_path, monkeypatch):
    data = make_set(tmp_path / "train", seconds=0.5)
    data.with_name("config.yaml").write_text(plain.TINY)
    options = [
        "--objective.targets",
        "sinkhorn",
        "--objective.views.clean_teacher",
        "true",
        "--objective.me_max_weight",
        "1.0",
    ]
    whole = train(data, tmp_path / "whole", *options)
    original = Trainer._train_step

    def step(self, batch):
        if self.step == 4:
            raise KeyboardInterrupt
        return original(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_train_step", step)
        train(data, tmp_path / "run", *options)
    assert same_training(train(data, tmp_path / "run", *options), whole)
    assert log(whole)[-1]["teacher_entropy"] <= math.log(24)
