"""Masks of padding after strided layers."""

import torch
from torch import nn

from cslib.models.layers.masking import frame_mask, masked, strided_size


def test_size_is_what_a_padded_convolution_leaves():
    for stride in (1, 2, 3, 4):
        for size in range(1, 20):
            left = nn.Conv1d(1, 1, 3, stride, 1)(torch.zeros(1, 1, size)).shape[-1]
            assert strided_size(size, stride) == left
            assert strided_size(torch.tensor([size]), stride).tolist() == [left]


def test_mask_is_true_inside_each_recording():
    x = torch.ones(2, 3, 5, 4)
    assert frame_mask(x, torch.tensor([7, 3]), 2).tolist() == [[True] * 4, [True, True, False, False]]
    found = masked(x, torch.tensor([7, 3]), 2)
    assert torch.equal(found[0], x[0]) and found[1].sum() == 3 * 5 * 2 and not found[1, ..., 2:].any()


def test_without_lengths_nothing_is_masked():
    x = torch.ones(2, 3, 4)
    assert frame_mask(x, None, 2) is None and masked(x, None, 2) is x
