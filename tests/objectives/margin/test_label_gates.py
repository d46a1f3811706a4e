"""Which labels are believed: the gate against known mixtures, and a training on labels known to be wrong."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from cslib import checkpoints
from cslib.config import UserError
from cslib.data.banks import open_banks
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig, to_float
from cslib.datasets.crops import CropConfig, LabelledCrops
from cslib.objectives.base import Task
from cslib.objectives.margin import label_gates
from cslib.objectives.margin import objective as margin
from cslib.objectives.margin.label_gates import OPEN, GateConfig, LabelGate, find_gate, two_gaussians
from tests.tiny_run import ENVIRONMENT, ROOT, interrupted, log, make_set, same_training, train

# --- The mixture


def drawn(weights, means, deviations, count=20_000, seed=0):
    rng = np.random.default_rng(seed)
    which = rng.choice(len(weights), count, p=weights)
    return rng.normal(np.array(means)[which], np.array(deviations)[which])


MIXTURES = [
    ((0.7, 0.3), (-4.0, 2.0), (1.5, 0.4)),
    ((0.9, 0.1), (-6.0, 2.3), (2.0, 0.2)),
    ((0.4, 0.6), (-3.0, 1.5), (1.0, 0.5)),
    ((0.97, 0.03), (-5.0, 2.0), (1.0, 0.3)),
]


@pytest.mark.parametrize("mixture", MIXTURES)
def test_mixture_is_that_of_scikit_learn(mixture):
    from sklearn.mixture import GaussianMixture  # here: the processes below do without it

    values = drawn(*mixture)
    fitted = GaussianMixture(2, random_state=0, tol=1e-7, max_iter=500).fit(values[:, None])
    order = np.argsort(fitted.means_[:, 0])
    expected = fitted.weights_[order], fitted.means_[order, 0], fitted.covariances_[order, 0, 0] ** 0.5
    for found, wanted in zip(two_gaussians(values), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=0.02)


@pytest.mark.parametrize("mixture", MIXTURES)
def test_gate_is_where_the_weighted_densities_cross(mixture):
    def lead(value):
        first, second = ((w / s * np.exp(-(((value - m) / s) ** 2) / 2)) for w, m, s in zip(*mixture, strict=True))
        return first - second

    low, high = mixture[1]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if lead(middle) > 0 else (low, middle)
    assert np.log(find_gate(np.exp(drawn(*mixture)))) == pytest.approx(low, abs=0.1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", ["normal", "skewed", "logits", "wide_logits", "outliers_below", "constant", "few"])
def test_losses_of_one_mode_reject_almost_nothing(shape, seed):
    rng = np.random.default_rng(seed)
    logs = {
        "normal": rng.normal(-3, 1.5, 3000),
        "skewed": rng.gamma(3.0, 1.0, 3000) - 6,
        "logits": np.log(np.logaddexp(0, rng.normal(-3, 4, 3000))),  # cross-entropy of Gaussian logits
        "wide_logits": np.log(np.logaddexp(0, rng.normal(-5, 5, 3000))),
        "outliers_below": np.concatenate([rng.normal(0, 0.5, 3000), rng.normal(-9, 0.3, 60)]),
        "constant": np.full(3000, 1.0),
        "few": np.repeat([-5.0, 2.0], 14),
    }[shape]
    assert np.mean(np.exp(logs) > find_gate(np.exp(logs))) < 0.01


def test_gate_as_published_cuts_a_single_mode_too():
    losses = np.exp(np.random.default_rng(0).normal(-3, 1.5, 3000))
    assert find_gate(losses) == OPEN and np.mean(losses > find_gate(losses, valley=1.0)) > 0.1


def test_zero_losses_leave_the_gate_finite():
    losses = np.concatenate([np.exp(drawn((0.7, 0.3), (-4, 2), (1, 0.3), 2000)), np.zeros(5)])
    assert -2.5 < np.log(find_gate(losses)) < 2


# --- The gate within the objective


NETWORK = SimpleNamespace(
    name="resnet",
    num_mels=24,
    mean_window=301,
    channels=[4],
    blocks=[1],
    stem_stride=2,
    pooling="statistics",
    embedding_size=16,
)
CLASSES, UTTERANCES, BATCH, STEPS = 12, 480, 48, 200
TRUTH = np.arange(UTTERANCES) % CLASSES
WRONG = np.random.default_rng(3).random(UTTERANCES) < 0.3
LABELS = np.where(WRONG, (TRUTH + np.random.default_rng(4).integers(1, CLASSES, UTTERANCES)) % CLASSES, TRUTH)


def spoken():
    """int16 [utterances, 32]: a direction for each class, and what is the utterance's own."""
    rng = np.random.default_rng(0)
    voices, own = rng.normal(size=(CLASSES, 32)), rng.normal(size=(UTTERANCES, 32))
    return torch.from_numpy(2000 * (voices[TRUTH] + 0.8 * own)).to(torch.int16)


