r"""Prepare fine-tuning for each held-out fold: the class labels of all other speakers.

    python local/split_folds.py --table data/mini_emotion/all/emotions.tsv \
        --checkpoint exp/mini_dino/checkpoints/final.pt --out exp/mini_emotion/finetuned

Writes <out>/<fold>/labels.tsv, without the utterances of the held-out fold and of a development part, and
<out>/network.yaml, the `network:` section of the checkpoint, which a training that starts from it must share.
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
    checkpoint: Path  # final.pt of the network to fine-tune
    out: Path  # folder for network.yaml, with a folder per fold


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
            f"{path}: {len(split.train):,} utterances of {len(set(table.speakers[split.train])):,} speakers; "
            f"held out: {len(split.test):,} utterances of {len(set(table.speakers[split.test])):,} other speakers"
        )


def network_of(path: Path) -> dict:
    """The section `network` of a final.pt. Raises UserError unless its embedding layers can be trained first."""
    if not isinstance(checkpoints.load_encoder(path), FineTunable):
        raise UserError(
            f"{path}: this network names no embedding layers, with which fine-tuning begins; start from a resnet or an "
            "ecapa (egs/voxceleb/run.sh --method dino), or skip fine-tuning"
        )
    return checkpoints.load(path)["config"]["network"]


if __name__ == "__main__":
    run(main, Options)
