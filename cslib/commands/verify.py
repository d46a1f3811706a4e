"""Verify a speaker: do two recordings have the same speaker?

    python -m cslib verify enrol.wav test.mp3 --checkpoint exp/mini_csc/checkpoints/final.pt

The score is the cosine of the two embeddings, 1 for identical recordings. The threshold comes from
<run>/calibration.json, which local/calibrate.py estimates without labels, from clusters of the training recordings.

The threshold holds for recordings like those of the training. In noise, or with other speakers in the background, it is
far too strict: on such trials of the mini corpus more than half of the same-speaker pairs are rejected. For such
recordings make a calibration of your own (see `python local/calibrate.py --help`), or compare the score with those of
pairs that you know. A network that was trained on clusters is overconfident about them, most of all the final one:
likelihood ratios are indicative only. For recordings without speech, such as noise or music, the answer has no meaning.
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
    enrol: Path = positional()  # recording of the known speaker, in any format that soundfile reads
    test: Path = positional()  # recording to verify
    checkpoint: Path  # final.pt of a speaker encoder
    calibration: Path | None = None  # calibration.json (default: that of the checkpoint's run)
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto uses a GPU if there is one


def main(options: Options) -> None:
    device = device_named(options.device)
    encoder = load_speaker_encoder(options.checkpoint, device)
    calibration, lacking = find_calibration(options)
    enrol, test = (embed_recording(encoder, file, options, device) for file in (options.enrol, options.test))
    for file, embedded in ((options.enrol, enrol), (options.test, test)):
        print(f"{file}: {embedded}")
    score = float(enrol.vector @ test.vector)
    if calibration:
        print(verdict(score, calibration))
    else:
        print(f"score {score:.2f}, from -1 to 1, higher is more similar; no threshold: {lacking}")


def find_calibration(options: Options) -> tuple[Calibration | None, str]:
    """The calibration of --calibration or, if it is usable, that of the checkpoint's run; else None and the reason.

    Raises UserError when that of --calibration is not usable.
    """
    path, mine = options.calibration or calibration_path(options.checkpoint), digest(options.checkpoint)
    if not options.calibration and not path.exists():
        return None, (
            f"this checkpoint has no {path.name}; make it with: python local/calibrate.py --checkpoint "
            f"{options.checkpoint} --embeddings train.scp --labels pseudo_labels.tsv"
        )
    try:
        return read_calibration(path, mine), ""
    except UserError as problem:
        if options.calibration:
            raise
        return None, str(problem)


def verdict(score: float, calibration: Calibration) -> str:
    """The decision, and how strong the evidence is."""
    threshold, strict = calibration.threshold, calibration.threshold_at_1_percent
    percent = f"{100 * FALSE_ALARMS:.0f} % of different-speaker pairs"
    if score >= strict and score >= threshold:
        evidence = f"Only {percent} score above {strict:.2f}."
    elif score >= threshold:
        evidence = f"More than {percent} score this high: 1 % score above {strict:.2f}."
    elif score >= strict:  # a network that separates its own clusters almost perfectly has strict < threshold
        evidence = (
            f"Only {percent} score above {strict:.2f}, but nearly all same-speaker pairs score above {threshold:.2f}."
        )
    else:
        evidence = f"{percent} score above {strict:.2f}."
    return (
        f"{'same speaker' if score >= threshold else 'different speakers'}: score {score:.2f}, threshold "
        f"{threshold:.2f}\n"
        f"Likelihood ratio {likelihood_ratio(calibration.ratio(score))}. {evidence} "
        "Estimated without labels: indicative only."
    )


def likelihood_ratio(logarithm: float) -> str:
    """The likelihood ratio as text, rounded and limited to 0.001 to 1,000, from its logarithm in nats."""
    if abs(logarithm) > math.log(1000):
        return "above 1,000" if logarithm > 0 else "below 0.001"
    ratio = math.exp(logarithm)
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
