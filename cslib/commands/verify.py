"""Verify a speaker: do two recordings have the same speaker?

    python -m cslib verify enrol.wav test.mp3

The first line is the answer. The numbers behind it follow, then warnings, if any. Without --checkpoint, the network
that comes with the project is used, models/speaker.pt. The score is the cosine of the two embeddings, 1 for identical
recordings. The threshold is from the network's calibration, models/speaker.calibration.json or <run>/calibration.json,
which local/calibrate.py estimates without labels, from clusters of recordings.

The threshold holds for recordings like those of the calibration. In noise, or with other speakers in the background, it
is far too strict: on such trials of the mini corpus more than half of the same-speaker pairs are rejected. A warning
says when a recording has less speech, another bandwidth (telephone), more or less noise, or less similar halves than
nearly all recordings of the calibration. Other differences, such as another language, are not noticed. For your own
recordings make a calibration (see `python local/calibrate.py --help`), or compare the score with those of pairs that
you know. A network that was trained on clusters is overconfident about them, most of all the final one: likelihood
ratios and error rates are indicative only. For recordings without speech, such as music, the answer has no meaning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from cslib.checkpoints import load_speaker_encoder
from cslib.config import UserError, positional
from cslib.devices import device_named
from cslib.evaluation.calibration import FALSE_ALARMS, Calibration, calibration_path, read_calibration
from cslib.evaluation.signs import differences
from cslib.files import digest
from cslib.inference.recordings import EmbeddedRecording, RecordingConfig, embed_recording
from cslib.inference.shipped import named, network_or_shipped

CLOSE = math.log(10)  # likelihood ratios up to 10, in nats, are a close call


@dataclass(kw_only=True)
class Options(RecordingConfig):
    enrol: Path = positional()  # recording of the known speaker, in any format that soundfile reads
    test: Path = positional()  # recording to verify
    checkpoint: Path | None = None  # best.pt or final.pt of a speaker encoder (default: models/speaker.pt)
    calibration: Path | None = None  # calibration.json (default: that of the checkpoint)
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto uses a GPU if there is one


def main(options: Options) -> None:
    device, checkpoint = device_named(options.device), network_or_shipped(options.checkpoint)
    encoder = load_speaker_encoder(checkpoint, device)
    calibration, lacking = find_calibration(checkpoint, options.calibration)
    known = calibration.signs if calibration else None
    files = (options.enrol, options.test)
    embedded = [embed_recording(encoder, file, options, device, with_signs=known is not None) for file in files]
    score = float(embedded[0].vector @ embedded[1].vector)
    warnings = unlike(dict(zip(files, embedded, strict=True)), calibration)
    numbers = [(name, f"{file}: {one}") for name, file, one in zip(("enrol", "test"), files, embedded, strict=True)]
    if calibration:
        print(answer(score, calibration, bool(warnings)))
        numbers = [*evidence(score, calibration), *numbers]
    else:
        print(f"No answer, only a score: {score:.2f}, from -1 to 1, higher is more similar; no threshold: {lacking}")
    numbers.append(("network", named(options.checkpoint)))
    if calibration and known is None:
        numbers.append(("not checked", NOT_CHECKED))
    width = max(len(name) for name, _ in numbers)
    for name, text in numbers:
        print(f"  {name:<{width}}  {text}")
    for warning in warnings:
        print(f"warning: {warning}")


NOT_CHECKED = (
    "whether the threshold fits these recordings, as the calibration does not say what its own are like; make it again "
    "with local/calibrate.py --data"
)


def find_calibration(checkpoint: Path, chosen: Path | None) -> tuple[Calibration | None, str]:
    """The calibration `chosen` or, if it is usable, that of the checkpoint; else None and the reason.

    Raises UserError when the chosen one is not usable.
    """
    path, mine = chosen or calibration_path(checkpoint), digest(checkpoint)
    if not chosen and not path.exists():
        return None, (
            f"this checkpoint has no {path.name}; make it with: python local/calibrate.py --checkpoint "
            f"{checkpoint} --embeddings train.scp --labels pseudo_labels.tsv --data data/<corpus>/train"
        )
    try:
        return read_calibration(path, mine), ""
    except UserError as problem:
        if chosen:
            raise
        return None, str(problem)


def unlike(recordings: dict[Path, EmbeddedRecording], calibration: Calibration | None) -> list[str]:
    """A sentence for each way in which a recording is unlike those of the calibration, if that says how they are."""
    if not calibration or not calibration.signs:
        return []
    return [
        f"{file}: {difference}"
        for file, one in recordings.items()
        if one.signs
        for difference in differences(one.signs, calibration.signs)
    ]


def answer(score: float, calibration: Calibration, doubtful: bool) -> str:
    """One sentence for a user.

    doubtful  the recordings are unlike those of the calibration
    """
    same = score >= calibration.threshold
    how_sure = "probably"
    if doubtful:
        how_sure = "but do not rely on it: the threshold may not fit these recordings, see the warnings"
    elif abs(calibration.ratio(score)) < CLOSE:
        how_sure = "but it is a close call"
    return (
        f"{'Same speaker' if same else 'Different speakers'}, {how_sure}. Score {score:.2f}, "
        f"{'above' if same else 'below'} the threshold {calibration.threshold:.2f}."
    )


def evidence(score: float, calibration: Calibration) -> list[tuple[str, str]]:
    """The numbers behind an answer, each with its name. All are estimated without labels."""
    ratio = calibration.ratio(score)
    times = likelihood_ratio(abs(ratio)).replace("above", "more than")
    one, other = ("one speaker", "two") if ratio >= 0 else ("two speakers", "one")
    lines = [
        (
            "likelihood ratio",
            f"{likelihood_ratio(ratio)}: such a score is {times} times as frequent for {one} as for {other}",
        ),
        (
            "error rates",
            f"{percent(calibration.missed)} of same-speaker pairs score below the threshold, "
            f"{percent(calibration.false_alarms)} of different-speaker pairs above; true rates are higher",
        ),
    ]
    if calibration.has_strict:
        strict = f"{calibration.threshold_at_1_percent:.2f}"
        lines.append(("stricter bound", f"{percent(FALSE_ALARMS)} of different-speaker pairs score above {strict}"))
    return lines


def percent(part: float) -> str:
    """A part as a percentage with two digits."""
    return f"{100 * part:.2g} %"


def likelihood_ratio(logarithm: float) -> str:
    """The likelihood ratio as text, rounded and limited to 0.001 to 1,000, from its logarithm in nats."""
    if abs(logarithm) > math.log(1000):
        return "above 1,000" if logarithm > 0 else "below 0.001"
    ratio = math.exp(logarithm)
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
