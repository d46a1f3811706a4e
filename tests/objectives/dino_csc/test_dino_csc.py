"""DINO with mixtures against its definition, and what of DINO stays as it is."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import default_collate

from cslib.config import UserError, parse
from cslib.datasets.augmentation import to_float
from cslib.datasets.views import ViewConfig
from cslib.models import ecapa, res2net
from cslib.objectives.crops import augmented
from cslib.objectives.dino.loss import prototype_cosines
from cslib.objectives.dino_csc.loss import loss_by_speaker, pairwise_cross_entropy
from cslib.objectives.dino_csc.objective import Config, build, mixed_with_neighbours
from cslib.training.loop import Trainer
from local import train as script
from tests.objectives.dino import test_dino as plain
from tests.objectives.dino.test_dino import batch_of, steps
from tests.tiny_run import ROOT, log, make_set, same_training, train

task = plain.task  # the fixture


def objective(task, views=None, **values):
    torch.manual_seed(0)
    views = ViewConfig(**{"global_seconds": 0.3, "local_seconds": 0.15, "local_crops": 2, **(views or {})})
    config = {"prototypes": 24, "hidden": 16, "bottleneck": 8, "freeze_last": 0.0, "mask_hidden": 6, **values}
    return build(Config(**config, views=views), task).train()


def test_a_mixture_is_a_crop_and_the_one_before_it_softer_by_the_sir():
    crops = torch.randn(5, 4000) * torch.tensor([1.0, 2.0, 0.1, 1.0, 3.0])[:, None]
    sir = torch.tensor([0.0, 3.0, 10.0, 6.0, 20.0])
    mixtures = mixed_with_neighbours(crops, sir)
    for index in range(5):
        added = mixtures[index] - crops[index]
        assert F.cosine_similarity(added, crops[index - 1], dim=0) == pytest.approx(1, abs=1e-3)
        ratio = crops[index].square().sum() / added.square().sum()
        assert 10 * ratio.log10() == pytest.approx(sir[index].item(), abs=0.05)


def test_items_are_those_of_dino_with_a_level_of_their_own(task):
    dino, other = objective(task, sir_db=(2.0, 7.0)), plain.objective(task)
    items = [dino.dataset[index] for index in range(40)]
    assert all(set(item) - set(other.dataset[index]) == {"sir"} for index, item in enumerate(items))
    assert all(np.array_equal(items[9][name], value) for name, value in other.dataset[9].items())
    levels = [item["sir"] for item in items]
    assert levels[7] == objective(task, sir_db=(2.0, 7.0)).dataset[7]["sir"]
    assert 2 <= min(levels) < 3 and 6 < max(levels) <= 7 and len(set(levels)) == 40
    assert default_collate(items[:4])["sir"].dtype == torch.float32


def test_memory_efficient_losses_and_gradients_equal_the_definition():
    torch.manual_seed(0)
    points = F.normalize(torch.randn(5, 2, 6, dtype=torch.float64), dim=-1).requires_grad_()
    prototypes = F.normalize(torch.randn(30, 6, dtype=torch.float64), dim=-1).requires_grad_()
    speakers = torch.randn(5, 2, 30, dtype=torch.float64).mul(3).softmax(-1)
    log_p = (points @ prototypes.T / 0.1).log_softmax(-1)
    naive = -torch.einsum("btk,bsk->bst", speakers, log_p)
    lean = pairwise_cross_entropy(points, prototypes, speakers, 0.1)
    torch.testing.assert_close(lean, naive)
    weights = torch.rand(5, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad((weights * lean).sum(), (points, prototypes)),
        torch.autograd.grad((weights * naive).sum(), (points, prototypes)),
    )


def test_permutation_minimises_the_total_loss_and_diagnostics_follow_it():
    losses = torch.tensor(
        [
            [[1.0, 5.0], [6.0, 2.0]],  # [stream, speaker]: as they stand
            [[5.0, 1.0], [2.0, 6.0]],  # the other way round
            [[3.0, 4.0], [3.0, 4.0]],  # both streams the same
            [[1.0, 2.0], [4.0, 3.0]],
        ]
    )  # speaker 1 would rather have stream 0, but it is taken
    own, diagnostics = loss_by_speaker(losses)
    assert own.tolist() == [[1, 2], [2, 1], [3, 4], [1, 3]]
    assert {name: value.item() for name, value in diagnostics.items()} == {
        "louder": 1.75,
        "quieter": 2.5,
        "permutation_accuracy": 0.5,
        "first_is_louder": 0.75,
    }
    own, diagnostics = loss_by_speaker(losses, by_loudness=True)
    assert own.tolist() == [[1, 2], [5, 6], [3, 4], [1, 3]]
    assert (diagnostics["permutation_accuracy"], diagnostics["first_is_louder"]) == (0.25, 0.75)


def test_permutation_by_loudness_has_no_smaller_loss_than_the_best(task):
    batch, told = batch_of(objective(task)), {}
    for permutation in ("best", "loudness"):
        told[permutation] = objective(task, permutation=permutation)(batch)
    assert told["loudness"].parts["mixture"] > told["best"].parts["mixture"]
    assert torch.equal(*(losses.diagnostics["first_is_louder"] for losses in told.values()))


def test_loss_of_a_step_is_the_literal_definition(task):
    dino = objective(task, mixture_weight=0.7, views={"global_crops": 3})
    steps(dino, 3)
    batch, twin = batch_of(dino), copy.deepcopy(dino)  # a forward pass moves running statistics
    with torch.no_grad():
        distilled, _, targets = twin.distil(batch)
        mixtures, frames = mixed_with_neighbours(augmented(batch, "global")[:, 0], batch["sir"]), []
        hook = twin.encoder.pool.register_forward_pre_hook(lambda _, inputs: frames.append(inputs[0]))
        first = twin.encoder(mixtures)
        hook.remove()
        second = twin.encoder.project(twin.encoder.pool(twin.mask(frames[0], first)))
        answers = [
            (prototype_cosines(twin.head(stream), twin.head.prototypes()) / 0.1).log_softmax(-1)
            for stream in (first, second)
        ]
        total = 0.0
        for b in range(8):
            speakers = [(targets[index, 1] + targets[index, 2]) / 2 for index in (b, b - 1)]
            losses = [[-(speaker * answer[b]).sum() for speaker in speakers] for answer in answers]
            total += min(losses[one][0] + losses[two][1] for one, two in itertools.permutations(range(2))) / 2
    told = dino(batch)
    torch.testing.assert_close(told.parts["mixture"], total / 8)
    torch.testing.assert_close(told.total.detach(), distilled.total + 0.7 * total / 8)
    torch.testing.assert_close((told.diagnostics["louder"] + told.diagnostics["quieter"]) / 2, told.parts["mixture"])


def test_loss_of_dino_is_the_same_without_mixtures(task):
    dino, other = objective(task), plain.objective(task)
    other.load_state_dict({name: value for name, value in dino.state_dict().items() if not name.startswith("mask.")})
    batch = batch_of(dino)
    one, two = dino(batch), other(batch)
    assert torch.equal(one.parts["distillation"], two.parts["distillation"])
    assert set(two.diagnostics) < set(one.diagnostics) and set(one.parts) - set(two.parts) == {"mixture"}


def test_crop_in_the_mixture_is_not_its_own_target(task):
    # A teacher that answers otherwise to the first crops changes nothing but DINO's own loss.
    dino = objective(task)
    batch, changed = batch_of(dino), copy.deepcopy(dino)
    teach = changed._teach

    def other_answers(audio):
        targets, *rest = teach(audio)
        return torch.cat([targets[:, :1].flip(-1), targets[:, 1:]], dim=1), *rest

    changed._teach = other_answers
    one, two = dino(batch), changed(batch)
    assert torch.equal(one.parts["mixture"], two.parts["mixture"])
    assert not torch.equal(one.parts["distillation"], two.parts["distillation"])


def test_the_second_stream_depends_on_the_first_but_does_not_train_it(task):
    dino = objective(task)
    first, second = dino._streams(to_float(batch_of(dino)["global"])[:, 0]).unbind(1)
    assert not torch.allclose(first, second)
    frames = torch.rand(8, dino.mask.mask.out_channels, 5)
    assert not torch.allclose(dino.mask(frames, first), dino.mask(frames, first + 1))
    assert ((dino.mask(frames, first) / frames) < 1).all()
    bias = dino.encoder.project[1].bias  # moves the first embedding: were that not detached, more than once
    (wanted,) = torch.autograd.grad(second.sum(), bias)
    torch.testing.assert_close(wanted, torch.full_like(bias, 8.0))


def test_teacher_gets_no_gradient_and_all_else_does(task):
    dino = objective(task)
    dino(batch_of(dino)).total.backward()
    assert all(mine.grad is None for mine, _ in dino._pairs())
    trained = [*(its for _, its in dino._pairs()), *dino.mask.parameters()]
    assert all(parameter.grad is not None for parameter in trained)
    optimised = {id(parameter) for group in dino.parameter_groups() for parameter in group["params"]}
    assert optimised == {id(parameter) for parameter in trained}
    assert dino.embedding_network() is dino.teacher_encoder and dino._frames is None


def test_a_few_steps_lower_the_losses_of_both_speakers(task):
    dino = objective(task, teacher_momentum=(1.0, 1.0), sir_db=(3.0, 3.0), targets="sinkhorn")
    found = steps(dino, 25, batch=batch_of(dino), rate=0.02)
    for name in ("louder", "quieter"):
        assert found[-1].diagnostics[name] < 0.8 * found[0].diagnostics[name]
    assert found[-1].diagnostics["permutation_accuracy"] > 0.6
    assert all(value.isfinite() for told in found for value in {**told.parts, **told.diagnostics}.values())


def test_sinkhorn_and_a_clean_teacher_work_with_mixtures(task):
    dino = objective(task, targets="sinkhorn", views={"clean_teacher": True})
    assert steps(dino, 1)[0].total.isfinite()


@pytest.mark.parametrize(
    "network",
    [
        ecapa.Config(num_mels=24, channels=8, scale=4, squeeze=4, attention=4, aggregation=12, embedding_size=8),
        res2net.Config(num_mels=24, channels=[4, 6], blocks=[1, 1], stem_stride=2, embedding_size=8, pooling="context"),
    ],
)
def test_other_networks_with_frame_pooling_work(task, network):
    network.name = type(network).__module__.rpartition(".")[2]
    task.network = network
    assert steps(objective(task), 1)[0].total.isfinite()


def test_losses_are_float32_under_autocast(task):
    dino = objective(task)
    batch, twin = batch_of(dino), copy.deepcopy(dino)
    with torch.autocast("cpu", torch.bfloat16):
        told = dino(batch)
    assert all(value.dtype == torch.float32 for value in (told.total, *told.parts.values(), *told.diagnostics.values()))
    assert told.total.item() == pytest.approx(twin(batch).total.item(), rel=0.05)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"mixture_weight": 0.0}, "objective.mixture_weight is 0.0; it must be more than 0"),
        ({"sir_db": (5.0, 1.0)}, "lower bound first"),
        ({"sir_db": (-5.0, 1.0)}, "at least 0"),
        ({"permutation": "alphabet"}, "best or loudness"),
        ({"mask_hidden": 0}, "objective.mask_hidden is 0; it must be at least 1"),
        ({"prototypes": 1}, "objective.prototypes is 1; it must be at least 2"),
    ],
)
def test_bad_value_is_one_sentence(task, values, words):
    with pytest.raises(UserError, match=words):
        objective(task, **values)


def test_batch_of_one_cannot_be_mixed(task):
    task.batch_size = 1
    with pytest.raises(UserError, match="training.batch_size is 1; it must be at least 2"):
        objective(task)


def test_each_process_needs_two_utterances_to_mix(task, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    task.batch_size = 4
    with pytest.raises(UserError, match="training.batch_size is 4; it must be at least 8, two per process: dino_csc"):
        objective(task)
    task.batch_size = 8
    objective(task)


def test_resumed_run_equals_uninterrupted_run_and_logs_diagnostics(tmp_path, monkeypatch):
    data = make_set(tmp_path / "train", seconds=0.5)
    data.with_name("config.yaml").write_text(plain.TINY.replace("name: dino", "name: dino_csc"))
    whole = train(data, tmp_path / "whole")
    original = Trainer._train_step

    def step(self, batch):
        if self.step == 4:
            raise KeyboardInterrupt
        return original(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_train_step", step)
        train(data, tmp_path / "run")
    assert same_training(train(data, tmp_path / "run"), whole)
    assert {"mixture", "louder", "quieter", "permutation_accuracy", "first_is_louder"} <= log(whole)[0].keys()


@pytest.mark.parametrize("name", ["dino_csc", "mini/dino_csc"])
def test_shipped_configs_parse(name):
    arguments = ["--config", str(ROOT / f"egs/voxceleb/conf/{name}.yaml"), "--data", "data", "--exp", "exp"]
    options = parse(script.options_of_command(arguments), arguments)
    assert options.objective.name == "dino_csc" and options.objective.sir_db == (0.0, 10.0)