def objective(**values):
    """The margin objective on vectors in place of audio, with a linear network."""
    values = {"margin": 0.1, "margin_warmup": 0.2, "gate_start": 0.3, **values}
    task = Task(range(UTTERANCES), open_banks(None), AugmentConfig(), BATCH, 0, STEPS, NETWORK, LABELS)
    torch.manual_seed(0)
    found = margin.build(margin.Config(**values), task)
    found.encoder = torch.nn.Linear(32, 16)
    return found


@pytest.fixture
def vectors(monkeypatch):
    """Degraded: with noise, in float."""
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(
        margin,
        "augmented",
        lambda batch: to_float(batch["speech"]) + 0.03 * torch.randn(batch["speech"].shape, generator=generator),
    )


def batches(count=STEPS):
    speech, labels = spoken(), torch.from_numpy(LABELS)
    for step in range(count):
        number, place = divmod(step * BATCH, UTTERANCES)
        order = np.random.default_rng([0, number, 0]).permutation(UTTERANCES)
        rows = torch.from_numpy(order[place : place + BATCH])
        yield {"speech": speech[rows], "label": labels[rows], "row": rows}


def run(objective, module=None, share=slice(None), count=STEPS):
    """The losses of all steps; the shares of wrong labels among those believed in the last pass."""
    optimiser = torch.optim.Adam(objective.parameter_groups(), lr=0.01)
    found = []
    for objective.step, batch in enumerate(batches(count)):
        losses = (module or objective)({name: value[share] for name, value in batch.items()})
        optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        optimiser.step()
        objective.after_step()
        found.append(losses)
    return found


def test_dynamic_gate_keeps_right_labels_and_rejects_wrong_ones(vectors):
    gated = objective(gate="dynamic")
    diagnostics = run(gated)[-1].diagnostics
    believed = gated.gate.trusted(gated.gate.losses, STEPS).numpy()
    assert WRONG.mean() > 0.25 and WRONG[believed].mean() < 0.05 and believed[~WRONG].mean() > 0.95
    assert 0.1 < diagnostics["gate"] < 10 and 0.6 < diagnostics["kept"] < 0.8


def accuracy(trained):
    """Share of the utterances whose nearest centre is that of their true class."""
    cosines = margin.class_cosines(trained.encoder(to_float(spoken())), trained.centres)
    return (cosines.argmax(1) == torch.from_numpy(TRUTH)).float().mean().item()


def test_correction_gives_rejected_utterances_their_true_labels(vectors):
    trained = objective(gate="dynamic", correction=True)
    diagnostics = run(trained)[-1].diagnostics
    assert diagnostics["corrected"] > 0.5 * WRONG.mean()
    rejected = ~trained.gate.trusted(trained.gate.losses, STEPS)
    own, sure = trained.gate.own_labels(trained._clean_logits(spoken()[rejected]))
    right = own.argmax(1).numpy() == TRUTH[rejected]
    assert sure.float().mean() > 0.7 and right[sure].mean() > 0.95
    assert accuracy(trained) > 0.95


