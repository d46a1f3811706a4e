"""DINO against its equations, transcribed literally, and the objective around them."""

import copy
import math

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from torch.utils.data import default_collate

from cslib.config import UserError, parse
from cslib.data.banks import open_banks
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig
from cslib.datasets.views import ViewConfig
from cslib.models import galr, resnet
from cslib.objectives.base import Task
from cslib.objectives.covariance import frobenius_loss, off_diagonal_loss
from cslib.objectives.crops import augmented, embedding_diagnostics
from cslib.objectives.dino.loss import distillation_loss, koleo_loss, prototype_cosines, variance_covariance_loss
from cslib.objectives.dino.objective import WINDOW, Config, build
from cslib.training.loop import Trainer
from local import train as script
from tests.tiny_run import ROOT, encoder, log, make_set, same_training, train, train_on_two_processes, words

TINY = """
objective:
  name: dino
  prototypes: 24
  hidden: 16
  bottleneck: 8
  views: {global_seconds: 0.4, local_crops: 2, local_seconds: 0.2}
network: {name: resnet, num_mels: 24, channels: [4, 6], blocks: [1, 1], stem_stride: 2, embedding_size: 8}
training: {steps: 8, batch_size: 4, learning_rate: 0.01, checkpoint_every: 3, log_every: 1, workers: 0}
"""


class Network(resnet.Config):
    name = "resnet"


@pytest.fixture
def task(tmp_path):
    """Eight utterances of a second: a hum of its own pitch in noise each."""
    rng, entries = np.random.default_rng(0), []
    for index in range(8):
        hum = 3000 * np.sin(2 * np.pi * 200 * (index + 1) * np.arange(16000) / 16000)
        samples = (hum + rng.normal(0, 500, 16000)).astype(np.int16)
        soundfile.write(tmp_path / f"u{index}.wav", samples, 16000)
        entries.append(Entry(f"u{index}", tmp_path / f"u{index}.wav", 16000))
    write_set(tmp_path / "set", entries)
    network = Network(num_mels=24, channels=[4, 6], blocks=[1, 1], stem_stride=2, embedding_size=8)
    return Task(Utterances.open(tmp_path / "set"), open_banks(None), AugmentConfig(), 8, 0, 100, network)


def objective(task, views=None, **values):
    torch.manual_seed(0)
    views = ViewConfig(**{"global_seconds": 0.3, "local_seconds": 0.15, "local_crops": 2, **(views or {})})
    config = {"prototypes": 24, "hidden": 16, "bottleneck": 8, "freeze_last": 0.0, **values}
    return build(Config(**config, views=views), task).train()


def batch_of(dino, start=0, size=8):
    return default_collate([dino.dataset[index] for index in range(start, start + size)])


def steps(dino, count, batch=None, rate=0.01):
    """Train for some steps; the losses of each."""
    optimiser, found = torch.optim.Adam(dino.parameter_groups(), lr=rate), []
    for _ in range(count):
        told = dino(batch if batch is not None else batch_of(dino, 8 * dino.step))
        optimiser.zero_grad()
        told.total.backward()
        optimiser.step()
        dino.after_step()
        dino.step += 1
        found.append(told)
    return found


def literal_loss(student, teacher, centre, student_temperature, teacher_temperature):
    """The sum over i of the long crops, j of all, k of the prototypes, one logit at a time; logits [B][crop][K]."""
    total = pairs = 0.0
    for mine, its in zip(student, teacher, strict=True):
        for i, target in enumerate(its):
            weights = [
                math.exp((logit - middle) / teacher_temperature) for logit, middle in zip(target, centre, strict=True)
            ]
            for j, answer in enumerate(mine):
                if i == j:
                    continue
                log_sum = math.log(sum(math.exp(logit / student_temperature) for logit in answer))
                total -= sum(
                    weight / sum(weights) * (logit / student_temperature - log_sum)
                    for weight, logit in zip(weights, answer, strict=True)
                )
                pairs += 1
    return total / pairs


