"""What simclr, moco and vicreg have in common: they train, resume, stop with a sentence, and share a batch."""

import copy
import re

import numpy as np
import pytest
import torch
import yaml

from cslib.config import UserError, parse, to_dict
from cslib.models import galr
from cslib.objectives.base import gather_with_gradient
from cslib.objectives.crops import augmented
from cslib.objectives.siamese import projector
from local import train as script
from tests.objectives.tiny_siamese import TINY, batch_of, make_task, means_of, objective, steps
from tests.tiny_run import (
    ROOT,
    encoder,
    interrupted,
    log,
    make_set,
    same_training,
    train,
    train_on_two_processes,
    words,
)

NAMES = ["moco", "simclr", "vicreg"]
SMALL = {"moco": {"queue": 24, "momentum": 0.9}, "simclr": {}, "vicreg": {"projector": [16, 12]}}
CONF = ROOT / "egs/voxceleb/conf"


@pytest.fixture
def task(tmp_path):
    return make_task(tmp_path)


def small(name, task, **values):
    return objective(name, task, **{**SMALL[name], **values})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("widths", [[], [12, 6]])
def test_a_few_steps_lower_the_loss(task, name, widths):
    built = small(name, task, projector=widths)
    batch = batch_of(built)
    if name == "moco":  # utterances of another batch are the negatives; then the batch finds its own keys only
        task.batch_size = 4
        built = small(name, task, projector=widths)
        batches = [batch_of(built, 0, 4), batch_of(built, 4, 4)]
        found = [steps(built, 1, batches[number % 2])[0] for number in range(24)]
        first, last = found[1].total, found[-1].total
    else:
        found = steps(built, 15, batch)
        first, last = found[0].total, found[-1].total
    assert last < 0.7 * first
    assert all(value.isfinite() for told in found for value in {**told.parts, **told.diagnostics}.values())
    assert {"embedding_std", "effective_rank", "agreement"} <= found[0].diagnostics.keys()


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_float32_under_autocast(task, name):
    built = small(name, task)
    steps(built, 1)
    batch, twin = batch_of(built), copy.deepcopy(built)
    with torch.autocast("cpu", torch.bfloat16):
        told = built(batch)
    assert all(value.dtype == torch.float32 for value in (told.total, *told.parts.values(), *told.diagnostics.values()))
    assert told.total.item() == pytest.approx(twin(batch).total.item(), rel=0.1, abs=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_both_crops_are_augmented_independently_and_go_through_one_network(task, name):
    task.augment.channel_p = 1.0
    built, heard = small(name, task), []
    batch = batch_of(built)
    built.encoder.register_forward_pre_hook(lambda _, audio: heard.append(audio[0]))
    built(batch)
    assert torch.equal(torch.cat(heard), augmented(batch, "global").flatten(0, 1))
    assert not torch.allclose(batch["global_channel"][:, 0], batch["global_channel"][:, 1])
    assert built.embedding_network() is built.encoder


@pytest.mark.parametrize("name", NAMES)
def test_retrieval_is_measured_on_utterances_that_are_never_trained_on(task, name, monkeypatch):
    monkeypatch.setattr("cslib.objectives.crops.MAX_HELD_OUT", 0.25)
    task.batch_size = 4
    built, measured = small(name, task, held_out=2, held_out_every=2), []
    held_out = {f"u{row}" for row in built.retrieval.rows}
    assert {built.dataset[index]["ids"] for index in range(60)} == {f"u{n}" for n in range(8)} - held_out
    built.retrieval.measure = measured.append
    found = steps(built, 3, batch_of(built, 0, 4))
    assert measured == [built.encoder] and all(told.diagnostics["retrieval"] == 0.5 for told in found)


@pytest.mark.parametrize("name", NAMES)
def test_collapse_is_warned_of_with_a_remedy(task, name):
    built = small(name, task)
    found = steps(built, 4)
    built.step = 50
    well = means_of(found[-1]) | {"loss": 0.1, "variance": 0.5, "effective_rank": 4.0, "embedding_std": 0.8}
    assert built.warning(well) is None
    for parameter in built.encoder.parameters():
        parameter.data.zero_()
    if name == "moco":
        built.key_encoder.load_state_dict(built.encoder.state_dict())
    told = built.warning(means_of(built(batch_of(built))) | ({"loss": 0.1, "variance": 0.5, "effective_rank": 4.0}))
    assert "nearly the same embedding" in told and "training." in told and "\n" not in told
    chance = built.warning(well | {"loss": 9.0, "variance": 1.95})
    assert "objective." in chance and "\n" not in chance and chance != told
    built.step = 1
    assert built.warning(well | {"loss": 9.0, "variance": 1.95}) is None, "it is the usual start"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"views": {"local_crops": 2}}, "objective.views.local_crops is 2; it must be 0"),
        ({"views": {"global_crops": 3}}, "objective.views.global_crops is 3; it must be 2"),
        ({"views": {"clean_teacher": True}}, "objective.views.clean_teacher is True; it must be false"),
        ({"views": {"positives": "cluster"}}, "give the file of labels with --labels"),
        ({"projector": [8, 0]}, r"objective.projector is \[8, 0\]; it must be"),
        ({"held_out": -1}, "objective.held_out is -1; it must be at least 0"),
        ({"held_out_every": 0}, "objective.held_out_every is 0; it must be at least 1"),
    ],
)
def test_bad_value_is_one_sentence(task, name, values, sentence):
    with pytest.raises(UserError, match=sentence):
        small(name, task, **values)


