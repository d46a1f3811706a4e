"""Options of the training loop."""

import pytest

from cslib.config import UserError
from tests.tiny_run import train


@pytest.mark.parametrize(
    "option, value, words",
    [
        ("precision", "fp16", "must be fp32, bf16 or auto"),
        ("optimiser", "adma", "must be one of adam, adam_amsgrad, adamw, sgd"),
        ("steps", "0", "must be at least 1"),
        ("checkpoint_every", "0", "must be at least 1"),
        ("average_last", "0", "must be at least 1"),
        ("workers", "-1", "must be (a finite number, )?at least 0"),
        ("ema", "1", "less than 1"),
        ("learning_rate", "-1", "must be (a finite number, )?at least 0"),
        ("beta2", "1", "less than 1"),
        ("keep_every", "1000", r"a multiple of training.checkpoint_every \(3\)"),
        ("steps", "many", "expected a whole number"),
    ],
)
def test_bad_value_is_one_sentence_before_anything_is_made(data, tmp_path, option, value, words):
    with pytest.raises(UserError, match=f"training.{option}.*{words}"):
        train(data, tmp_path / "run", f"--training.{option}={value}")
    assert not (tmp_path / "run").exists()
