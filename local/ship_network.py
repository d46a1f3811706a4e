"""Make a trained network small and put it where `python -m cslib embed` and `verify` find it without --checkpoint.

    python local/ship_network.py --checkpoint exp/voxceleb_dino/best.pt --data data/voxceleb/train

Writes models/speaker.pt, the network without the rest of its run, and its calibration, models/speaker.calibration.json.
Weights are stored in half precision if that changes no cosine of recordings in --data by more than 0.001; computing is
in single precision. Fill in models/README.md, the model card, afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cslib.checkpoints import load_speaker_encoder
from cslib.config import UserError, require, run
from cslib.data.utterances import Utterances
from cslib.evaluation.calibration import calibration_path, read_calibration
from cslib.files import digest
from cslib.inference.extraction import DEFAULTS, audio_batches
from cslib.inference.shipped import FOLDER, NAME, copy_network, largest_change

LARGEST = 10e6  # bytes
TOLERATED = 1e-3  # change of a cosine by half precision


@dataclass
class Options:
    checkpoint: Path  # network to ship, with a calibration: best.pt of a run
    data: Path  # prepared set to compare half with single precision on, such as the training set
    out: Path = FOLDER / NAME  # file to write
    recordings: int = 200  # number of recordings of --data to compare on, evenly spaced


def main(options: Options) -> None:
    require(options.recordings >= 2, "--recordings", options.recordings, "at least 2")
    if options.out.resolve() == options.checkpoint.resolve():
        raise UserError(f"--out is {options.out}, which is the checkpoint; give another name")
    encoder, utterances = load_speaker_encoder(options.checkpoint), Utterances.open(options.data)
    read_calibration(calibration_path(options.checkpoint), digest(options.checkpoint))
    recordings = some_recordings(utterances, options.recordings)
    calibration = copy_network(options.checkpoint, options.out, halved=True)
    change, halved = largest_change(encoder, load_speaker_encoder(options.out), recordings), True
    print(
        f"half precision changes the cosines of {len(recordings):,} recordings by at most {change:.2g}; "
        f"{TOLERATED:g} is tolerated"
    )
    if not change <= TOLERATED:
        calibration, halved = copy_network(options.checkpoint, options.out), False
    size = options.out.stat().st_size
    if size > LARGEST:
        for path in filter(None, (options.out, calibration)):
            path.unlink()
        raise UserError(
            f"{options.out}: would have {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f} MB; ship a smaller network"
        )
    precision = "half" if halved else "single"
    print(f"{options.out}: {size / 1e6:.2f} MB in {precision} precision, digest {digest(options.out)}")
    print(f"{calibration}: its calibration")


def some_recordings(utterances: Utterances, count: int) -> list[torch.Tensor]:
    """Audio [1, T] of so many utterances, evenly spaced over the set."""
    rows = np.unique(np.linspace(0, len(utterances) - 1, count).round().astype(int))
    batches = audio_batches(utterances, rows, 60.0, DEFAULTS["max_seconds"], workers=0)
    return [audio[row : row + 1, :length] for _, audio, lengths in batches for row, length in enumerate(lengths)]


if __name__ == "__main__":
    run(main, Options)
