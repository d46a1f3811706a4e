"""egs/emotion/run.sh: what it says to what it is told, and from labelled recordings to results.json."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from cslib.data.embeddings import read_embeddings
from cslib.models import galr, resnet
from tests.recipes.refusals import assert_refused

pytestmark = pytest.mark.slow  # starts processes that import torch

ROOT = Path(__file__).parents[2]
RUN = ROOT / "egs" / "emotion" / "run.sh"
ENVIRONMENT = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
STAGES = 5
RESNET = {"num_mels": 20, "channels": [4, 4, 8, 8], "blocks": [1, 1, 1, 1], "stem_stride": 4, "embedding_size": 16}
GALR = {
    "window": 800,
    "filters": 16,
    "features": 8,
    "hidden": 8,
    "segment": 16,
    "heads": 2,
    "low_dim": 4,
    "shared_blocks": 1,
    "speech_blocks": 1,
    "speaker_blocks": 1,
    "embedding_size": 16,
}
FINETUNE = """objective: {name: margin, margin: 0.0, freeze_encoder: 0.4, crops: {seconds: 0.5}}
training: {steps: 3, batch_size: 4, checkpoint_every: 2, workers: 0}
"""


def call(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", RUN, "--data", "data", "--exp", "exp", "--gpus", "0", *options],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--stage", "6"], "--stage 6 --stop-stage 5: the stages are 1 to 5"),
        (["--corpus", "ravdess"], "--corpus is mini, iemocap, cremad, msp_podcast or folder, not 'ravdess'"),
        (["--corpus", "iemocap"], "--iemocap is missing: --corpus iemocap requires it"),
        (["--corpus", "msp_podcast"], "--msp-podcast is missing"),
        (["--corpus", "folder"], "--class-dir is missing"),
        (["--corpus", "folder", "--class-dir", ".", "--table", "a.tsv"], "--class-dir and --table: give one of them"),
        (["--corpus", "folder", "--table", "a.tsv"], "--table: there is no file "),
        (["--corpus", "cremad", "--cremad", "none"], "--cremad: there is no folder none"),
        (["--iemocap", "."], "--iemocap belongs to --corpus iemocap, and the corpus is mini"),
        (["--merge-excited", "no"], "--merge-excited belongs to --corpus iemocap"),
        (["--corpus", "iemocap", "--iemocap", ".", "--folds", "4"], "--folds 4: iemocap has published folds"),
        (["--folds", "1"], "--folds is 1; it must be at least 2"),
        (["--finetune", "maybe"], "--finetune is yes or no, not 'maybe'"),
        (["--dino", "none.pt"], "--dino: there is no file "),
        (["--csc", "none.pt"], "--csc: there is no file "),
    ],
)
def test_mistake_ends_with_one_sentence_and_nothing_is_made(tmp_path: Path, options: list[str], sentence: str) -> None:
    done = call(tmp_path, *options)
    assert_refused(done, sentence, tmp_path)


def test_without_any_encoder_it_is_told_which_command_makes_one(tmp_path: Path) -> None:
    """In a copy of the shell scripts, as a checkout may hold encoders."""
    names = ("parse_options.sh", "stage.sh", "recipe.sh")
    for name in ("egs/emotion/run.sh", "egs/emotion/steps.sh", *(f"utils/{name}" for name in names)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        ["bash", tmp_path / "egs/emotion/run.sh"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert (
        "'bash egs/voxceleb/run.sh --method dino --stop-stage 3' makes exp/mini_dino/checkpoints/final.pt"
        in done.stderr
    )
    assert not (tmp_path / "exp").exists() and not (tmp_path / "data").exists()


def test_mistake_in_a_config_is_found_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "some.pt").write_bytes(b"")
    (tmp_path / "wrong.yaml").write_text("objective: {name: margin}\ntraining: {stepz: 3}\n")
    for name, sentence in (("wrong.yaml", "stepz"), ("none.yaml", "none.yaml; in egs/emotion/conf/mini there are: ")):
        done = call(tmp_path, "--dino", "some.pt", "--config", name)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert sentence in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"some.pt", "wrong.yaml"}


def test_help_lists_every_stage_and_option(tmp_path: Path) -> None:
    done = call(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for number, stage in enumerate(["data", "extract", "finetune", "classify", "results"], start=1):
        assert f"\n  {number} {stage} " in done.stdout
    for option in (
        "corpus",
        "csc",
        "dino",
        "finetune",
        "config",
        "folds",
        "data",
        "exp",
        "seed",
        "iemocap",
        "cremad",
        "merge-excited",
        "msp-podcast",
        "class-dir",
        "table",
    ):
        assert f"\n  --{option} " in done.stdout


def test_every_config_is_one_that_training_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from cslib.config import parse
    from local.train import options_of_command

    configs = sorted(RUN.parent.glob("conf/**/*.yaml"))
    assert [path.parent.name for path in configs] == ["conf", "mini"]
    for config in configs:
        monkeypatch.setattr(
            sys, "argv", ["train.py", "--config", str(config), "--network.name", "resnet", "--data", "d", "--exp", "e"]
        )
        options = parse(options_of_command())
        assert options.objective.name == "margin" and options.objective.margin == 0
        assert 0 < options.objective.freeze_encoder < 1


def recordings(folder: Path) -> None:
    """folder/voices/<class>/<speaker>/*.wav: noise that is loud or soft, and encoders of no training."""
    rng = np.random.default_rng(0)
    for level, name in ((0.3, "loud"), (0.03, "soft")):
        for speaker in "abcd":
            for take in range(2):
                path = folder / "voices" / name / speaker / f"{take}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, level * rng.uniform(-1, 1, 12_000), 16_000)
    for name, network, module, sizes in (("dino", "resnet", resnet, RESNET), ("csc", "galr", galr, GALR)):
        torch.save(
            {
                "config": {"network": {"name": network, **sizes}},
                "step": 0,
                "encoder": module.build(module.Config(**sizes)).state_dict(),
            },
            folder / f"{name}.pt",
        )
    (folder / "finetune.yaml").write_text(FINETUNE)


def read(folder: Path, system: str) -> np.ndarray:
    return read_embeddings(folder / "exp" / system / "embeddings/all.scp")[1]


def run(folder: Path, *options: str) -> str:
    done = call(
        folder,
        "--corpus",
        "folder",
        "--class-dir",
        "voices",
        "--folds",
        "2",
        "--csc",
        "csc.pt",
        "--nj",
        "1",
        "--config",
        "finetune.yaml",
        *options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.end_to_end
def test_recipe_from_recordings_to_results(tmp_path: Path) -> None:
    recordings(tmp_path)
    printed = run(tmp_path, "--dino", "dino.pt")
    exp = tmp_path / "exp"
    results = json.loads((exp / "results.json").read_text())
    assert {key: results[key] for key in ("recipe", "corpus", "method", "seed")} == {
        "recipe": "emotion",
        "corpus": "folder",
        "method": "linear",
        "seed": 1,
    }
    assert [(row["system"], row["corpus"], row["folds"]) for row in results["rows"]] == [
        (system, "folder", 2) for system in ("floor", "csc", "dino", "finetuned")
    ]
    for row in results["rows"]:
        assert row["utterances"] == 16 and row["speakers"] == 4
        for measure in ("micro_f1", "macro_f1", "uar"):
            low, high = row[f"{measure}_ci95"]
            assert 0 <= low <= row[measure] <= high <= 100
    assert results["rows"][0]["micro_f1"] == 100  # the floor hears levels
    assert [gain["system"] for gain in results["over_floor"]] == ["csc", "dino", "finetuned"]
    assert set(results["seconds"]) == {str(stage) for stage in range(1, STAGES)}
    assert (exp / "confusion.png").stat().st_size > 0 and "micro-F1 %" in printed
    assert not list(tmp_path.rglob("*.new")) and not list(tmp_path.rglob(".writing-*"))

    # What a fold's encoder was fine-tuned on holds nobody of that fold.
    table = [line.split("\t") for line in (tmp_path / "data/all/emotions.tsv").read_text().splitlines()[1:]]
    for fold in ("fold1", "fold2"):
        lines = (exp / "finetuned" / fold / "labels.tsv").read_text().splitlines()[1:]
        assert [line.split("\t")[0] for line in lines] == [row[0] for row in table if row[3] != fold]
        assert (exp / "finetuned" / fold / "checkpoints/final.pt").exists()

    again = run(tmp_path, "--dino", "dino.pt")
    assert again.count(": done already; to run it again delete ") == STAGES and "python local/" not in again

    assert (
        json.loads((exp / "scores/finetuned.json").read_text())["strengths"]
        == json.loads((exp / "scores/dino.json").read_text())["strengths"]
    )

    # Another encoder, even one whose file is older than the embeddings of the first.
    first = {system: read(tmp_path, system) for system in ("csc", "dino")}
    torch.save(
        {
            "config": {"network": {"name": "resnet", **RESNET}},
            "step": 0,
            "encoder": resnet.build(resnet.Config(**RESNET)).state_dict(),
        },
        tmp_path / "dino.pt",
    )
    os.utime(tmp_path / "dino.pt", (1, 1))
    run(tmp_path, "--dino", "dino.pt", "--stop-stage", "2")
    assert np.array_equal(read(tmp_path, "csc"), first["csc"])
    assert not np.allclose(read(tmp_path, "dino"), first["dino"])

    # Without an encoder that can be fine-tuned it is left out, and so are its answers of before.
    without = run(tmp_path)
    assert "fine-tuning is left out: it starts from --dino" in without
    assert "--config has no effect" in without and "--config has no effect" not in again
    assert [row["system"] for row in json.loads((exp / "results.json").read_text())["rows"]] == ["floor", "csc"]
