"""The contrastive regulariser against a literal transcription, its curriculum, and the objective around it."""

import json
import math

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import default_collate

from cslib import checkpoints
from cslib.config import UserError, from_dict, load_yaml, to_dict
from cslib.data.banks import BankWriter, open_banks
from cslib.data.pairs import PairedUtterances
from cslib.datasets.augmentation import AugmentConfig, to_float
from cslib.datasets.pairs import PairConfig
from cslib.evaluation import validation as validating
from cslib.evaluation.speech_quality import Unmeasurable, pesq_wide_band, si_sdr
from cslib.evaluation.validation import Validation, ValidationConfig
from cslib.feature_spaces.base import FeatureSpace, FeatureSpaceConfig, open_feature_space
from cslib.models import mask_gru, resnet
from cslib.models.layers.levels import LEVEL_RMS, at_level_of_first
from cslib.objectives.base import Task
from cslib.objectives.ccr import regulariser as contrastive_regularisation
from cslib.objectives.ccr.loss import reconstruction_loss
from cslib.objectives.ccr.objective import Ccr, Config, build
from cslib.objectives.ccr.regulariser import (
    EPSILON,
    MODES,
    ContrastiveRegulariser,
    Curriculum,
    RegulariserConfig,
    curriculum_weights,
    gradient_norm,
)
from cslib.parallel import in_order
from cslib.training.config import TrainingConfig
from cslib.training.distributed import Processes
from cslib.training.loop import Trainer
from cslib.training.run_folder import RunFolder
from tests.evaluation.speech import needs_pesq, talk
from tests.evaluation.speech import noisy as noisy_speech
from tests.tiny_pairs import make_negative, make_pairs
from tests.tiny_run import ROOT, encoder, log, run_script, train_on_two_processes

ARMS = sorted((ROOT / "egs/voicebank/conf/arms").glob("[!np]*.yaml"))  # of ratios; that of positive has a unit
LOGMEL = FeatureSpaceConfig("logmel", groups=2)
BATCH, SAMPLES = 3, 4000


class Network(mask_gru.Config):
    name = "mask_gru"


class Encoder(resnet.Config):
    name = "resnet"


class Plain(torch.nn.Module):
    """The audio itself, and half of its differences: distances can then be reckoned by hand."""

    groups = 2

    def forward(self, audio):
        return [audio, audio.diff(dim=-1) / 2]


def noise(*shape, seed=1):
    return 0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def signals(negatives=2):
    """Clean, noisy, negatives of less and less noise, and an estimate between them."""
    clean, disturbance = noise(BATCH, SAMPLES), noise(BATCH, SAMPLES, seed=2)
    others = [clean + disturbance * 0.5 / (k + 1) + 0.2 * noise(BATCH, SAMPLES, seed=10 + k) for k in range(negatives)]
    enhanced = clean + 0.4 * disturbance + 0.1 * noise(BATCH, SAMPLES, seed=3)
    return enhanced, clean, clean + disturbance, others


def regulariser(mode, negatives=2, beaten=0, **values):
    made = ContrastiveRegulariser(RegulariserConfig(mode, **values), FeatureSpace(Plain()), negatives)
    made.curriculum.qualities.copy_(torch.arange(1.0, negatives + 1))
    made.curriculum.update(beaten + 0.5)
    return made


# Weights and curriculum


@pytest.mark.parametrize(
    "count, beaten, expected",
    [
        (1, 0, [0.5714, 0.4286]),
        (1, 1, [0.4444, 0.5556]),
        (2, 0, [0.5714, 0.2143, 0.2143]),
        (2, 2, [0.4444, 0.2778, 0.2778]),
        (3, 0, [0.5714, 0.1429, 0.1429, 0.1429]),
        (3, 1, [0.5217, 0.2174, 0.1304, 0.1304]),
        (3, 2, [0.4800, 0.2000, 0.2000, 0.1200]),
        (3, 3, [0.4444, 0.1852, 0.1852, 0.1852]),
        (6, 0, [0.5714] + 6 * [0.0714]),
        (6, 6, [0.4444] + 6 * [0.0926]),
    ],
)
def test_weights_are_those_of_the_tables(count, beaten, expected):
    weights = curriculum_weights(torch.arange(count) < beaten, 0.25)
    assert weights.tolist() == pytest.approx(expected, abs=5e-5)
    assert weights.sum().item() == pytest.approx(1)
    assert weights[0].item() == pytest.approx(count / (2 * count + 0.25 * (2 * beaten - count)))


def test_fixed_weights_no_negatives_and_hard_ones_alone():
    for beaten in (torch.tensor([False, False]), torch.tensor([True, False])):
        assert curriculum_weights(beaten, 0.0).tolist() == [0.5, 0.25, 0.25]
    assert curriculum_weights(torch.zeros(0, dtype=torch.bool), 0.25).tolist() == [1.0]
    assert curriculum_weights(torch.zeros(0, dtype=torch.bool), 0.25, with_noisy=False).tolist() == [1.0]
    alone = curriculum_weights(torch.tensor([True, False]), 0.25, with_noisy=False)
    assert alone.tolist() == pytest.approx([0.0, 0.625, 0.375])


