"""Enhance noisy recordings.

    python -m cslib enhance interview.mp3 recordings --checkpoint exp/mini_crn/ccr/checkpoints/final.pt --out enhanced

Give recordings, or folders with recordings at any depth: wav, flac, ogg, opus or mp3. Names and subfolders are kept
under --out. The output is 16-bit, 16 kHz and mono, as long as the input; wav and flac keep their format, others become
wav. Long recordings are enhanced in cross-faded windows, so that memory does not grow with their length. After an
interruption, the same command continues where it stopped.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cslib.config import UserError, positional
from cslib.corpora.audio_files import SOUNDFILE_SUFFIXES
from cslib.devices import device_named
from cslib.inference.enhancement import enhance_jobs, find_jobs


@dataclass(kw_only=True)
class Options:
    files: list[Path] = positional()  # recordings, or folders of recordings
    checkpoint: Path  # final.pt of an enhancement network
    out: Path  # folder for the enhanced recordings
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto uses a GPU if there is one


def main(options: Options) -> None:
    suffixes = sorted(SOUNDFILE_SUFFIXES)
    if options.out.suffix.lower() in suffixes:
        raise UserError(f"--out is {options.out}; it must be a folder, as files keep their names")
    jobs = [job for source in options.files for job in find_jobs(source, options.out, suffixes)]
    ((target, times),) = Counter(job.target for job in jobs).most_common(1)
    if times > 1:
        first, second, *_ = (job.source for job in jobs if job.target == target)
        if first.resolve() == second.resolve():
            raise UserError(f"{second}: named twice; name it once")
        raise UserError(
            f"{second}: would be written to {target}, as {first} would; enhance one of them with another --out"
        )
    enhance_jobs(options.checkpoint, jobs, options.out, device_named(options.device))