@pytest.mark.parametrize("long, short", [(2, 4), (2, 0), (3, 2), (1, 3), (4, 1)])
def test_memory_efficient_loss_and_gradients_equal_the_definition(long, short):
    torch.manual_seed(0)
    points = F.normalize(torch.randn(5, long + short, 6, dtype=torch.float64), dim=-1).requires_grad_()
    prototypes = F.normalize(torch.randn(30, 6, dtype=torch.float64), dim=-1).requires_grad_()
    targets = torch.randn(5, long, 30, dtype=torch.float64).mul(3).softmax(-1)
    log_p = (points @ prototypes.T / 0.1).log_softmax(-1)
    pairs = [(i, j) for i in range(long) for j in range(long + short) if i != j]
    naive = torch.stack([-(targets[:, i] * log_p[:, j]).sum(-1).mean() for i, j in pairs]).mean()
    lean = distillation_loss(points, prototypes, targets, 0.1)
    torch.testing.assert_close(lean, naive)
    torch.testing.assert_close(
        torch.autograd.grad(lean, (points, prototypes)), torch.autograd.grad(naive, (points, prototypes))
    )


def test_loss_of_a_step_is_the_literal_equation(task):
    dino = objective(task, teacher_temperature=(0.05, 0.05))
    steps(dino, 3)
    dino.centre.uniform_(-0.2, 0.2)
    batch, twin = batch_of(dino), copy.deepcopy(dino)  # a forward pass moves running statistics
    with torch.no_grad():
        long, short = augmented(batch, "global"), augmented(batch, "local")
        hidden = torch.cat(
            [twin.encoder(long.flatten(0, 1)).view(8, 2, -1), twin.encoder(short.flatten(0, 1)).view(8, 2, -1)], dim=1
        )
        student = twin.head(hidden) @ F.normalize(twin.head.directions, dim=1).T
        hidden = twin.teacher_encoder(long.flatten(0, 1)).view(8, 2, -1)
        teacher = twin.teacher_head(hidden) @ F.normalize(twin.teacher_head.directions, dim=1).T
    wanted = literal_loss(student.tolist(), teacher.tolist(), dino.centre.tolist(), 0.1, 0.05)
    told = dino(batch)
    assert told.total.item() == pytest.approx(wanted, rel=1e-5)
    p = ((teacher - dino.centre) / 0.05).softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean()
    torch.testing.assert_close(told.diagnostics["teacher_entropy"], entropy)
    torch.testing.assert_close(told.diagnostics["kl"], told.total.detach() - entropy)


def test_centre_follows_the_mean_logits_after_they_were_used(task):
    dino = objective(task, centre_momentum=0.7)
    wanted = torch.zeros(24)
    for dino.step in range(3):
        batch, twin = batch_of(dino, 8 * dino.step), copy.deepcopy(dino)
        dino(batch)
        assert torch.equal(dino.centre, wanted)
        points = twin.teacher_head(twin.teacher_encoder(augmented(batch, "global").flatten(0, 1)))
        wanted = 0.7 * wanted + 0.3 * prototype_cosines(points, twin.teacher_head.prototypes()).mean(0)
        dino.after_step()
        torch.testing.assert_close(dino.centre, wanted)
        wanted = dino.centre.clone()
    assert wanted.norm() > 0.01


def test_centre_and_winners_are_those_of_all_processes(task, monkeypatch):
    dino = objective(task, centre_momentum=0.0)
    monkeypatch.setattr(
        "cslib.objectives.dino.objective.gather", lambda mine: torch.cat([mine, torch.zeros_like(mine)])
    )
    dino(batch_of(dino))
    mean = dino._last[0][0].clone()
    dino.after_step()
    torch.testing.assert_close(dino.centre, mean / 2)
    assert dino.wins.sum() == 32 and dino.wins[0] >= 16


def test_momentum_and_temperature_follow_their_schedules(task):
    dino = objective(task, teacher_momentum=(0.996, 1.0), teacher_temperature=(0.04, 0.07), temperature_warmup=0.2)
    found = {}
    for dino.step in (0, 10, 20, 50, 100):
        found[dino.step] = dino.momentum(), dino.teacher_temperature()
    quarter = 1 - 0.004 * (1 + math.cos(math.pi * 0.2)) / 2
    assert found[0] == pytest.approx((0.996, 0.04)) and found[10][1] == pytest.approx(0.055)
    assert found[20] == pytest.approx((quarter, 0.07)) and found[50] == pytest.approx((0.998, 0.07))
    assert found[100] == pytest.approx((1.0, 0.07))
    constant = objective(task, teacher_temperature=(0.04, 0.04))
    assert constant.teacher_temperature() == 0.04


