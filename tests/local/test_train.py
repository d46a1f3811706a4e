"""The command line of local/train.py, and what it leaves behind."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from cslib.checkpoints import load_encoder
from cslib.config import UserError
from cslib.data.banks import BankWriter
from tests.tiny_pairs import make_negative, make_pairs
from tests.tiny_run import ENVIRONMENT, ROOT, command, encoder, log, losses, make_set, same_training, train, words

pytestmark = pytest.mark.slow  # starts processes that import torch


@pytest.fixture
def data(tmp_path):
    return make_set(tmp_path / "data/train")


def call(*arguments):
    done = subprocess.run(arguments, cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True)
    return done.returncode, done.stdout, done.stderr


def test_audio_spoilt_under_way_is_one_sentence_from_a_loader_process(data, tmp_path):
    train(data, tmp_path / "other", "--training.steps", "3")
    for path in (data / "audio").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    status, _, message = call(*command(data, tmp_path / "run", "--training.workers", "1"))
    assert status == 1 and message.startswith("error: ") and message.count("\n") == 1, message
    assert "/audio/u" in message and "prepare the data again" in message


def test_help_lists_what_the_config_adds(data, tmp_path, capsys):
    without, with_config = ["local/train.py", "--help"], [*words(data, tmp_path), "--help"]
    for arguments, there in ((without, False), (with_config, True)):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(sys, "argv", arguments)
            from cslib.config import parse
            from local.train import options_of_command

            parse(options_of_command(), description="")
        text = " ".join(capsys.readouterr().out.split())
        assert end.value.code == 0 and "--training.steps STEPS optimiser steps" in text
        assert ("--objective.alpha ALPHA start of the learnt inverse temperature" in text) == there
        assert ("--network.window WINDOW samples of an encoder window" in text) == there


@pytest.mark.parametrize(
    "more, message",
    [
        (["--training.stepz", "5"], "there is no option --training.stepz; --help lists the options"),
        (["--objective.alpah", "5"], "there is no option --objective.alpah; --help lists the options"),
        (["--network.window", "wide"], "--network.window: expected a whole number, got wide"),
        (["--objective.name", "csd"], "'csd' is not one of cslib/objectives: ccr, "),
        (["--network.name", "galrr"], "'galrr' is not one of cslib/models: crn, "),
        (["--objective.name", "angular"], "'angular' is not one of cslib/objectives: ccr, "),
        (["--network.name", "pooling"], "'pooling' is not one of cslib/models: crn, "),
        (["--objective.bank", "swop"], "objective.bank is swop; it must be "),
        (["--device", "gpu"], "--device is gpu; it must be auto, cpu or cuda"),
        (["--data", "nowhere"], "nowhere: there is no cuts.jsonl.gz in it; prepare the data first"),
        (["--noise", "nowhere"], "nowhere: there is no such noise folder"),
        (["--labels", "nowhere"], "nowhere: there is no such file of labels"),
        (["--start_from", "nowhere"], "nowhere: there is no such checkpoint"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: there is no such config file"),
        (["--objective.identity", "cluster"], "give the file of labels with --labels"),
    ],
)
def test_bad_option_is_one_sentence_and_nothing_is_made(data, tmp_path, more, message):
    with pytest.raises(UserError) as error:
        train(data, tmp_path / "run", *more)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["objective: {name: csc}", "objective: csc\nnetwork: galr", "network: {window: 4}"])
def test_config_without_names_is_one_sentence(data, tmp_path, text):
    data.with_name("config.yaml").write_text(text)
    with pytest.raises(UserError, match="a training needs `objective: {name: ...}` and `network: {name: ...}`"):
        train(data, tmp_path / "run")


def test_missing_config_is_one_sentence(data, tmp_path):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="--config: a training needs"):
        from local.train import options_of_command

        patch.setattr(sys, "argv", ["local/train.py", "--data", "x", "--exp", "y"])
        options_of_command()


def test_second_config_changes_what_it_names_and_nothing_else(data, tmp_path):
    (tmp_path / "more.yaml").write_text("objective: {alpha: 3}\ntraining: {steps: 3}")
    train(data, tmp_path / "run", "--config", str(tmp_path / "more.yaml"))
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["objective"]["alpha"] == 3 and config["objective"]["name"] == "csc"
    assert config["training"]["batch_size"] == 4 and len(losses(tmp_path / "run")) == 3


def test_config_that_is_left_behind_repeats_the_run(data, tmp_path):
    one = train(data, tmp_path / "one", "--objective.alpha", "4", "--seed", "3", "--training.steps", "3")
    other = train(data, tmp_path / "other", "--config", str(one / "config.yaml"))
    assert same_training(one, other)


def test_final_encoder_embeds_utterances(data, tmp_path):
    network = load_encoder(train(data, tmp_path / "run", "--training.steps", "3") / "checkpoints/final.pt")
    embeddings = network.embed(torch.randn(3, 16000), torch.tensor([16000, 16000, 9000]))
    assert embeddings.shape == (3, 8) and embeddings.isfinite().all()


def test_start_from_begins_with_the_weights_of_the_other_run(data, tmp_path):
    first = train(data, tmp_path / "first", "--training.steps", "3")
    start = ["--start_from", str(first / "checkpoints/final.pt"), "--training.learning_rate", "0"]
    again = train(data, tmp_path / "again", *start, "--training.steps", "3")
    assert all(torch.equal(value, encoder(again)[name]) for name, value in encoder(first).items())


def test_run_with_noise_is_another_run_than_one_without(data, tmp_path, capsys):
    with BankWriter(tmp_path / "noise/noise", "int16") as bank:
        bank.add(np.random.default_rng(0).normal(0, 3000, 50_000).astype(np.int16))
    options = ["--training.steps", "3", "--augment.noise_p", "1"]
    clean = losses(train(data, tmp_path / "run", *options))
    noisy = losses(train(data, tmp_path / "run", *options, "--noise", str(tmp_path / "noise")))
    assert clean != noisy and "inputs.noise" in capsys.readouterr().out


def test_run_with_other_noise_of_the_same_lengths_is_another_run(data, tmp_path, capsys):
    options = ["--training.steps", "3", "--augment.noise_p", "1", "--noise", str(tmp_path / "noise")]
    found = []
    for seed in range(2):
        with BankWriter(tmp_path / "noise/noise", "int16") as bank:
            bank.add(np.random.default_rng(seed).integers(-9999, 9999, 16000).astype(np.int16))
        found.append(losses(train(data, tmp_path / "run", *options)))
    assert found[0] != found[1] and "inputs.noise" in capsys.readouterr().out


PAIRED = """
objective:
  name: ccr
  pairs: {crop_seconds: 0.3}
  regulariser: {mode: ccr, warmup_steps: 1, feature_space: {name: logmel, groups: 1}}
  validation: {measure: si_sdr, recordings: 2, every: 2}