def test_the_curriculum_moves_one_way_and_comes_back_from_a_checkpoint():
    curriculum = Curriculum(3)
    assert not curriculum.beaten.any()  # neither qualities nor an update yet
    curriculum.qualities.copy_(torch.tensor([1.5, 2.0, 2.5]))
    seen = [curriculum.beaten.sum().item()]
    for quality in (1.2, 1.7, 1.1, 2.0, 2.2, 1.0, 9.0):
        curriculum.update(quality)
        seen.append(curriculum.beaten.sum().item())
    assert seen == [0, 0, 1, 1, 1, 2, 2, 3]  # to be as good is not to be better
    resumed = Curriculum(3)
    resumed.load_state_dict(curriculum.state_dict())
    assert resumed.best == 9.0 and resumed.beaten.all()


# The loss


def literal(mode, made, enhanced, clean, noisy, negatives):
    """The equations as they stand, item by item and value by value."""

    def d(group, one, other):
        total = 0.0
        for item in range(BATCH):
            a, b = (audio[item].double().numpy() for audio in (one, other))
            a, b = (a, b) if group == 0 else (np.diff(a) / 2, np.diff(b) / 2)
            total += np.abs(a - b).mean()
        return total / BATCH

    raw = [
        1 + made.config.gamma if made.curriculum.best > q else 1 - made.config.gamma for q in made.curriculum.qualities
    ]
    easy = {"ccr": len(raw), "hard_only": 0.0}.get(mode)
    value = 0.0
    for group, omega in enumerate(made.group_weights.tolist()):
        if mode == "positive":
            below = 1.0
        elif mode == "literal":
            below = d(group, clean, noisy)
        elif mode == "cr":
            below = d(group, enhanced, noisy)
        else:
            below = easy / (easy + sum(raw)) * d(group, enhanced, noisy)
            below += sum(r / (easy + sum(raw)) * d(group, enhanced, n) for r, n in zip(raw, negatives, strict=True))
        value += omega * d(group, enhanced, clean) / (below + EPSILON)
    return value


@pytest.mark.parametrize("weights", [[], [0.3, 0.1]])
@pytest.mark.parametrize("mode", ["positive", "cr", "ccr", "hard_only", "literal"])
def test_the_loss_is_a_literal_transcription_of_its_equation(mode, weights):
    made, given = regulariser(mode, beaten=1, group_weights=weights), signals()
    assert made(*given)[0].item() == pytest.approx(literal(mode, made, *given), rel=1e-5)


def test_the_loss_is_a_ratio_of_batch_means_not_a_mean_of_ratios():
    made, (enhanced, clean, noisy, _) = regulariser("cr"), signals()
    scale = torch.tensor([[1.0], [10.0], [0.1]])
    enhanced = clean + scale * (enhanced - clean)
    alone = [made(*(audio[item : item + 1] for audio in (enhanced, clean, noisy)))[0] for item in range(BATCH)]
    together = made(enhanced, clean, noisy)[0]
    assert abs(together - torch.stack(alone).mean()) > 0.1 * together


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("none", "cr_matched")])
def test_nothing_is_lost_at_the_clean_speech_and_all_is_finite_at_the_noisy_speech(mode):
    _, clean, noisy, negatives = signals()
    made = regulariser(mode)
    assert made(clean.clone(), clean, noisy, negatives)[0] == 0
    at_noisy = noisy.clone().requires_grad_()
    value, diagnostics = made(at_noisy, clean, noisy, negatives)
    value.backward()
    assert 0 < value < math.inf and at_noisy.grad.isfinite().all()
    assert mode != "cr" or value > 1e4
    assert all(torch.as_tensor(sign).isfinite() for sign in diagnostics.values())


@pytest.mark.parametrize("mode", ["cr", "ccr"])
def test_the_loss_falls_from_noisy_to_clean_and_the_order_of_arguments_matters(mode):
    made, (_, clean, noisy, negatives) = regulariser(mode), signals()
    values = [
        made(noisy + share * (clean - noisy), clean, noisy, negatives)[0].item() for share in (0.1, 0.3, 0.6, 0.9)
    ]
    assert values == sorted(values, reverse=True)
    enhanced = noisy + 0.6 * (clean - noisy)
    swapped = (clean, enhanced, noisy), (enhanced, noisy, clean), (noisy, clean, enhanced)
    for others in swapped:
        assert abs(made(*others, negatives)[0] - values[2]) > 0.01 * values[2]


@pytest.mark.parametrize("mode, pushed", [("cr", True), ("ccr", True), ("literal", False), ("positive", False)])
def test_the_negatives_push(mode, pushed):
    """Whether the loss falls when a negative goes away while nothing else changes; and the denominator's gradient."""
    enhanced, clean, noisy, negatives = signals()
    made, further = regulariser(mode), [enhanced + 2 * (other - enhanced) for other in negatives]
    value = made(enhanced, clean, noisy, negatives)[0]
    if mode == "ccr":
        assert made(enhanced, clean, noisy, further)[0] < value
    if pushed:
        assert made(enhanced, clean, enhanced + 2 * (noisy - enhanced), negatives)[0] < value
    anchor = enhanced.clone().requires_grad_()
    found = made.compare(anchor, clean, (noisy, *negatives))
    below = made._denominator(found, clean, noisy)
    assert below.requires_grad == pushed
    if pushed:
        assert torch.autograd.grad(below.sum(), anchor)[0].norm() > 0