def test_teacher_follows_the_students_parameters_and_keeps_its_own_statistics(task):
    dino = objective(task, teacher_momentum=(0.8, 0.9), head_norm="batch")
    steps(dino, 2, rate=0.1)
    before = [(mine.clone(), its.clone()) for mine, its in dino._pairs()]
    assert any(not torch.equal(mine, its) for mine, its in before)
    steps(dino, 1, rate=0.1)
    dino.step = 2  # the step whose momentum it was
    for (teacher, _), (mine, its) in zip(before, dino._pairs(), strict=True):
        torch.testing.assert_close(mine, dino.momentum() * teacher + (1 - dino.momentum()) * its)
    own, students = (dict(part.named_buffers()) for part in (dino.teacher_encoder, dino.encoder))
    means = [name for name in own if name.endswith("running_mean")]
    assert means and all(not torch.allclose(own[name], students[name], rtol=1e-3) for name in means)
    assert own["stem.1.num_batches_tracked"] == 3 and students["stem.1.num_batches_tracked"] == 6  # long and short


def test_teacher_gets_no_gradient_and_is_not_optimised(task):
    dino = objective(task)
    dino(batch_of(dino)).total.backward()
    teachers = [mine for mine, _ in dino._pairs()]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teachers)
    assert all(its.grad is not None for _, its in dino._pairs())
    optimised = {id(parameter) for group in dino.parameter_groups() for parameter in group["params"]}
    assert optimised == {id(its) for _, its in dino._pairs()}
    assert dino.embedding_network() is dino.teacher_encoder


def test_prototypes_are_frozen_for_the_first_share_of_the_training(task):
    dino = objective(task, freeze_last=0.03)
    before = dino.head.directions.clone()
    steps(dino, 3)
    assert torch.equal(dino.head.directions, before)
    steps(dino, 1)
    assert not torch.equal(dino.head.directions, before)


def test_student_starts_from_the_encoder_of_start_from(task):
    dino = objective(task)
    for parameter in dino.embedding_network().parameters():  # as --start-from does
        parameter.data.add_(1.0)
    dino(batch_of(dino))
    assert all(torch.equal(mine, its) for mine, its in dino._pairs())


@pytest.mark.parametrize(
    "values", [{}, {"head_norm": "batch"}, {"variance_covariance_weight": 0.2, "koleo_weight": 0.1}]
)
def test_a_few_steps_lower_the_loss(task, values):
    dino = objective(task, **values)
    found = steps(dino, 10, batch=batch_of(dino))
    assert found[-1].diagnostics["kl"] < 0.5 * found[0].diagnostics["kl"]
    assert found[-1].total < 0.7 * found[0].total
    assert all(value.isfinite() for told in found for value in {**told.parts, **told.diagnostics}.values())


def test_global_crops_alone_train(task):
    dino = objective(task, views={"local_crops": 0, "global_crops": 3})
    (told,) = steps(dino, 1)
    assert told.total.isfinite() and dino.encoder.stem[1].num_batches_tracked == 1