network: {name: mask_gru, hidden: 4, layers: 1}
training: {steps: 3, batch_size: 2, checkpoint_every: 2, log_every: 1, workers: 0}
"""


@pytest.fixture
def pairs(tmp_path):
    made = {name: make_pairs(tmp_path / "data" / name, count=4, seconds=0.6) for name in ("train", "valid")}
    for folder in made.values():
        make_negative(tmp_path / "negative", folder, 0.5)
    (tmp_path / "data/config.yaml").write_text(PAIRED)
    return made["train"]


def with_negatives(pairs, folder):
    return ["--objective.negatives", f'["{folder}"]', "--objective.validation.pairs", str(pairs.with_name("valid"))]


def test_an_objective_opens_the_data_that_it_needs(pairs, tmp_path):
    train(pairs, tmp_path / "run", *with_negatives(pairs, tmp_path / "negative"))
    first = log(tmp_path / "run")[0]
    assert {"quality_1", "weight_1", "d_hard_1", "regulariser"} <= set(first)
    assert load_encoder(tmp_path / "run/checkpoints/final.pt").enhance(torch.randn(1, 5000)).shape == (1, 5000)


def test_files_of_a_config_count_by_what_they_hold_and_not_by_where_they_lie(pairs, tmp_path, capsys):
    train(pairs, tmp_path / "run", *with_negatives(pairs, tmp_path / "negative"))
    assert "negative" not in (tmp_path / "run/config.yaml").read_text().replace("negatives", "")
    (tmp_path / "negative").rename(tmp_path / "moved")
    train(pairs, tmp_path / "run", *with_negatives(pairs, tmp_path / "moved"))
    assert "nothing to train" in capsys.readouterr().out
    for name in ("train", "valid"):
        make_negative(tmp_path / "other", pairs.with_name(name), 0.1)
    train(pairs, tmp_path / "run", *with_negatives(pairs, tmp_path / "other"))
    assert "inputs.utterances" in capsys.readouterr().out


def test_negatives_make_no_other_run_of_an_arm_that_does_not_hear_them(pairs, tmp_path, capsys):
    arm = ["--objective.regulariser.mode", "cr"]
    train(pairs, tmp_path / "run", *arm)
    train(pairs, tmp_path / "run", *arm, *with_negatives(pairs, tmp_path / "negative")[:2])
    assert "nothing to train" in capsys.readouterr().out


def test_options_of_the_regulariser_make_no_other_run_without_one(pairs, tmp_path, capsys):
    none = ["--objective.regulariser.mode", "none"]
    final = train(pairs, tmp_path / "run", *none) / "checkpoints/final.pt"
    state = torch.load(final, weights_only=True)  # as earlier code left it
    state["identity"]["config"]["objective"] |= {"negatives": []}
    state["identity"]["config"]["objective"]["regulariser"] |= {"delay_steps": 500, "warmup_steps": 1}
    torch.save(state, final)
    train(pairs, tmp_path / "run", *none, "--objective.regulariser.delay_steps", "7")
    assert "nothing to train" in capsys.readouterr().out
    assert "delay_steps: 7" in (tmp_path / "run/config.yaml").read_text()
    train(pairs, tmp_path / "run", "--objective.regulariser.mode", "cr")
    assert "config.objective.regulariser.mode: none then, cr now" in capsys.readouterr().out


def test_what_makes_a_run_the_same_holds_no_more_for_an_objective_without_files(data, tmp_path):
    run = train(data, tmp_path / "run", "--training.steps", "3")
    identity = torch.load(run / "checkpoints/final.pt", weights_only=True)["identity"]
    assert set(identity["config"]) == {"seed", "augment", "training", "objective", "network"}
    assert set(identity["inputs"]) == {"utterances", "count", "noise", "labels", "start_from"}


def test_speakers_serve_as_labels_only_when_they_are_given(data, tmp_path):
    options = ["--objective.identity", "speaker", "--objective.bank", "fifo", "--training.steps", "2"]
    with pytest.raises(UserError, match="--labels"):
        train(data, tmp_path / "run", *options)
    train(data, tmp_path / "run", *options, "--labels", str(data / "speakers.tsv"))
    with pytest.raises(UserError, match="does not name the columns utterance and label"):
        train(data, tmp_path / "other", "--labels", str(data / "speakers.tsv"))
    (tmp_path / "labels.tsv").write_text("utterance\tlabel\nu00\t1\nu01\t2\n")
    with pytest.raises(UserError, match="leave --labels out"):
        train(data, tmp_path / "other", "--labels", str(tmp_path / "labels.tsv"))
