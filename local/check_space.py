"""Check a feature space before training with it: does the distance to the clean speech grow with the noise?

    python local/check_space.py --pairs data/mini_pairs/valid --negatives '["exp/mini_crn/none/enhanced"]' \\
        --space.checkpoint exp/mini_crn/space/checkpoints/final.pt

Prints a line for each group of features. A group is of no use if the rank correlation of the distance with the SNR is
not clearly negative, or the negatives are not closer to the clean speech than the noisy speech is: exclude it by a 0 in
its place in objective.regulariser.group_weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cslib.config import require, run
from cslib.data.pairs import PairedUtterances
from cslib.feature_spaces.base import FeatureSpaceConfig, open_feature_space
from cslib.feature_spaces.check import check_feature_space, doubts, table
from cslib.files import warn


@dataclass
class Options:
    pairs: Path | None = None  # data/<corpus>/<set>, not the test set (default: only open the feature space)
    negatives: list[Path] = field(default_factory=list)  # folders with <set>/<id>.wav
    space: FeatureSpaceConfig = field(default_factory=FeatureSpaceConfig)  # the feature space
    recordings: int = 100  # number of recordings, evenly spaced over the set
    device: str = "cpu"  # cpu, cuda, cuda:1, ...


def main(options: Options) -> None:
    require(options.recordings >= 3, "--recordings", options.recordings, "at least 3, for a correlation")
    space = open_feature_space(options.space)
    if not options.pairs:
        print(f"feature space {options.space.name}: {space.groups} groups of features")
        return
    pairs = PairedUtterances.open(options.pairs, [folder / options.pairs.name for folder in options.negatives])
    rows = np.unique(np.linspace(0, len(pairs) - 1, options.recordings).round().astype(int))
    checks = check_feature_space(space, pairs, rows, options.device)
    print(table(checks))
    for doubt in doubts(checks):
        warn(doubt)


if __name__ == "__main__":
    run(main, Options)
