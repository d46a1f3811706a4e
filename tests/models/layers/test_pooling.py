"""Pooling over time: values, masks and finite gradients."""

import pytest
import torch
from torch import nn

from cslib.config import UserError
from cslib.models.layers.pooling import ContextPooling, StatisticsPooling, make_pooling

KINDS = ["statistics", "attentive", "context"]


def test_statistics_pooling_is_mean_and_population_deviation():
    frames = torch.randn(2, 3, 50)
    mask = torch.arange(50) < torch.tensor([[50], [20]])
    pooled = StatisticsPooling(3)(frames, mask)
    for row, length in enumerate((50, 20)):
        inside = frames[row, :, :length]
        expected = torch.cat([inside.mean(-1), inside.std(-1, unbiased=False)])
        torch.testing.assert_close(pooled[row], expected, atol=1e-4, rtol=1e-4)


def test_pooling_of_a_constant_has_a_finite_gradient():
    for pooling in (make_pooling(kind, 3) for kind in KINDS):
        frames = torch.ones(2, 3, 10, requires_grad=True)
        pooling(frames).sum().backward()
        assert frames.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_frames_outside_the_mask_are_left_out(kind):
    torch.manual_seed(0)
    pooling, frames = make_pooling(kind, 5, bottleneck=4), torch.randn(2, 5, 30)
    mask = torch.arange(30) < torch.tensor([[30], [17]])
    pooled = pooling(frames, mask)
    torch.testing.assert_close(pooled[1:], pooling(frames[1:, :, :17]))
    torch.testing.assert_close(pooled, pooling(frames + 9 * ~mask[:, None], mask))
    assert pooled.shape == (2, pooling.output_size)


def test_context_pooling_scores_frames_joined_with_mean_and_deviation():
    torch.manual_seed(0)
    pooling, frames = ContextPooling(6, bottleneck=4), torch.randn(2, 6, 20)
    first, second = pooling.score[0], pooling.score[2]
    joined = nn.Conv1d(18, 4, 1)  # as it is written down: one layer over [frame, mean, deviation]
    joined.weight.data = torch.cat([first.weight, pooling.context.weight[..., None]], dim=1)
    joined.bias.data = first.bias.data
    whole = [frames.mean(-1, keepdim=True), frames.std(-1, unbiased=False, keepdim=True)]
    context = torch.cat([frames, *(part.expand_as(frames) for part in whole)], dim=1)
    weights = second(joined(context).tanh()).softmax(-1)
    mean = (weights * frames).sum(-1)
    deviation = ((weights * frames.square()).sum(-1) - mean.square()).sqrt()
    torch.testing.assert_close(pooling(frames), torch.cat([mean, deviation], 1), atol=1e-3, rtol=1e-3)


def test_context_changes_the_weights_of_frames():
    torch.manual_seed(0)
    pooling, frames = ContextPooling(6, bottleneck=4), torch.randn(1, 6, 20)
    longer = torch.cat([frames, 5 + torch.randn(1, 6, 20)], dim=-1)
    ratio = pooling.scores(longer, None)[..., :20] - pooling.scores(frames, None)
    assert ratio.std(-1).max() > 1e-3  # not the same weights up to a factor


def test_an_unknown_pooling_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="network.pooling is max; it must be one of statistics, attentive, context"):
        make_pooling("max", 3)