def test_ccr_without_hard_negatives_is_cr():
    given = signals(0)
    assert torch.equal(regulariser("ccr", 0)(*given)[0], regulariser("cr", 0)(*given)[0])
    assert regulariser("ccr", 0).weights().tolist() == [1.0]


def test_harder_negatives_weigh_more_once_they_are_beaten():
    given = signals()
    far = regulariser("ccr", beaten=0)(*given)
    near = regulariser("ccr", beaten=2)(*given)
    assert near[0] > far[0]  # they are nearer than the noisy speech: less to divide by
    assert (far[1]["beaten"], near[1]["beaten"]) == (0, 2)
    fixed = [regulariser("ccr", beaten=beaten, gamma=0.0)(*given)[0] for beaten in (0, 1, 2)]
    assert fixed[0] == fixed[1] == fixed[2]


def test_health_holds_distances_and_ratio_of_each_group():
    made, given = regulariser("ccr", beaten=1), signals()
    value, diagnostics = made(*given)
    enhanced, clean, noisy, negatives = given
    d = [(enhanced - audio).abs().mean() for audio in (clean, noisy, *negatives)]
    assert diagnostics["d_positive_1"].item() == pytest.approx(d[0].item(), rel=1e-5)
    assert diagnostics["d_noisy_1"].item() == pytest.approx(d[1].item(), rel=1e-5)
    assert diagnostics["d_hard_1"].item() == pytest.approx((d[2] + d[3]).item() / 2, rel=1e-5)
    assert ((diagnostics["ratio_1"] + diagnostics["ratio_2"]) / 2).item() == pytest.approx(value.item(), rel=1e-5)
    weights = [diagnostics[name].item() for name in ("weight_noisy", "weight_1", "weight_2")]
    assert weights == pytest.approx([0.5, 0.3125, 0.1875]) and diagnostics["beaten"] == 1


def test_matched_cr_has_the_gradient_norm_of_ccr_and_the_direction_of_cr():
    enhanced, *given = signals()
    anchor = enhanced.clone().requires_grad_()
    values = {mode: regulariser(mode)(anchor, *given)[0] for mode in ("cr", "ccr")}
    matched = regulariser("cr_matched")
    value = matched(anchor, *given, measure=True)[0]
    norms = {mode: gradient_norm(values[mode], anchor) for mode in values}
    assert norms["ccr"] > 1.1 * norms["cr"]
    torch.testing.assert_close(gradient_norm(value, anchor), norms["ccr"])
    torch.testing.assert_close(value, values["cr"] * norms["ccr"] / norms["cr"])
    other = signals()[0] + 0.1 * noise(BATCH, SAMPLES, seed=9)
    factor = matched.factor.clone()
    matched(other.requires_grad_(), *given)  # the factor stays until it is measured anew, and then it follows
    assert matched.factor == factor
    for _ in range(9):
        matched(other, *given, measure=True)
    settled = matched.factor.clone()
    matched(anchor, *given, measure=True)  # one of ten
    assert 0 < abs(matched.factor - settled) < 0.2 * abs(factor - settled)


def test_matched_cr_forgets_how_strong_ccr_was_while_lambda_rose():
    enhanced, clean, noisy, negatives = signals()
    matched = regulariser("cr_matched")
    close = (noisy + 1e-4 * (enhanced - noisy)).requires_grad_()  # as in the beginning: cr has a huge gradient there
    matched(close, clean, noisy, negatives, measure=True, warming=True)
    assert matched.factor < 0.1
    anchor = enhanced.clone().requires_grad_()
    norms = [gradient_norm(regulariser(mode)(anchor, clean, noisy, negatives)[0], anchor) for mode in ("ccr", "cr")]
    matched(anchor, clean, noisy, negatives, measure=True)
    torch.testing.assert_close(matched.factor, norms[0] / norms[1])


def test_shares_of_a_batch_in_two_processes_give_the_gradient_of_the_whole(monkeypatch):
    enhanced, clean, noisy, negatives = (audio if isinstance(audio, list) else audio[:2] for audio in signals())
    negatives, made = [audio[:2] for audio in negatives], regulariser("ccr")
    enhanced = clean + torch.tensor([[1.0], [5.0]]) * (enhanced - clean)
    whole = enhanced.clone().requires_grad_()
    value = made(whole, clean, noisy, negatives)[0]
    value.backward()
    shares = [
        [audio[item : item + 1] for audio in (clean, noisy)] + [[audio[item : item + 1] for audio in negatives]]
        for item in range(2)
    ]
    means = [
        torch.cat([found.positive[None], found.negative])
        for found in (
            made.compare(enhanced[item : item + 1], clean, (noisy, *negatives))
            for item, (clean, noisy, negatives) in enumerate(shares)
        )
    ]
    monkeypatch.setattr(contrastive_regularisation, "gather", lambda _: torch.stack(means))
    for item, share in enumerate(shares):
        part = enhanced[item : item + 1].clone().requires_grad_()
        mine = made(part, *share)[0]
        mine.backward()
        torch.testing.assert_close(mine, value)
        torch.testing.assert_close(part.grad[0] / 2, whole.grad[item])  # DDP averages over the two