def test_corrected_loss_is_the_cross_entropy_of_the_own_labels(vectors, monkeypatch):
    gated = objective(gate="fixed", gate_loss=2.0, gate_start=0.15, correction=True, correction_start=0.15, margin=0.0)
    run(gated, count=40)
    monkeypatch.setattr(margin, "augmented", lambda batch: to_float(batch["speech"]))
    batch = next(batches())
    losses = gated(batch)
    with torch.no_grad():
        logits = 30 * margin.class_cosines(gated.encoder(to_float(batch["speech"])), gated.centres)
    expected, corrected = [], 0
    for row, label in enumerate(batch["label"]):
        logs = logits[row].log_softmax(0)
        if -logs[label] <= 2:
            expected.append(-logs[label])
        elif logs.exp().max() > 0.5:
            sharpened = logs.exp() ** 10 / (logs.exp() ** 10).sum()
            expected.append(-(sharpened * logs).sum())
            corrected += 1
    assert 0 < corrected < len(expected) < BATCH
    torch.testing.assert_close(losses.total, torch.stack(expected).mean(), atol=1e-4, rtol=1e-4)
    assert losses.diagnostics["corrected"] == pytest.approx(corrected / BATCH)
    assert losses.diagnostics["kept"] == pytest.approx((len(expected) - corrected) / BATCH)


def test_gates_and_corrections_wait_for_their_shares_of_the_training(vectors):
    gated = objective(gate="fixed", gate_loss=1.0, gate_start=0.1, correction=True, correction_start=0.2)
    diagnostics = [losses.diagnostics for losses in run(gated, count=60)]
    assert all(values["kept"] == 1 for values in diagnostics[:20]) and diagnostics[20]["kept"] < 1
    assert all(values["corrected"] == 0 for values in diagnostics[:40])
    assert any(values["corrected"] > 0 for values in diagnostics[40:])


def test_gate_that_rejects_all_gives_a_zero_loss_and_zero_gradients(vectors):
    gated = objective(gate="fixed", gate_loss=0.0, gate_start=0.0)
    total = gated(next(batches())).total
    total.backward()
    assert total == 0 and all(p.grad.eq(0).all() for p in gated.parameters())


def test_nan_loss_passes_the_gate(vectors):
    gated = objective(gate="fixed", gate_loss=1.0, gate_start=0.0)
    gated.centres.data[0] = torch.nan
    assert gated(next(batches())).total.isnan()


def test_gate_that_keeps_few_labels_warns_with_a_remedy():
    assert "keeps only 20% of the labels: raise objective.gate_start" in objective().warning({"kept": 0.2})
    assert objective().warning({"kept": 0.7}) is None and objective().warning({"loss": 1.0}) is None


def test_dynamic_gate_moves_after_each_pass_only(vectors, monkeypatch):
    seen = []
    monkeypatch.setattr(label_gates, "find_gate", lambda losses, _: seen.append(losses) or float(len(seen)))
    gated = objective(gate="dynamic")
    gates = [losses.diagnostics["gate"].item() for losses in run(gated, count=25)]  # ten steps a pass
    assert gates == [OPEN] * 10 + [1.0] * 10 + [2.0] * 5
    assert [len(losses) for losses in seen] == [UTTERANCES] * 2


def test_gate_keeps_the_larger_loss_of_two_crops_of_an_utterance():
    task = SimpleNamespace(utterances=range(6), steps=10, batch_size=4)
    gate = LabelGate(GateConfig(gate="dynamic"), task, labelled=5)
    gate.after_step(0, torch.tensor([4, 1, 4, 0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    gate.after_step(1, torch.tensor([4, 2, 3, 0]), torch.tensor([0.5, 6.0, 7.0, 8.0]))
    torch.testing.assert_close(gate.losses, torch.tensor([8.0, 2.0, 6.0, 7.0, 0.5, torch.nan]), equal_nan=True)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"gate": "loose"}, "objective.gate is loose; it must be none, fixed or dynamic"),
        ({"correction": True}, "set objective.gate"),
        ({"gate": "fixed", "correction_temperature": 0.0}, "correction_temperature is 0.0; it must be more than 0"),
    ],
)
def test_invalid_option_is_refused_in_one_sentence(values, message):
    with pytest.raises(UserError, match=message):
        GateConfig(**values)


# --- Whole runs


