"""The contrastive regulariser in all its modes, against a literal transcription of its equation."""

import math

import numpy as np
import pytest
import torch

from cslib.config import load_yaml
from cslib.feature_spaces.base import open_feature_space
from cslib.objectives.ccr import regulariser as contrastive_regularisation
from cslib.objectives.ccr.loss import reconstruction_loss
from cslib.objectives.ccr.regulariser import (
    EPSILON,
    MODES,
    ContrastiveRegulariser,
    RegulariserConfig,
    gradient_norm,
)
from tests.evaluation.speech import noisy as noisy_speech
from tests.evaluation.speech import talk
from tests.objectives.ccr.tiny_ccr import BATCH, LOGMEL, SAMPLES, noise, regulariser, signals
from tests.tiny_run import ROOT

ARMS = sorted((ROOT / "egs/voicebank/conf/arms").glob("[!np]*.yaml"))  # of ratios; that of positive has a unit


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
def test_loss_is_zero_at_the_clean_speech_and_finite_at_the_noisy_speech(mode):
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


def test_diagnostics_hold_distances_and_ratio_of_each_group():
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


def test_matched_cr_ignores_measurements_from_the_warm_up():
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
def test_shipped_weights_balance_regulariser_and_native_loss(path):
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