@pytest.mark.parametrize("name", NAMES)
def test_labels_networks_and_batches_that_do_not_fit_are_refused(task, name):
    task.batch_size = 1
    with pytest.raises(UserError, match="training.batch_size is 1; it must be at least 2"):
        small(name, task)
    task.batch_size, task.labels = 8, np.arange(8)
    with pytest.raises(UserError, match="leave --labels out"):
        small(name, task)
    task.labels, task.network = None, galr.Config()
    task.network.name = "galr"
    with pytest.raises(UserError, match="the objective needs a network with one embedding per crop"):
        small(name, task)


@pytest.mark.parametrize("name", NAMES)
def test_cluster_positives_train(task, name):
    task.labels = np.arange(8) // 2
    built = small(name, task, views={"positives": "cluster"})
    batch = batch_of(built)
    assert all(len(names.split()) == 2 for names in batch["ids"])
    assert all(told.total.isfinite() for told in steps(built, 2, batch))


def test_projector_has_norms_and_rectifiers_between_its_layers():
    assert list(projector(5, [])) == []
    kinds = [type(layer).__name__ for layer in projector(5, [7, 6, 4])]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert projector(5, [7, 6, 4])(torch.randn(3, 5)).shape == (3, 4)


def test_one_process_gathers_its_own_part_with_its_gradient():
    part = torch.randn(3, 2, requires_grad=True)
    gather_with_gradient(part).sum().backward()
    assert torch.equal(part.grad, torch.ones(3, 2))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("data") / "train", seconds=0.5)


SECTIONS = {
    "moco": "name: moco, queue: 11, momentum: 0.9",
    "simclr": "name: simclr, temperature: 0.1",
    "vicreg": "name: vicreg, projector: [9, 7]",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [2, 7])
def test_resumed_run_equals_uninterrupted_run(data, tmp_path, monkeypatch, name, at):
    data.with_name("config.yaml").write_text(TINY.format(objective=SECTIONS[name]))
    whole, run = train(data, tmp_path / "whole"), tmp_path / "run"
    interrupted(monkeypatch, at, data, run)
    assert same_training(train(data, run), whole)
    last = "checkpoints/step-00000008.pt"
    mine, its = (torch.load(exp / last, weights_only=True)["model"] for exp in (run, whole))
    assert mine.keys() == its.keys() and all(torch.equal(mine[key], its[key]) for key in its)
    kept = encoder(whole)
    assert all(torch.equal(value, its[f"encoder.{key}"]) for key, value in kept.items())
    lines = log(whole)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert all(line["loss"] >= 0 and 0 <= line["agreement"] <= 1 for line in lines)


WITHOUT_BATCH_STATISTICS = """
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

def forward(self, x):   # on CPUs each process would normalise by its own share of the batch
    return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False)

_BatchNorm.forward = forward
"""


@pytest.mark.slow
def test_two_processes_compute_what_one_computes(data, tmp_path, monkeypatch):
    """Losses and gradients: the negatives, keys and covariances are those of the whole batch."""
    options = ["--training.optimiser", "sgd", "--training.learning_rate", "0.01", "--training.steps", "5"]
    config, runs = data.with_name("config.yaml"), {}
    for name in NAMES:
        config.with_name(f"{name}.yaml").write_text(TINY.format(objective=SECTIONS[name]))
        runs[name] = words(data, tmp_path / f"two-{name}", *options)
        runs[name][runs[name].index(str(config))] = str(config.with_name(f"{name}.yaml"))
    train_on_two_processes(tmp_path / "two.py", list(runs.values()), WITHOUT_BATCH_STATISTICS)
    norm = torch.nn.modules.batchnorm._BatchNorm
    monkeypatch.setattr(norm, "forward", norm.forward)
    exec(WITHOUT_BATCH_STATISTICS, {})
    for name in NAMES:
        config.write_text(config.with_name(f"{name}.yaml").read_text())
        one, two = train(data, tmp_path / name, *options), tmp_path / f"two-{name}"
        for part in ("loss", "gradient_norm"):
            wanted = [line[part] for line in log(one)]
            assert wanted[-1] > 0
            assert [line[part] for line in log(two)] == pytest.approx(wanted, rel=1e-4, abs=1e-6), (name, part)
        mine, its = (torch.load(run / "checkpoints/step-00000005.pt", weights_only=True)["model"] for run in (one, two))
        assert mine.keys() == its.keys()
        assert not [key for key in mine if not torch.allclose(its[key], mine[key], rtol=1e-4, atol=1e-5)], name


def options_in(name):
    words = ["--config", str(CONF / f"{name}.yaml"), "--data", "data", "--exp", "exp"]
    return parse(script.options_of_command(words), words)


def network_in(options):
    return to_dict(options.network)


@pytest.mark.parametrize("name", NAMES)
def test_mini_config_has_the_network_crops_and_budget_of_dino(name):
    dino, mine = options_in("mini/dino"), options_in(f"mini/{name}")
    assert network_in(mine) == network_in(dino) and mine.augment == dino.augment
    assert mine.objective.views.global_seconds == dino.objective.views.global_seconds
    assert (mine.training.steps, mine.training.batch_size) == (dino.training.steps, dino.training.batch_size)


@pytest.mark.parametrize("name", NAMES)
def test_full_size_config_parses_with_the_network_of_round_ecapa(name):
    mine = options_in(name)
    assert mine.objective.name == name and mine.training.steps > mine.training.warmup_steps
    assert network_in(mine) == network_in(options_in("round_ecapa"))
    text = (CONF / f"{name}.yaml").read_text()
    assert re.search("[Ii]nferred", text) and yaml.safe_load(text)["objective"]["name"] == name
