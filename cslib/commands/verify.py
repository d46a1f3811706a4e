"""Are two recordings of one speaker? A score, a threshold, and the answer in words.

    python -m cslib verify a.wav b.mp3 --checkpoint exp/mini_csc/checkpoints/final.pt

The score is the cosine of the two embeddings: 1 for the same recording, less for all else. The threshold comes from
<run>/calibration.json, which egs/voxceleb/run.sh makes without labels: from recordings of one cluster against those of
two. It holds for recordings like those of the training. In noise, or behind other talkers, it is far too strict: more
than half of the pairs of one speaker are called different there on the mini corpus. Then make a calibration from
recordings of your own, which `python local/calibrate.py --help` tells how to do, or compare the score with those of
pairs that you know. A network that was trained on the clusters is too sure of them, the final one most: take what
it says of likelihoods with a pinch of salt. Where nobody speaks, in noise or music, the answer means nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from cslib.checkpoints import load_speaker_encoder
from cslib.config import UserError, positional
from cslib.devices import device_named
from cslib.evaluation.calibration import FALSE_ALARMS, Calibration, calibration_path, read_calibration
from cslib.files import digest
from cslib.inference.recordings import RecordingConfig, embed_recording


@dataclass(kw_only=True)
class Options(RecordingConfig):
    one: Path = positional()  # a recording: anything that soundfile reads, of any rate and length
    other: Path = positional()  # the recording to compare it with
    checkpoint: Path  # final.pt of a speaker encoder
    calibration: Path | None = None  # calibration.json (default: that of the checkpoint's run)
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto takes a GPU when there is one


def main(options: Options) -> None:
    device = device_named(options.device)
    encoder = load_speaker_encoder(options.checkpoint, device)
    calibration, lacking = find_calibration(options)
    one, other = (embed_recording(encoder, file, options, device) for file in (options.one, options.other))
    for file, embedded in ((options.one, one), (options.other, other)):
        print(f"{file}: {embedded}")
    score = float(one.vector @ other.vector)
    print(
        judgement(score, calibration)
        if calibration
        else f"score {score:.2f}, between -1 and 1, higher is more alike; no threshold: {lacking}"
    )


def find_calibration(options: Options) -> tuple[Calibration | None, str]:
    """The one that is asked for or, if it can be used, that of the checkpoint's run; else why there is none.

    Raises UserError when the one that is asked for cannot be used.
    """
    path, mine = options.calibration or calibration_path(options.checkpoint), digest(options.checkpoint)
    if not options.calibration and not path.exists():
        return None, (
            f"this checkpoint has no {path.name}. Stage 7 of egs/voxceleb/run.sh makes it, or: python "
            f"local/calibrate.py --checkpoint {options.checkpoint} --embeddings train.scp --labels "
            "pseudo_labels.tsv"
        )
    try:
        return read_calibration(path, mine), ""
    except UserError as problem:
        if options.calibration:
            raise
        return None, str(problem)


def judgement(score: float, calibration: Calibration) -> str:
    """The answer, and what it rests on."""
    same, second = score >= calibration.threshold, calibration.threshold_at_1_percent
    reached = f"{second:.2f}, which {100 * FALSE_ALARMS:.0f} % of the pairs across reach"
    if same or score < second:
        reached = f"{'above' if score >= second else 'below'} {reached}"
    else:  # of a network that hardly errs on its own clusters; nearly all pairs within are above the threshold
        reached = f"above {reached}, but nearly no pair within is so low"
    return (
        f"{'same speaker' if same else 'different speakers'}: score {score:.2f}, threshold "
        f"{calibration.threshold:.2f}\n"
        f"{odds(calibration.ratio(score))} within a cluster of the calibration's recordings than across two; "
        f"{reached}. Found without labels: a guide, no proof"
    )


def odds(ratio: float) -> str:
    """A log-likelihood ratio in words."""
    factor = math.exp(min(abs(ratio), math.log(1000)))
    likelier = "more than 1,000 times" if factor > 999 else f"{factor:.{1 if factor < 10 else 0}f} times"
    return f"{likelier} {'likelier' if ratio >= 0 else 'less likely'}"