@pytest.mark.parametrize("path", ARMS, ids=lambda path: path.stem)
def test_weights_of_the_recipe_neither_drown_the_native_loss_nor_drown_in_it(path):
    """Half of the way from the noisy to the clean speech; weights taken over from other losses are off by a hundred."""
    sides = [(talk(seed), noisy_speech(talk(seed), 5.0 * seed, seed=50 + seed)) for seed in range(3)]
    clean, noisy = (torch.tensor(np.stack(side), dtype=torch.float32) for side in zip(*sides, strict=True))
    enhanced = ((noisy + clean) / 2).requires_grad_()
    made = ContrastiveRegulariser(
        RegulariserConfig(**load_yaml(path)["objective"]["regulariser"]), open_feature_space(LOGMEL), 1
    )
    if made.config.mode == "cr_matched":
        made(enhanced, clean, noisy, [0.7 * clean + 0.3 * noisy], measure=True)
    value, _ = made(enhanced, clean, noisy, [0.7 * clean + 0.3 * noisy])
    native, _ = reconstruction_loss(enhanced, clean)
    assert 0.001 < made.config.weight * value / native < 0.5
    assert 0.001 < made.config.weight * gradient_norm(value, enhanced) / gradient_norm(native, enhanced) < 2


# The objective


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """train and valid of six pairs each, and two negatives: a poor one and a good one."""
    root = tmp_path_factory.mktemp("data")
    sets = [make_pairs(root / name, count=6, seconds=0.5) for name in ("train", "valid")]
    for name, factor in (("poor", 0.7), ("good", 0.1)):
        for pairs in sets:
            make_negative(root / name, pairs, factor)
    return root


def config_of(
    data, mode="ccr", every=2, measure="si_sdr", negatives=("poor", "good"), warmup_steps=0, delay_steps=0, **values
):
    return Config(
        [data / name for name in negatives],
        PairConfig(0.25),
        RegulariserConfig(
            mode, warmup_steps=warmup_steps, delay_steps=delay_steps, measure_every=2, feature_space=LOGMEL, **values
        ),
        ValidationConfig(data / "valid", measure, 4, every),
    )


def task_of(data, config, steps=6):
    return Task(
        Ccr.open_data(data / "train", config), open_banks(None), AugmentConfig(), 3, 0, steps, Network(hidden=4)
    )


def objective(data, mode="ccr", **values):
    torch.manual_seed(0)
    config = config_of(data, mode, **values)
    return build(config, task_of(data, config))


def batch_of(made, start=0):
    return default_collate([made.dataset[index] for index in range(start, start + 3)])


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_the_network_and_nothing_else(data, mode):
    made = objective(data, mode).train()
    losses = made(batch_of(made))
    losses.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in made.network.parameters())
    assert {name.partition(".")[0] for name, _ in made.named_parameters()} == {"network"}
    assert not any("space" in name for name in made.state_dict())
    assert ("regulariser" in losses.parts) == (mode != "none")
    assert all(torch.as_tensor(value).isfinite().all() for value in (losses.parts | losses.diagnostics).values())


def test_the_total_is_the_native_loss_and_lambda_times_the_regulariser(data):
    made = objective(data, weight=0.3).eval()
    batch = batch_of(made)
    losses = made(batch)
    stacked = torch.cat([batch["noisy"][:, None], batch["clean"][:, None], batch["negatives"]], 1)
    noisy, clean, *negatives = at_level_of_first(to_float(stacked)).unbind(1)
    enhanced = made.network(noisy)
    native, parts = reconstruction_loss(enhanced, clean)
    value, _ = made.regulariser(enhanced, clean, noisy, negatives)
    torch.testing.assert_close(losses.total, native + 0.3 * value)
    assert losses.parts["regulariser"].item() == pytest.approx(0.3 * value.item(), rel=1e-5)
    assert parts.keys() < losses.parts.keys()


def test_all_modes_see_the_same_crops_and_start_from_the_same_weights(data):
    none, ccr = objective(data, "none"), objective(data, "ccr")
    assert all(map(torch.equal, none.network.parameters(), ccr.network.parameters()))
    mine, its = batch_of(none), batch_of(ccr)
    assert torch.equal(mine["noisy"], its["noisy"]) and torch.equal(mine["clean"], its["clean"])
    assert mine["negatives"].shape[1] == 0 and its["negatives"].shape[1] == 2


def test_one_gain_brings_the_noisy_speech_of_an_item_to_the_level():
    given = torch.stack([noise(3, 800), 4 * noise(3, 800, seed=2)])
    given[1, 0] = 0  # no level at all
    scaled = at_level_of_first(given)
    assert scaled[0, 0].square().mean().sqrt().item() == pytest.approx(LEVEL_RMS, rel=1e-4)
    gains = scaled[0] / given[0]
    torch.testing.assert_close(gains, gains[0, 0].expand_as(gains))
    assert torch.equal(scaled[1], given[1])


def test_gradients_of_both_losses_are_measured_now_and_then(data):
    made = objective(data, weight=0.5).train()
    first = made(batch_of(made)).diagnostics
    assert first["native_gradient"] > 0 and first["regulariser_gradient"] > 0
    made.step = 1
    assert made(batch_of(made, 3)).diagnostics["native_gradient"] == first["native_gradient"]
    made.step = 2
    assert made(batch_of(made, 3)).diagnostics["native_gradient"] != first["native_gradient"]
    assert made.state_dict()["gradient_norms"][0] > 0