def test_live_prototypes_are_those_that_won_within_the_window(task):
    dino, count = objective(task), 24
    window = WINDOW * count

    def win(*winners):
        dino._last = torch.zeros(1, count), torch.tensor(winners)
        dino.after_step()
        return dino._teach(torch.randn(2, 2, 8000))[2]["live_prototypes"].item() * count

    assert win(3, 3, 5) == pytest.approx(2)
    for _ in range(window // 4 - 1):
        assert win(7, 7, 7, 7) == pytest.approx(3)
    for _ in range(2):  # what won once is forgotten first
        live = win(7, 7, 7, 7)
    assert live == pytest.approx(2) and dino.wins[3] > dino.wins[5]


def test_diagnostics_separate_good_from_collapsed_embeddings():
    torch.manual_seed(0)
    good = torch.randn(40, 1, 30)
    diagnostics = embedding_diagnostics(good + 0.1 * torch.randn(40, 2, 30))
    assert diagnostics["agreement"] == 1 and 12 < diagnostics["effective_rank"] < 30
    assert diagnostics["embedding_std"] == pytest.approx(1, abs=0.05)
    line = embedding_diagnostics(torch.randn(40, 1, 1) * torch.ones(30) + 1e-4 * torch.randn(40, 2, 30))
    assert line["effective_rank"] == pytest.approx(1, abs=0.01)
    point = embedding_diagnostics(torch.ones(40, 2, 30) + 1e-4 * torch.randn(40, 2, 30))
    assert point["embedding_std"] < 0.01 and point["agreement"] < 0.2


@pytest.mark.parametrize(
    "what, wanted",
    [
        ("sharp", "the teacher's entropy is 0.000 nats"),
        ("uniform", "the teacher's entropy 3.18 nats, and guessing among all"),
        ("well", None),
    ],
)
def test_collapse_is_warned_of_with_a_remedy(task, what, wanted):
    dino = objective(task, head_norm="batch")
    batch = batch_of(dino)
    steps(dino, 15, batch)
    dino.step = 50
    if what == "sharp":  # a centre that one prototype has left far behind
        dino.centre[:] = 10.0
        dino.centre[3] = -10.0
    if what == "uniform":  # all prototypes alike: whatever a crop is like, it resembles each as much
        dino.centre.zero_()
        for head in (dino.head, dino.teacher_head):
            head.directions.data[:] = head.directions.data[0]
    losses = dino(batch)
    means = {name: value.item() for name, value in {**losses.parts, **losses.diagnostics, "loss": losses.total}.items()}
    told = dino.warning(means)
    assert told is None if wanted is None else wanted in told and "objective." in told and "\n" not in told


def test_usual_start_near_ln_k_is_not_warned_of(task):
    dino = objective(task)
    dino.step = 1
    assert dino.warning({"teacher_entropy": 2.0, "distillation": math.log(24)}) is None


def test_variance_and_covariance_terms_are_those_of_the_definition():
    torch.manual_seed(0)
    x = torch.randn(50, 4, dtype=torch.float64) * torch.tensor([0.2, 0.9, 1.0, 3.0])
    covariance = np.cov(x.numpy().T)
    deviations = np.sqrt(np.diag(covariance) + 1e-4)
    off_diagonal = sum(covariance[i, j] ** 2 for i in range(4) for j in range(4) if i != j)
    wanted = 10 * np.maximum(0, 1 - deviations).mean() + off_diagonal / 4
    assert variance_covariance_loss(x).item() == pytest.approx(wanted)


def test_koleo_is_the_mean_log_distance_to_the_nearest_and_pushes_twins_apart():
    torch.manual_seed(0)
    x = torch.randn(20, 5, dtype=torch.float64)
    distances = torch.cdist(F.normalize(x, dim=1), F.normalize(x, dim=1)) + 10 * torch.eye(20)
    torch.testing.assert_close(koleo_loss(x), -distances.amin(1).log().mean(), atol=1e-5, rtol=0)
    twins = torch.ones(4, 5).requires_grad_()
    koleo_loss(twins).backward()
    assert koleo_loss(twins) > 9 and twins.grad.isfinite().all()


def test_regularisers_are_added_by_their_weight_and_logged(task):
    plain, both = objective(task), objective(task, variance_covariance_weight=0.5, koleo_weight=2.0)
    batch = batch_of(plain)
    one, other = plain(batch), both(batch)
    wanted = one.total + 0.5 * other.parts["variance_covariance"] + 2.0 * other.parts["koleo"]
    torch.testing.assert_close(other.total, wanted)
    assert set(one.parts) == {"distillation"}


@pytest.mark.parametrize("name, loss", [("frobenius", frobenius_loss), ("off_diagonal", off_diagonal_loss)])
def test_dimension_regularisation_is_the_mean_over_the_students_global_crops(task, name, loss):
    plain, regular = objective(task), objective(task, dimension_weight=0.5, dimension_loss=name)
    batch, twin = batch_of(plain), copy.deepcopy(regular)
    embeddings = twin.encoder(augmented(batch, "global").flatten(0, 1)).unflatten(0, (8, 2))
    one, other = plain(batch), regular(batch)
    torch.testing.assert_close(other.parts["dimension"], sum(map(loss, embeddings.unbind(1))).detach() / 2)
    torch.testing.assert_close(other.total, one.total + 0.5 * other.parts["dimension"])
    assert steps(regular, 12, batch=batch)[-1].parts["dimension"] < other.parts["dimension"]


def test_prototypes_softmax_and_loss_are_float32_under_autocast(task):
    dino = objective(task)
    batch, twin = batch_of(dino), copy.deepcopy(dino)
    with torch.autocast("cpu", torch.bfloat16):
        told = dino(batch)
        points = dino.head(torch.randn(3, 2, 8))
        assert prototype_cosines(points, dino.head.prototypes()).dtype == points.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in (told.total, *told.diagnostics.values()))
    assert told.total.item() == pytest.approx(twin(batch).total.item(), rel=0.05)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"head_norm": "layer"}, "objective.head_norm is layer; it must be none or batch"),
        ({"prototypes": 1}, "objective.prototypes is 1; it must be at least 2"),
        ({"student_temperature": 0.0}, "objective.student_temperature is 0.0; it must be more than 0"),
        ({"teacher_momentum": (0.9, 1.1)}, "objective.teacher_momentum is .*; it must be between 0 and 1"),
        ({"koleo_weight": -1.0}, "objective.koleo_weight is -1.0; it must be at least 0"),
        ({"dimension_weight": -1.0}, "objective.dimension_weight is -1.0; it must be at least 0"),
        ({"dimension_loss": "rank"}, "objective.dimension_loss is rank; it must be frobenius or off_diagonal"),
        ({"views": {"positives": "cluster"}}, "--labels"),
    ],
)
def test_bad_value_is_one_sentence(task, values, words):
    with pytest.raises(UserError, match=words):
        objective(task, **values)


