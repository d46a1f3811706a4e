"""egs/voicebank/run.sh: what it says to what it is told, and from a few pairs of recordings to results.json."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from cslib.config import load_yaml
from cslib.evaluation.speech_quality import HEADLINE
from tests.evaluation.speech import noisy, pcm, talk
from tests.recipes.refusals import assert_refused

pytestmark = pytest.mark.slow  # starts processes that import torch

ROOT = Path(__file__).parents[2]
RUN = ROOT / "egs" / "voicebank" / "run.sh"
SEARCH = RUN.parent / "search_weights.sh"
CONF = RUN.parent / "conf"
ENVIRONMENT = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
STAGES = 7


def call(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", RUN, "--data", "data", "--exp", "exp", "--gpus", "0", *options],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )


def search(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", SEARCH, "--data", "data", *options], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--stage", "8"], "--stage 8 --stop-stage 7: the stages are 1 to 7"),
        (["--corpus", "timit"], "--corpus is mini, folder or voicebank, not 'timit'"),
        (["--corpus", "folder"], "--clean-dir is missing: --corpus folder requires it"),
        (["--corpus", "voicebank"], "--voicebank is missing"),
        (["--clean-dir", "."], "--clean-dir belongs to --corpus folder, and the corpus is mini"),
        (
            ["--backbone", "guess"],
            "conf/mini/guess.yaml; networks in egs/voicebank/conf/mini: crn mask_gru tf_conformer",
        ),
        (["--arms", " "], "--arms names at least one"),
        (["--nj", "0"], "--nj is at least 1"),
        (["--config", "none.yaml"], "there is no config none.yaml"),
        (["--corpus", "folder", "--clean-dir", ".", "--test-clean-dir", "."], " is given for two things"),
        (
            ["--arms", "none better"],
            "there is no 'better'; there are: ccr cr cr_matched fixed hard_only literal none pos",
        ),
        (["--negatives", "10 200"], "--negatives: '200' is no percentage from 1 to 100"),
        (["--mixing", "twice"], "--mixing is once or anew, not 'twice'"),
        (["--corpus", "voicebank", "--voicebank", ".", "--mixing", "anew"], "VoiceBank-DEMAND is mixed already"),
        (
            ["--corpus", "folder", "--clean-dir", ".", "--test-clean-dir", ".", "--noisy-dir", ".", "--mixing", "anew"],
            " is mixed already; give --noise-dir in its place",
        ),
        (["--negatives", ""], "--negatives: ccr and its controls need one or more"),
        (["--space", "none.pt"], "/none.pt"),
        (["--bundle", "WAVLM_BASE"], "--bundle WAVLM_BASE: give the file of its weights with --space"),
        (["--bundle", "WAVLM_BASE", "--space", "logmel"], "--space is logmel"),
        (["--bundle", "WAVLM", "--space", str(RUN)], "bundle of the feature space: 'WAVLM' is none of torchaudio's"),
        (["--space", str(RUN)], str(RUN)),
    ],
)
def test_mistake_ends_with_one_sentence_and_nothing_is_made(tmp_path: Path, options: list[str], sentence: str) -> None:
    done = call(tmp_path, *options)
    assert_refused(done, sentence, tmp_path)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ([], "--from is missing"),
        (["--from", ".", "--factors", "1 two"], "--factors takes numbers, not 'two'"),
        (["--from", ".", "--arms", " "], "--arms and --factors name at least one each"),
        (["--from", ".", "--bundle", "WAVLM_BASE"], "--bundle WAVLM_BASE: give the file of its weights with --space"),
        (["--from", "."], "/none/config.yaml: run 'bash egs/voicebank/run.sh --stop-stage 3' first"),
        (["--from", "../run", "--space", "logmel", "--negatives", ""], "--negatives names at least one"),
        (
            ["--from", "../run", "--space", "logmel", "--negatives", "ten"],
            "--negatives: 'ten' is no percentage from 1 ",
        ),
        (["--from", "../run", "--space", "logmel"], "/none_10/checkpoints/final.pt: run 'bash egs/voiceb"),
        (["--from", "../run", "--arms", "better"], "/space/checkpoints/final.pt; check the name, or run "),
        (["--from", "../run", "--space", str(RUN), "--arms", "better"], "better.yaml"),
    ],
)
def test_mistake_in_the_search_of_weights_is_one_sentence(tmp_path: Path, options: list[str], sentence: str) -> None:
    here = tmp_path / "here"
    for folder in (here, tmp_path / "run/none"):
        folder.mkdir(parents=True)
    (tmp_path / "run/none/config.yaml").write_text("network: {name: mask_gru}")
    assert_refused(search(here, *options), sentence, here)


def test_help_lists_every_stage_and_option(tmp_path: Path) -> None:
    done = call(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for number, stage in enumerate(["data", "space", "none", "arms", "enhance", "score", "results"], start=1):
        assert f"\n  {number} {stage} " in done.stdout
    for option in ("corpus", "backbone", "arms", "negatives", "space", "bundle", "clean-dir", "voicebank"):
        assert f"\n  --{option} " in done.stdout


def test_arms_differ_in_what_they_are_compared_for() -> None:
    found = {path.stem: load_yaml(path)["objective"]["regulariser"] for path in (CONF / "arms").iterdir()}
    assert {arm: (values["mode"], values.get("gamma")) for arm, values in found.items()} == {
        "none": ("none", None),
        "positive": ("positive", None),
        "cr": ("cr", None),
        "ccr": ("ccr", 0.25),
        "fixed": ("ccr", 0.0),
        "hard_only": ("hard_only", 0.25),
        "cr_matched": ("cr_matched", 0.25),
        "literal": ("literal", None),
    }


def test_every_config_is_one_that_training_takes() -> None:
    from cslib.config import parse
    from local.train import options_of_command

    configs = [path for path in CONF.glob("**/*.yaml") if path.parent.name != "arms" and path.name != "space.yaml"]
    assert {path.stem for path in configs} == {"crn", "mask_gru", "tf_conformer"}
    for config in configs:
        for arm in (CONF / "arms").iterdir():
            argv = ["--config", str(config), "--config", str(arm), "--data", "d", "--exp", "e"]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["train.py", *argv])
                options = parse(options_of_command())
            assert options.objective.regulariser.mode == load_yaml(arm)["objective"]["regulariser"]["mode"]
            assert options.network.name == config.stem
    for space in CONF.glob("**/space.yaml"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["train.py", "--config", str(space), "--data", "d", "--exp", "e"])
            assert parse(options_of_command()).network.name == "resnet"


def recordings(folder: Path) -> None:
    """folder/{learn,test}/{clean,noisy}/*.wav"""
    for part, count, seed in (("learn", 8, 0), ("test", 3, 50)):
        for n in range(count):
            clean = 0.2 * talk(seed + n, 1.0 + 0.03 * n)
            for side, samples in (("clean", clean), ("noisy", noisy(clean, 5.0, seed=seed + n))):
                (folder / part / side).mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / part / side / f"u{n}.wav", pcm(samples), 16000)


def run(folder: Path, *options: str) -> str:
    done = call(
        folder,
        "--corpus",
        "folder",
        "--clean-dir",
        "learn/clean",
        "--noisy-dir",
        "learn/noisy",
        "--test-clean-dir",
        "test/clean",
        "--test-noisy-dir",
        "test/noisy",
        "--backbone",
        "mask_gru",
        "--config",
        "conf/mask_gru.yaml",
        "--arms",
        "none ccr",
        "--negatives",
        "50 100",
        "--nj",
        "1",
        *options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.end_to_end
def test_recipe_from_pairs_to_results(tmp_path: Path) -> None:
    pytest.importorskip("pesq", reason="PESQ could not be compiled here")
    recordings(tmp_path)
    shutil.copytree(Path(__file__).parent / "conf", tmp_path / "conf")
    printed = run(tmp_path)
    exp = tmp_path / "exp"
    results = json.loads((exp / "results.json").read_text())
    assert [(row["system"], row["backbone"], row["seed"]) for row in results["rows"]] == [
        ("noisy", "mask_gru", 1),
        ("none", "mask_gru", 1),
        ("ccr", "mask_gru", 1),
    ]
    for row in results["rows"]:
        assert np.isfinite([row[name] for name in HEADLINE]).all() and row["files"] == 3
    assert results["space"].startswith("dino resnet, ") and results["negatives"] == [50, 100]
    assert "parameters" not in results["rows"][0] and results["rows"][1]["real_time_factor"] > 0
    assert results["rows"][1]["parameters"] == results["rows"][2]["parameters"], "nothing is added at inference"
    assert [one["system"] for one in results["over_none"]] == ["ccr"]
    assert set(results["negatives_beaten_at_step"]) == {"ccr"} and len(results["negatives_beaten_at_step"]["ccr"]) == 2
    assert set(results["seconds"]) == {str(stage) for stage in range(1, STAGES)}
    assert (exp / "spectrograms.png").stat().st_size > 0
    assert "ccr over none: PESQ" in printed and "rank correlation with SNR" in printed
    for made in ("none_50/enhanced/train", "none/enhanced/valid", "ccr/enhanced/test"):
        assert list((exp / made).glob("*.wav")), made
    assert not list(tmp_path.rglob("*.new")) and not list(tmp_path.rglob(".writing-*"))

    again = run(tmp_path)
    assert again.count(": done already; to run it again delete ") == STAGES and "python local/" not in again

    # Weights are searched for on the validation pairs, from the negatives of that run.
    weights = ["--from", "exp", "--arms", "ccr", "--factors", "0.5 2", "--jobs", "2"]
    lacking = search(tmp_path, *weights)
    assert (lacking.returncode, lacking.stdout) == (1, "")
    assert "/exp/none_10/checkpoints/final.pt: run" in lacking.stderr
    for made in ("train", "valid"):  # other recordings than those of the run
        shutil.copytree(tmp_path / "data/test", tmp_path / "other" / made)
    mistaken = search(tmp_path, *weights, "--negatives", "50 100", "--data", "other")
    assert mistaken.returncode == 1 and not (tmp_path / "exp_weights").exists()
    assert "lacks" in mistaken.stderr and "does not hold the pairs that " in mistaken.stderr, mistaken.stderr
    done = search(tmp_path, *weights, "--negatives", "50 100")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tmp_path / "exp_weights/table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| ccr_0.5", "| ccr_2"]
    saved = torch.load(tmp_path / "exp_weights/ccr_2/checkpoints/final.pt", weights_only=False)
    network = torch.load(exp / "ccr/checkpoints/final.pt", weights_only=False)["config"]["network"]
    assert saved["config"]["network"] == network and saved["step"] == results["rows"][1]["steps"]
    assert saved["config"]["objective"]["regulariser"]["weight"] == pytest.approx(
        2 * load_yaml(CONF / "arms/ccr.yaml")["objective"]["regulariser"]["weight"]
    )


@pytest.mark.end_to_end
def test_recipe_mixes_every_crop_anew_and_keeps_nothing_noisy_of_the_training(tmp_path: Path) -> None:
    pytest.importorskip("pesq", reason="PESQ could not be compiled here")
    recordings(tmp_path)
    for hertz in range(500, 2000, 500):
        (tmp_path / "noises").mkdir(exist_ok=True)
        tone = 0.2 * np.sin(hertz / 8000 * np.pi * np.arange(16_000))
        soundfile.write(tmp_path / f"noises/{hertz}.wav", tone, 16_000)
    shutil.copytree(Path(__file__).parent / "conf", tmp_path / "conf")
    config = ["--config", "conf/mask_gru.yaml", "--space", "logmel"]
    done = call(
        tmp_path,
        "--corpus",
        "folder",
        "--clean-dir",
        "learn/clean",
        "--test-clean-dir",
        "test/clean",
        "--noise-dir",
        "noises",
        "--mixing",
        "anew",
        "--backbone",
        "mask_gru",
        "--arms",
        "none ccr",
        "--negatives",
        "50 100",
        "--nj",
        "1",
        *config,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "exp/results.json").read_text())
    assert [row["system"] for row in results["rows"]] == ["noisy", "none", "ccr"] and results["mixing"] == "anew"
    assert not (tmp_path / "data/train/noisy").exists() and not (tmp_path / "exp/none/enhanced/train").exists()
    lines = [json.loads(line) for line in (tmp_path / "exp/ccr/log.jsonl").read_text().splitlines()]
    assert lines[0]["d_hard_1"] > 0 and len({line["quality_1"] for line in lines}) == 1
    done = search(
        tmp_path, "--from", "exp", "--space", "logmel", "--arms", "ccr", "--factors", "1", "--negatives", "50 100"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    command = next(line for line in (tmp_path / "exp_weights/ccr_1.log").read_text().splitlines() if "train.py" in line)
    assert "/none_50/checkpoints/final.pt" in command and " --noise " in command


def test_controls_of_ccr_have_its_weight() -> None:
    weights = {
        name: load_yaml(CONF / f"arms/{name}.yaml")["objective"]["regulariser"]["weight"]
        for name in ("ccr", "fixed", "hard_only", "cr_matched")
    }
    assert len(set(weights.values())) == 1, weights