@pytest.mark.parametrize("delay", [0, 7])
def test_lambda_is_nothing_at_first_and_rises_over_the_warm_up(data, delay):
    made = objective(data, weight=0.2, delay_steps=delay, warmup_steps=4)
    found = []
    for made.step in (delay // 2 - 1, delay, delay + 1, delay + 3, delay + 50):
        found.append(made.weight())
    assert found == pytest.approx([0.0, 0.05, 0.1, 0.2, 0.2])


def test_quality_is_the_mean_over_all_recordings_and_so_are_those_of_the_negatives(data):
    made = objective(data)
    assert made.validation.rows.tolist() == [0, 2, 3, 5]
    made(batch_of(made))
    pairs = PairedUtterances.open(data / "valid", [data / "poor/valid", data / "good/valid"])
    read = [pairs.read(row) for row in made.validation.rows]
    expected = [np.mean([si_sdr(signals[1], signals[index]) for signals in read]) for index in (0, 2, 3)]
    found = [made.quality.item(), *made.regulariser.curriculum.qualities.tolist()]
    assert found == pytest.approx(expected, abs=1e-4) and found == sorted(found)
    made.step = 1
    made.after_step()
    enhanced = [made.network.eval().enhance(to_float(torch.from_numpy(signals[:1])))[0].numpy() for signals in read]
    expected = np.mean([si_sdr(signals[1], audio) for signals, audio in zip(read, enhanced, strict=True)])
    assert made.quality.item() == pytest.approx(expected, abs=1e-3) == made.regulariser.curriculum.best.item()


def test_validation_is_due_every_few_steps_and_leaves_no_trace(data):
    made = objective(data, every=3).train()
    made(batch_of(made))
    state = torch.get_rng_state()
    due = []
    for made.step in range(7):
        made.quality.fill_(math.nan)
        made.after_step()
        due.append(not made.quality.isnan().item())
    assert due == [False, False, True, False, False, True, False]
    assert made.network.training and torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_measured_counts_as_poor_in_every_arm(data, monkeypatch):
    def measure(clean, enhanced):
        if np.ptp(enhanced) == 0:
            raise Unmeasurable("silent")
        return 3.0

    class Silent(torch.nn.Module):
        def enhance(self, audio, lengths):
            return torch.cat([torch.zeros_like(audio[:1]), audio[1:]])

    monkeypatch.setitem(validating.MEASURES, "si_sdr", (measure, 1.0))
    validation = Validation(PairedUtterances.open(data / "valid"), ValidationConfig(data / "valid", "si_sdr", 4))
    assert validation.of_network(Silent(), torch.device("cpu")) == pytest.approx((1 + 3 * 3) / 4)
    assert validation.of_recordings() == [3.0]


def test_a_network_that_gives_no_numbers_is_poor_and_no_other_mistake_counts_as_that(data):
    score = Validation(PairedUtterances.open(data / "valid"), ValidationConfig(data / "valid", "si_sdr", 4)).score
    clean = talk(0)
    worst = validating.MEASURES["si_sdr"][1]
    assert score((clean, np.full_like(clean, np.nan))) == worst < score((clean, clean + 0.01 * noisy_speech(clean)))
    with pytest.raises(ValueError, match="equal length"):
        score((clean, clean[:-1]))


@needs_pesq
def test_pesq_is_measured_on_what_has_a_length_for_it(tmp_path):
    pairs = make_pairs(tmp_path / "valid", count=2, seconds=1.5)
    opened = PairedUtterances.open(pairs)
    validation = Validation(opened, ValidationConfig(pairs))
    noisy, clean = opened.read(0)
    assert len(validation.rows) == 2
    assert validation.of_recordings()[0] == pytest.approx(
        (pesq_wide_band(clean, noisy) + pesq_wide_band(*opened.read(1)[::-1])) / 2
    )
    short = make_pairs(tmp_path / "short", count=2, seconds=0.2)
    with pytest.raises(UserError, match="no recording of 0.25 s or more"):
        Validation(PairedUtterances.open(short), ValidationConfig(short))


@needs_pesq
def test_quality_does_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    pairs = make_pairs(tmp_path / "valid", count=5, seconds=1.0)
    negative = make_negative(tmp_path / "half", pairs, 0.5)
    network, asked = mask_gru.build(Network(hidden=4)), []
    monkeypatch.setattr(
        validating,
        "in_order",
        lambda function, items, nj, chunk: asked.append(nj) or in_order(function, items, nj, chunk),
    )
    found = []
    for worth in (3, 6):  # of a process: 5 recordings, and 10 with the negative
        monkeypatch.setattr(validating, "_cores", lambda: 2)
        monkeypatch.setattr(validating, "WORTH_A_PROCESS", worth)
        validation = Validation(PairedUtterances.open(pairs, [negative / "valid"]), ValidationConfig(pairs))
        found.append([validation.of_network(network, torch.device("cpu")), *validation.of_recordings()])
    assert asked == [1, 2, 0, 1]
    assert found[0] == found[1] and found[0][1] < found[0][2]  # less noise is better


def trained(data, exp, config, monkeypatch=None, stop=None, task=None):
    """A run of six steps; killed before step `stop` if that is given. The objective as it then is."""
    torch.manual_seed(0)
    made = build(config, task or task_of(data, config))
    network = {"name": "mask_gru", **to_dict(Network(hidden=4))}
    loop = TrainingConfig(steps=6, batch_size=3, checkpoint_every=1, log_every=1, workers=0)
    alone = Processes(0, 1, torch.device("cpu"))
    trainer = Trainer(made, loop, RunFolder(exp, {"config": {"network": network}}, alone), alone, 0)
    if stop:
        step = trainer._train_step

        def interrupting(batch):
            if trainer.step == stop:
                raise KeyboardInterrupt
            return step(batch)

        monkeypatch.setattr(trainer, "_train_step", interrupting)
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
    else:
        trainer.run()
    return made


def logged(exp):
    timing = ("data_seconds", "compute_seconds", "items_per_second", "memory_gb")
    lines = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timing} for line in lines]


