"""The weights of the negatives and the curriculum that they follow."""

import pytest
import torch

from cslib.objectives.ccr.regulariser import (
    Curriculum,
    curriculum_weights,
)
from tests.objectives.ccr.tiny_ccr import batch_of, objective, regulariser, signals


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


def test_curriculum_moves_one_way_and_is_restored_from_a_checkpoint():
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


def test_negatives_weigh_more_once_they_are_beaten():
    given = signals()
    far = regulariser("ccr", beaten=0)(*given)
    near = regulariser("ccr", beaten=2)(*given)
    assert near[0] > far[0]  # they are nearer than the noisy speech: less to divide by
    assert (far[1]["beaten"], near[1]["beaten"]) == (0, 2)
    fixed = [regulariser("ccr", beaten=beaten, gamma=0.0)(*given)[0] for beaten in (0, 1, 2)]
    assert fixed[0] == fixed[1] == fixed[2]


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