CONFIG = """
objective: {name: margin, gate: dynamic, gate_start: 0.2, correction: true, correction_start: 0.3,
            correction_confidence: 0.05, freeze_encoder: 0.3, crops: {seconds: 0.3}}
network: {name: resnet, num_mels: 24, channels: [4], blocks: [1], stem_stride: 2, embedding_size: 8}
training: {steps: 24, batch_size: 4, learning_rate: 0.01, checkpoint_every: 7, log_every: 1, workers: 0}
"""


@pytest.fixture
def data(tmp_path):
    """Twelve utterances, one of them without a label: eleven steps of four are four passes."""
    data = make_set(tmp_path / "data/train", count=12, seconds=0.5)
    data.with_name("config.yaml").write_text(CONFIG)
    lines = [f"u{n:02d}\t{n % 3 if n else -1}" for n in range(12)]
    (tmp_path / "labels.tsv").write_text("\n".join(["utterance\tlabel", *lines]) + "\n")
    return data


def test_resumed_run_with_a_gate_equals_the_uninterrupted_run(data, tmp_path, monkeypatch):
    # So few random utterances have no two modes: half of them are rejected instead.
    monkeypatch.setattr(label_gates, "find_gate", lambda losses, _: float(np.median(losses)))
    options = ["--labels", str(tmp_path / "labels.tsv")]
    whole = train(data, tmp_path / "whole", *options)
    interrupted(monkeypatch, 16, data, tmp_path / "run", *options)
    assert same_training(train(data, tmp_path / "run", *options), whole)
    assert any(line["kept"] < 1 and line["corrected"] > 0 for line in log(whole)[16:])
    state = checkpoints.load(checkpoints.numbered(whole / "checkpoints")[-1])["model"]
    assert state["gate.losses"].isfinite().tolist() == [False] + [True] * 11


def test_item_holds_the_row_of_its_utterance(data):
    utterances = Utterances.open(data)
    crops = LabelledCrops(utterances, np.arange(12) % 3, open_banks(None), CropConfig(0.2), AugmentConfig(), 0)
    batch = default_collate([crops[index] for index in range(12)])
    assert batch["row"].dtype == torch.int64 and [utterances.id(row) for row in batch["row"]] == batch["ids"]


class Two(torch.nn.Sequential):
    """A network with a trunk and an embedding layer."""

    def __init__(self):
        super().__init__(torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16))

    def embedding_layers(self):
        return [self[2]]


def train_in_two(rank, folder):
    """One of two processes: what it ends with goes to a file."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    share = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    torch.save(end_of_a_training(share), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def end_of_a_training(share):
    """Without noise, so that one process and two hear the same; and half of the labels are rejected."""
    margin.augmented = lambda batch: to_float(batch["speech"])
    label_gates.find_gate = lambda losses, _: float(np.median(losses))
    trained = objective(gate="dynamic", correction=True, freeze_encoder=0.05, gate_start=0.1, correction_start=0.15)
    torch.manual_seed(0)
    trained.encoder, module = Two(), None
    if torch.distributed.is_initialized():
        module = torch.nn.parallel.DistributedDataParallel(
            trained, broadcast_buffers=False, find_unused_parameters=True
        )
    found = run(trained, module, share, count=40)
    return trained.state_dict(), [losses.diagnostics["corrected"].item() for losses in found]


@pytest.mark.slow
def test_two_processes_freeze_gate_and_correct_as_one_does(tmp_path, monkeypatch):
    for module, name in ((margin, "augmented"), (label_gates, "find_gate")):
        monkeypatch.setattr(module, name, getattr(module, name))  # given back at the end
    code = (
        "import sys; from tests.objectives.margin.test_label_gates import train_in_two; "
        "train_in_two(int(sys.argv[1]), sys.argv[2])"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(rank), str(tmp_path)], cwd=ROOT, env=ENVIRONMENT)
        for rank in range(2)
    ]
    one, corrected = end_of_a_training(slice(None))
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    (first, _), (second, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert max(corrected) > 0
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        torch.testing.assert_close(value, one[name], atol=1e-3, rtol=1e-3)