@pytest.mark.parametrize("mode", ["ccr", "cr_matched"])
def test_a_resumed_run_equals_an_uninterrupted_run(data, tmp_path, monkeypatch, mode):
    config = config_of(data, mode, weight=0.5)
    whole = trained(data, tmp_path / "whole", config)
    trained(data, tmp_path / "run", config, monkeypatch, stop=5)
    monkeypatch.setattr(Validation, "of_recordings", lambda _: pytest.fail("rated again"))
    resumed = trained(data, tmp_path / "run", config)
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")
    mine, its = resumed.state_dict(), whole.state_dict()
    assert mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)
    assert mine["regulariser.curriculum.best"].isfinite() and mine["rated"]
    assert [line["step"] for line in logged(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_what_is_kept_is_the_enhancement_network_alone_whatever_the_mode(data, tmp_path):
    sizes = {}
    for mode in ("none", "ccr"):
        made = trained(data, tmp_path / mode, config_of(data, mode))
        network = checkpoints.load_encoder(tmp_path / mode / "checkpoints/final.pt")
        sizes[mode] = {name: value.shape for name, value in network.state_dict().items()}
        audio = noise(2, 6000)
        torch.testing.assert_close(network.enhance(audio), made.network.eval().enhance(audio))
        assert network.enhance(audio).shape == audio.shape
    assert sizes["none"] == sizes["ccr"]


def test_a_training_without_the_test_set_or_speakers_goes_to_the_end(data, tmp_path):
    """The fixture has neither; the curriculum knows the validation set alone."""
    assert sorted(path.name for path in data.iterdir()) == ["good", "poor", "train", "valid"]
    made = trained(data, tmp_path / "run", config_of(data))
    line = logged(tmp_path / "run")[-1]
    assert line["quality_1"] == pytest.approx(made.regulariser.curriculum.qualities[0].item(), rel=1e-4)
    assert {"quality", "best_quality", "beaten", "weight_noisy", "native_gradient"} <= line.keys()


def test_a_longer_training_beats_a_poor_negative_and_the_weights_move(data):
    made = objective(data, weight=0.05, every=5).train()
    made.regulariser.curriculum.qualities.copy_(torch.tensor([-40.0, 90.0]))
    made.rated.fill_(True)
    before = made.regulariser.weights()
    for made.step in range(5):
        made(batch_of(made))
        made.after_step()
    assert made.regulariser.curriculum.beaten.tolist() == [True, False]
    assert made.regulariser.weights().tolist() == pytest.approx([0.5, 0.3125, 0.1875])
    assert before.tolist() == pytest.approx([0.5714, 0.2143, 0.2143], abs=1e-4)


def test_digests_follow_the_content_of_space_and_validation_set(data, tmp_path):
    made = objective(data, "cr")
    assert made.digests()["feature_space"] is None and len(made.digests()["validation"]) == 64
    network = resnet.Config(num_mels=24, channels=[4], blocks=[1], embedding_size=4)
    path = tmp_path / "final.pt"
    checkpoints.save(
        path,
        {"config": {"network": {"name": "resnet", **vars(network)}}, "encoder": resnet.build(network).state_dict()},
    )
    config = config_of(data, "cr")
    config.regulariser.feature_space = FeatureSpaceConfig("encoder", path)
    first = build(config, task_of(data, config)).digests()["feature_space"]
    checkpoints.save(path, {**checkpoints.load(path), "step": 1})
    assert first and first != build(config, task_of(data, config)).digests()["feature_space"]


def test_a_config_file_can_set_all_of_it(tmp_path):
    values = {
        "negatives": [str(tmp_path)],
        "pairs": {"crop_seconds": 1.0},
        "validation": {"pairs": str(tmp_path)},
        "regulariser": {"mode": "cr", "group_weights": [0.5, 1], "feature_space": {"name": "logmel", "groups": 2}},
    }
    config = from_dict(Config, values, "config.yaml")
    assert config.regulariser == RegulariserConfig("cr", group_weights=[0.5, 1.0], feature_space=LOGMEL)
    assert config.negatives == [tmp_path] and config.validation.pairs == tmp_path
    with pytest.raises(UserError, match="regulariser.mode is clean"):
        from_dict(Config, {"regulariser": {"mode": "clean"}}, "config.yaml")


# Speech that is mixed for every crop, and negatives that networks make on the spot


@pytest.fixture(scope="module")
def mixing(data, tmp_path_factory):
    """Of `data` the clean side of train and the pairs of valid; noise; two networks that learnt for six steps."""
    root = tmp_path_factory.mktemp("mixing")
    with BankWriter(root / "noise/noise", np.int16) as writer:
        writer.add(np.random.default_rng(0).integers(-9000, 9000, 20_000).astype(np.int16))
    for number, name in enumerate(("early", "late")):
        config = config_of(data, "none")
        config.validation.pairs = data / "valid"
        trained(data, root / name, config)
        path = root / name / "checkpoints/final.pt"
        state = torch.load(path, weights_only=True)
        state["encoder"] = {
            key: value + 0.3 * (1 - number) * torch.randn(value.shape) if value.is_floating_point() else value
            for key, value in state["encoder"].items()
        }
        torch.save(state, path)
    return root


def mixed_objective(data, mixing, mode="ccr", negatives=("early", "late"), banks="noise"):
    torch.manual_seed(0)
    return build(*mixed_config_and_task(data, mixing, mode, negatives, banks))


def mixed_config_and_task(data, mixing, mode="ccr", negatives=("early", "late"), banks="noise"):
    config = config_of(data, mode, negatives=())
    config.negatives = [mixing / name / "checkpoints/final.pt" for name in negatives]
    task = task_of(data, config)
    task.utterances, task.banks = task.utterances.clean, open_banks(banks and mixing / banks)
    return config, task


def test_networks_make_the_negatives_of_what_is_mixed_anew(data, mixing):
    made = mixed_objective(data, mixing).eval()
    batch = batch_of(made)
    assert batch["negatives"].shape[1] == 0
    losses = made(batch)
    noisy, clean = at_level_of_first(to_float(torch.stack([batch["noisy"], batch["clean"]], 1))).unbind(1)
    networks = [checkpoints.load_encoder(path) for path in made.config.negatives]
    negatives = [network(noisy) for network in networks]
    value, _ = made.regulariser(made.network(noisy), clean, noisy, negatives)
    native, _ = reconstruction_loss(made.network(noisy), clean)
    torch.testing.assert_close(losses.total, native + made.config.regulariser.weight * value)
    pairs = PairedUtterances.open(data / "valid")
    signals = [pairs.read(row) for row in made.validation.rows]
    expected = [
        np.mean(
            [
                si_sdr(clean, network.enhance(to_float(torch.from_numpy(noisy[None])))[0].numpy())
                for noisy, clean in signals
            ]
        )
        for network in networks
    ]
    assert made.regulariser.curriculum.qualities.tolist() == pytest.approx(expected, abs=1e-3)
    assert abs(expected[0] - expected[1]) > 0.01


def test_networks_that_make_negatives_are_no_part_of_the_run_but_known_to_it(data, mixing):
    made = mixed_objective(data, mixing).train()
    made(batch_of(made)).total.backward()
    assert {name.partition(".")[0] for name, _ in made.named_parameters()} == {"network"}
    assert all(p.grad is None for network in made.negatives.networks for p in network.parameters())
    assert not any(network.training for network in made.negatives.networks)
    assert made.state_dict().keys() == objective(data).state_dict().keys()
    both, one = made.digests()["negatives"], mixed_objective(data, mixing, negatives=["late"]).digests()["negatives"]
    assert len(set(both)) == 2 and both[1:] == one
    assert "negatives" not in mixed_objective(data, mixing, "cr").digests()


@pytest.mark.parametrize("mode, expected", [("cr", 0), ("positive", 0), ("ccr", 4), ("cr_matched", 2)])
def test_networks_run_only_when_a_step_makes_use_of_them(data, mixing, mode, expected):
    made = mixed_objective(data, mixing, mode).train()
    runs = []
    for network in made.negatives.networks:
        network.register_forward_hook(lambda *_: runs.append(1))
    made.validation, made.config.regulariser.measure_every = None, 2
    for made.step in range(2):
        made(batch_of(made)).total.backward()
    assert len(runs) == expected


def test_networks_that_make_negatives_go_where_the_audio_is_before_they_are_first_used(data, mixing, monkeypatch):
    made = mixed_objective(data, mixing)
    moved = []
    for network in made.negatives.networks:
        monkeypatch.setattr(network, "to", lambda device, network=network: moved.append(device) or network)
    made._qualities()
    made.negatives(torch.randn(1, 4000))
    assert moved == 4 * [torch.device("cpu")]
    assert not any(p.requires_grad for network in made.negatives.networks for p in network.parameters())


def test_a_resumed_run_meets_the_mixtures_that_it_would_have_met(data, mixing, tmp_path, monkeypatch):
    config, task = mixed_config_and_task(data, mixing)
    whole = trained(data, tmp_path / "whole", config, task=task)
    trained(data, tmp_path / "run", config, monkeypatch, stop=4, task=task)
    resumed = trained(data, tmp_path / "run", config, task=task)
    assert logged(tmp_path / "run") == logged(tmp_path / "whole") and len(logged(tmp_path / "run")) == 6
    mine, its = resumed.state_dict(), whole.state_dict()
    assert all(torch.equal(mine[name], its[name]) for name in its)


def test_two_processes_compute_what_one_computes(data, mixing, tmp_path):
    # Not adam: it blows rounding errors up, where a gradient is zero, to steps of full size.
    config = tmp_path / "config.yaml"
    config.write_text(f"""
objective:
  name: ccr
  pairs: {{crop_seconds: 0.25}}
  regulariser:
    weight: 0.5
    delay_steps: 0
    warmup_steps: 0
    measure_every: 2
    feature_space: {{name: logmel, groups: 2}}
  validation: {{pairs: {data / "valid"}, measure: si_sdr, recordings: 4, every: 2}}
network: {{name: mask_gru, hidden: 4}}
training: {{steps: 6, batch_size: 4, optimiser: sgd, learning_rate: 0.01, checkpoint_every: 3, log_every: 1,
           workers: 0}}
""")
    networks = json.dumps([str(mixing / name / "checkpoints/final.pt") for name in ("early", "late")])
    folders = json.dumps([str(data / name) for name in ("poor", "good")])
    runs = {
        "ccr": ["--data", data / "train/clean", "--noise", mixing / "noise", "--objective.negatives", networks],
        "cr_matched": ["--data", data / "train", "--objective.negatives", folders],
    }

    def command(mode, exp):
        return [
            "local/train.py",
            "--config",
            str(config),
            "--exp",
            str(exp),
            "--device",
            "cpu",
            "--objective.regulariser.mode",
            mode,
            *map(str, runs[mode]),
        ]

    train_on_two_processes(tmp_path / "two.py", [command(mode, tmp_path / f"two-{mode}") for mode in runs])
    for mode in runs:
        one, two = run_script(command(mode, tmp_path / mode)), tmp_path / f"two-{mode}"
        for part in ("loss", "regulariser", "quality", "best_quality", "quality_1", "beaten", "regulariser_gradient"):
            assert [line[part] for line in log(two)] == pytest.approx([line[part] for line in log(one)], rel=1e-4), (
                mode,
                part,
            )
        mine, its = encoder(one), encoder(two)
        assert all(torch.allclose(its[key], mine[key], atol=1e-5) for key in mine), mode
        assert len({line["quality"] for line in log(one)}) > 2  # the networks do learn


def test_fresh_mixtures_do_not_depend_on_the_mode(data, mixing):
    cr, ccr = mixed_objective(data, mixing, "cr"), mixed_objective(data, mixing)
    assert all(map(torch.equal, cr.network.parameters(), ccr.network.parameters()))
    assert torch.equal(batch_of(cr)["noisy"], batch_of(ccr)["noisy"])


def test_what_is_mixed_and_what_is_not_are_told_apart(data, mixing):
    with pytest.raises(UserError, match="--noise to mix it with"):
        mixed_objective(data, mixing, banks=None)
    config = config_of(data)
    task = task_of(data, config)
    task.banks = open_banks(mixing / "noise")
    with pytest.raises(UserError, match="--noise: the pairs of this set are mixed already"):
        build(config, task)
    task.utterances = task.utterances.clean
    with pytest.raises(UserError, match="give the final.pt of the networks"):
        build(config, task)
    config.negatives.append(mixing / "late/checkpoints/fina.pt")
    with pytest.raises(UserError, match="objective.negatives: .*fina.pt: not found"):
        build(config, task)
    config.negatives[-1] = mixing / "late/checkpoints/final.pt"
    with pytest.raises(UserError, match="some are folders and some are files"):
        build(config, task_of(data, config_of(data, "cr")))


# Wrong configurations


@pytest.mark.parametrize(
    "values, told",
    [
        ({"mode": "clean"}, "mode is clean; it must be one of none, positive"),
        ({"weight": 0.0}, "weight is 0.0; it must be more than 0"),
        ({"weight": -1.0}, "weight"),
        ({"gamma": 1.0}, "gamma"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"delay_steps": -1}, "delay_steps"),
        ({"measure_every": 0}, "measure_every"),
        ({"group_weights": [-1.0]}, "group_weights"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(values, told):
    with pytest.raises(UserError, match=told):
        RegulariserConfig(**values)
    assert RegulariserConfig("none", weight=0.0).mode == "none"


def test_what_a_mode_lacks_is_said_when_it_is_built(data):
    for values, told in (({"negatives": ()}, "objective.negatives"), ({"group_weights": [1.0]}, "2 groups")):
        with pytest.raises(UserError, match=told):
            objective(data, **values)
    config = config_of(data)
    config.validation.pairs = None
    with pytest.raises(UserError, match="objective.validation.pairs"):
        build(config, task_of(data, config))
    config.regulariser.gamma = 0.0
    build(config, task_of(data, config))
    with pytest.raises(UserError, match="validation.measure"):
        ValidationConfig(measure="stoi")
    with pytest.raises(UserError, match="validation.every"):
        ValidationConfig(every=0)


def test_pairs_and_a_network_that_enhances_are_needed(data):
    config = config_of(data)
    task = task_of(data, config)
    task.network = Encoder(num_mels=24, channels=[4], blocks=[1], embedding_size=4)
    with pytest.raises(UserError, match="network.name is resnet, which enhances nothing"):
        build(config, task)
    task.utterances = task.utterances.clean
    with pytest.raises(UserError, match="pairs of clean and noisy"):
        build(config, task)


def test_negatives_lie_in_a_folder_of_the_name_of_the_set(data, tmp_path):
    config = config_of(data)
    audio = Ccr.open_data(data / "train", config).read(0)
    assert len(audio) == 4 and np.array_equal(audio[2], soundfile.read(data / "poor/train/u00.wav", dtype="int16")[0])
    config.negatives.append(tmp_path / "absent")
    with pytest.raises(UserError, match="absent/train"):
        Ccr.open_data(data / "train", config)
    config.regulariser.mode = "cr"
    assert len(Ccr.open_data(data / "train", config).read(0)) == 2
