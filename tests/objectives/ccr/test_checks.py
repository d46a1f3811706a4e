"""Configs of CCR: what they set, and what is refused in one sentence."""

import pytest

from cslib.config import UserError, from_dict
from cslib.data.banks import open_banks
from cslib.evaluation.validation import ValidationConfig
from cslib.objectives.ccr.objective import Config, build
from cslib.objectives.ccr.regulariser import (
    RegulariserConfig,
)
from tests.objectives.ccr.tiny_ccr import LOGMEL, Encoder, config_of, mixed_objective, objective, task_of


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


def test_paired_and_clean_sets_are_used_with_the_right_options(data, mixing):
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
def test_invalid_value_is_refused(values, told):
    with pytest.raises(UserError, match=told):
        RegulariserConfig(**values)
    assert RegulariserConfig("none", weight=0.0).mode == "none"


def test_missing_requirements_of_a_mode_are_refused(data):
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
