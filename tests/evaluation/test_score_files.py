"""Score files are matched by pair, whatever the order of their lines."""

import numpy as np
import pytest

from cslib.config import UserError
from cslib.data.trials import Trials
from cslib.evaluation.score_files import read_scores, write_scores

IDS = ["a", "b", "ü"]


@pytest.fixture
def trials():
    enrol, test = np.array([0, 1, 2, 0], dtype=np.int32), np.array([1, 0, 0, 2], dtype=np.int32)
    return Trials(IDS, enrol, test, np.array([True, True, False, False]))


def test_scores_survive_the_file_exactly_and_in_any_order(trials, tmp_path):
    scores = np.random.default_rng(0).standard_normal(4).astype(np.float32)
    path = tmp_path / "s.txt"
    assert write_scores(path, trials, scores) == 4
    assert (read_scores(path, trials).astype(np.float32) == scores).all()
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    assert (read_scores(path, trials).astype(np.float32) == scores).all()


def test_a_trial_listed_twice_takes_two_scores(tmp_path):
    twice = Trials(["a", "b"], np.array([0, 0]), np.array([1, 1]), np.array([True, True]))
    path = tmp_path / "s.txt"
    write_scores(path, twice, np.array([0.25, 0.25]))
    assert read_scores(path, twice).tolist() == [0.25, 0.25]


@pytest.mark.parametrize(
    "lines, complaint",
    [
        (["a b 1", "b a 2", "ü a 3"], "has no score for 1 of the 4 pairs of the trials (first: a ü)"),
        (["a b 1", "b a 2", "ü a 3", "a ü 4", "b ü 5"], "has scores for 1 pairs that are not trials (first: b ü)"),
        (["a b 1", "b a 2", "ü a 3", "a ü 4", "zz a 5"], "has scores for 1 pairs that are not trials (first: zz"),
        (["a b 1", "b a 2", "ü a 3", "a ü 4", "a b 1"], "has a different number of scores than of trials"),
        (["a b 1", "b a high"], "line 2 has the score 'high'"),
        (["a b 1", "", "b a nan"], "line 3 has the score 'nan'"),
        (["a b 1", "b a"], "line 2 has 2 words instead of 3"),
        ([], "is empty"),
    ],
)
def test_what_does_not_fit_is_one_sentence(trials, tmp_path, lines, complaint):
    path = tmp_path / "s.txt"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as error:
        read_scores(path, trials)
    assert str(error.value).startswith(f"{path}: {complaint}")