@pytest.mark.parametrize("name", ["koleo_weight", "variance_covariance_weight"])
def test_losses_within_a_process_need_two_items_per_process(task, monkeypatch, name):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 8)
    with pytest.raises(UserError, match=f"training.batch_size is 8; it must be at least 16, .* objective.{name}"):
        objective(task, **{name: 0.1})
    objective(task, me_max_weight=1.0)
    task.batch_size = 16
    objective(task, **{name: 0.1})


def test_labels_and_networks_that_do_not_fit_are_refused(task):
    task.labels = np.arange(8)
    with pytest.raises(UserError, match="leave --labels out"):
        objective(task)
    task.labels, task.network = None, galr.Config()
    task.network.name = "galr"
    with pytest.raises(UserError, match="the objective needs a network with one embedding per crop"):
        objective(task)


def test_cluster_positives_train(task):
    task.labels = np.arange(8) // 2
    dino = objective(task, views={"positives": "cluster"})
    batch = batch_of(dino)
    assert all(len(names.split()) == 2 for names in batch["ids"])
    assert steps(dino, 1, batch=batch)[0].total.isfinite()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data = make_set(tmp_path_factory.mktemp("data") / "train", seconds=0.5)
    data.with_name("config.yaml").write_text(TINY)
    return data


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("exp") / "whole")


