"""Say how long trainings will take on this machine, from a few steps of each.

    python local/estimate_time.py --data data/folder/train --noise data/folder/noise \\
        --trainings csc=csc.yaml --labelled round1=round.yaml,final=final.yaml

Every training runs for six steps in a temporary folder; the first three, which also warm up, do not count. Nothing is
kept. Labels are made up, since those of the rounds do not exist yet.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from cslib.config import UserError, parse, run
from cslib.data.labels import write_labels
from cslib.data.utterances import Utterances
from cslib.training import distributed
from cslib.training.build import build
from cslib.training.loop import Trainer
from cslib.training.options import options_of_command
from cslib.training.run_folder import RunFolder

STEPS, WARM_UP = 6, 3
PER_LABEL = 20  # utterances of a made-up label


@dataclass
class Options:
    data: Path  # data/<set> to train on
    noise: Path | None = None  # data/<corpus>/noise
    trainings: str = ""  # NAME=CONFIG,NAME=CONFIG: trainings without labels
    labelled: str = ""  # NAME=CONFIG,NAME=CONFIG: trainings on pseudo-labels
    device: str = "auto"  # auto | cpu | cuda


def main(options: Options) -> None:
    total = 0.0
    with TemporaryDirectory() as folder:
        labels = make_up_labels(options.data, Path(folder) / "labels.tsv")
        for configs, more in ((options.trainings, []), (options.labelled, ["--labels", str(labels)])):
            for name, config in named_files(configs):
                words = ["--config", config, "--data", str(options.data), "--device", options.device, *more]
                words += ["--noise", str(options.noise)] if options.noise else []
                steps, seconds = measure(words, Path(folder) / name)
                total += steps * seconds
                print(f"training {name}: {steps:,} steps of {seconds:.2f} s, {duration(steps * seconds)}")
    print(f"all trainings together: {duration(total)} on this machine as busy as it is now")


def named_files(text: str) -> list[tuple[str, str]]:
    """(name, file) of each NAME=FILE in a list separated by commas. Raises UserError for anything else."""
    pairs = [word.split("=", 1) for word in text.split(",") if word]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError(f"{text}: give NAME=CONFIG, and commas between several")
    return [(name, file) for name, file in pairs]


def make_up_labels(data: Path, path: Path) -> Path:
    """A table of labels for the utterances of a set; they mean nothing."""
    ids = Utterances.open(data).ids()
    count = max(2, len(ids) // PER_LABEL)
    write_labels(path, ids, [number % count for number in range(len(ids))])
    return path


def measure(words: list[str], folder: Path) -> tuple[int, float]:
    """Steps of a training, and seconds per step measured here; words: its options without --exp."""
    words = [*words, "--exp", str(folder)]
    options: Any = parse(options_of_command(words), words)
    steps, training = options.training.steps, options.training
    training.steps, training.log_every, training.checkpoint_every, training.keep_every = STEPS, 1, STEPS, 0
    processes = distributed.start(options.device)
    objective, identity = build(options)
    Trainer(objective, training, RunFolder(folder, identity, processes), processes, options.seed).run()
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return steps, median(line["data_seconds"] + line["compute_seconds"] for line in lines[WARM_UP:])


def duration(seconds: float) -> str:
    """ "about 2 h 5 min", "about 12 min", "less than a minute"."""
    if seconds < 60:
        return "less than a minute"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"about {hours} h {minutes} min" if hours else f"about {minutes} min"


if __name__ == "__main__":
    run(main, Options)
