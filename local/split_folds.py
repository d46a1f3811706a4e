r"""Make what a network is fine-tuned with, for each fold that is held out: the classes of the other speakers.

    python local/split_folds.py --table data/mini_emotion/all/emotions.tsv \
        --checkpoint exp/mini_dino/checkpoints/final.pt --out exp/mini_emotion/finetuned

Writes <out>/<fold>/labels.tsv, in which no utterance of the held-out fold stands, nor of a development part; and
<out>/network.yaml, the network of the checkpoint, as a training that starts from it has to have the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from cslib import checkpoints
from cslib.config import UserError, run
from cslib.data.classes import ClassTable
from cslib.data.labels import write_labels
from cslib.files import write_lines
from cslib.models.base import FineTunable


@dataclass
class Options:
    table: Path  # emotions.tsv of the set
    checkpoint: Path  # final.pt of the network that is to be fine-tuned
    out: Path  # gets network.yaml, and a folder for each fold


def main(options: Options) -> None:
    table = ClassTable.read(options.table)
    network = network_of(options.checkpoint)
    write_lines(options.out / "network.yaml", [yaml.safe_dump({"network": network}, sort_keys=False).rstrip()])
    for split in table.splits():
        path = options.out / split.fold / "labels.tsv"
        write_labels(
            path,
            table.utterances[split.train].tolist(),
            np.searchsorted(table.classes(), table.labels[split.train]).tolist(),
        )
        print(
            f"{path}: {len(split.train):,} utterances of {len(set(table.speakers[split.train])):,} speakers, "
            f"{len(split.test):,} of {len(set(table.speakers[split.test])):,} others are held out"
        )


def network_of(path: Path) -> dict:
    """The section `network` of a final.pt. Raises UserError where that network cannot be trained layer by layer."""
    if not isinstance(checkpoints.load_encoder(path), FineTunable):
        raise UserError(
            f"{path}: this network names no embedding layers, and fine-tuning begins with those; start "
            "from a resnet or an ecapa (egs/voxceleb/run.sh --method dino), or leave fine-tuning out"
        )
    return checkpoints.load(path)["config"]["network"]


if __name__ == "__main__":
    run(main, Options)