@pytest.mark.parametrize(
    "at, options",
    [
        (4, []),
        (7, ["--objective.head_norm", "batch", "--training.average_last", "2", "--training.optimiser", "adam_amsgrad"]),
    ],
)
def test_resumed_run_equals_uninterrupted_run(data, whole, tmp_path, monkeypatch, at, options):
    original = Trainer._train_step

    def step(self, batch):
        if self.step == at:
            raise KeyboardInterrupt
        return original(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_train_step", step)
        train(data, tmp_path / "run", *options)
    run = train(data, tmp_path / "run", *options)
    assert same_training(run, whole if not options else train(data, tmp_path / "whole", *options))
    state = torch.load(run / "checkpoints/step-00000008.pt", weights_only=True)
    assert state["model"]["wins"].sum() > 0 and state["model"]["centre"].norm() > 0
    moments = state["optimiser"]["state"].values()
    assert all(("max_exp_avg_sq" in moment) == ("adam_amsgrad" in options) for moment in moments)


WITHOUT_BATCH_STATISTICS = """
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

def forward(self, x):   # on CPUs each process would normalise by its own share of the batch
    return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False)

_BatchNorm.forward = forward
"""


@pytest.mark.slow
def test_two_processes_compute_what_one_computes(data, tmp_path, monkeypatch):
    options = [
        "--training.optimiser",
        "sgd",
        "--training.learning_rate",
        "0.01",
        "--training.steps",
        "5",
        "--objective.centre_momentum",
        "0.5",
        "--objective.teacher_momentum",
        "[0.5, 0.9]",
    ]
    kinds = {
        "centred": ["--objective.dimension_weight", "0.5"],
        "sinkhorn": ["--objective.me_max_weight", "1", "--objective.head_norm", "batch"],
    }
    runs = {kind: [*options, *more, "--objective.targets", kind] for kind, more in kinds.items()}
    train_on_two_processes(
        tmp_path / "two.py",
        [words(data, tmp_path / f"two-{kind}", *run) for kind, run in runs.items()],
        WITHOUT_BATCH_STATISTICS,
    )
    norm = torch.nn.modules.batchnorm._BatchNorm
    monkeypatch.setattr(norm, "forward", norm.forward)
    exec(WITHOUT_BATCH_STATISTICS, {})
    for kind, run in runs.items():
        one, two = train(data, tmp_path / kind, *run), tmp_path / f"two-{kind}"
        for part in ("loss", "kl", "gradient_norm", "centre_norm", "live_prototypes", "teacher_entropy"):
            assert [line[part] for line in log(two)] == pytest.approx([line[part] for line in log(one)], rel=1e-4), (
                kind,
                part,
            )
        mine, its = (torch.load(run / "checkpoints/step-00000005.pt", weights_only=True)["model"] for run in (one, two))
        assert mine.keys() == its.keys()
        far = [name for name in mine if not torch.allclose(its[name], mine[name], rtol=1e-4, atol=1e-5)]
        assert not far, kind


def test_what_is_kept_is_the_teachers_encoder(whole):
    model = torch.load(whole / "checkpoints/step-00000008.pt", weights_only=True)["model"]
    kept = encoder(whole)
    assert all(torch.equal(value, model[f"teacher_encoder.{name}"]) for name, value in kept.items())
    assert any(not torch.equal(value, model[f"encoder.{name}"]) for name, value in kept.items())


def test_log_has_diagnostics_and_collapse_is_warned_of(data, whole, tmp_path, capsys):
    for line in log(whole):
        assert {
            "distillation",
            "teacher_entropy",
            "kl",
            "live_prototypes",
            "embedding_std",
            "effective_rank",
            "centre_norm",
            "agreement",
            "teacher_momentum",
            "gradient_norm",
        } <= line.keys()
        assert 0 <= line["teacher_entropy"] <= math.log(24) and line["kl"] >= 0
    capsys.readouterr()
    train(data, tmp_path / "run", "--objective.teacher_temperature", "[0.0001, 0.0001]")
    assert "WARNING at step 1: the teacher's entropy is 0.000 nats" in capsys.readouterr().err


def test_student_and_teacher_are_compiled(data, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    train(data, tmp_path / "run", "--training.compile", "true", "--training.steps", "1")
    student, teacher = compiled
    assert isinstance(student, resnet.ResNet) and isinstance(teacher, resnet.ResNet)
    assert next(student.parameters()).requires_grad and not next(teacher.parameters()).requires_grad


@pytest.mark.parametrize("name", ["dino", "dino_strong", "sdpn", "sdpn_dr", "mini/dino", "mini/sdpn", "mini/sdpn_dr"])
def test_shipped_configs_parse(monkeypatch, name):
    arguments = ["--config", str(ROOT / f"egs/voxceleb/conf/{name}.yaml"), "--data", "data", "--exp", "exp"]
    options = parse(script.options_of_command(arguments), arguments)
    assert options.objective.name == "dino" and options.training.steps > options.training.warmup_steps
