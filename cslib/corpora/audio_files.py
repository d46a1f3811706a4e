"""Check one recording of any format, and convert it to 16 kHz mono when it cannot be used as it is.

Recordings are read and converted in blocks, so an hour of 48 kHz stereo takes no more memory than a minute. A truncated
wav, ogg or mp3 file is used up to where it ends; a truncated flac or m4a file counts as unreadable.
"""

from __future__ import annotations

import errno
import functools
import math
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from cslib.config import UserError
from cslib.data.manifests import SAMPLE_RATE
from cslib.files import writing

SOUNDFILE_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3"})
FFMPEG_SUFFIXES = frozenset({".m4a", ".aac", ".mp4"})
AUDIO_SUFFIXES = SOUNDFILE_SUFFIXES | FFMPEG_SUFFIXES
BLOCK = 30 * SAMPLE_RATE  # frames that are read at a time
UNKNOWN = 2**40  # frames; soundfile reports more for a streamed flac, whose header lacks the length
UNREADABLE = "unreadable"
LOUDEST = 32.0  # 30 dB above full scale; louder floats are int16 samples saved as floats


class Unreadable(Exception):
    """The file is damaged or is not audio; the message says how."""


@dataclass(frozen=True)
class Checks:
    """What a recording is checked for.

    decode        decode every sample; otherwise only headers are read, and silence is not detected
    min_seconds   shorter recordings are rejected
    silence_peak  recordings whose largest magnitude is below it are rejected as silent; full scale is 1
    """

    decode: bool = True
    min_seconds: float = 1.0
    silence_peak: float = 0.001


@dataclass(frozen=True)
class Finding:
    """The result for one recording.

    audio        the file to use: the recording itself, or its conversion
    num_samples  of that file
    reason       why the recording is rejected, empty when it is not; the part before a colon is the kind of reason
    change       why the recording was converted ("mp3", "stereo", "8000 Hz"), empty when it was not
    converted    whether this run converted it; False when an earlier one did
    """

    audio: str
    num_samples: int = 0
    reason: str = ""
    change: str = ""
    converted: bool = False


def examine(path: str, target: str, checks: Checks) -> Finding:
    """Check a recording, and convert it to `target` when it is not 16 kHz mono PCM in a wav or flac file.

    A conversion that is newer than its source is kept; that of a rejected recording is removed. Raises UserError when
    the conversion needs ffmpeg and there is none, or cannot be written.
    """
    change, converted = "", False
    try:
        if not os.path.getsize(path):
            return Finding(path, reason="empty")
        change = needed_change(path)
        if change and not _is_newer(target, path):
            convert(path, target)
            converted = True
        audio = target if change else path
        num_samples, peak = measure(audio, checks.decode)
    except Unreadable as error:
        return Finding(path, reason=f"{UNREADABLE}: {error}", change=change)
    reason = _complaint(num_samples, peak, checks)
    if reason and change:
        os.unlink(target)
    return Finding(audio, num_samples, reason, change, converted)


def needed_change(path: str) -> str:
    """Why a recording has to be converted: "mp3", "stereo", "8000 Hz", ...; empty when it can be used as it is.

    Raises Unreadable for what is not audio.
    """
    suffix = Path(path).suffix.lower()
    if suffix in FFMPEG_SUFFIXES:
        return suffix[1:]
    with _opened(path) as audio:
        if audio.format not in ("WAV", "WAVEX", "FLAC"):
            return audio.format.lower()
        if audio.channels != 1:
            return "stereo" if audio.channels == 2 else f"{audio.channels} channels"
        if audio.samplerate != SAMPLE_RATE:
            return f"{audio.samplerate} Hz"
        # Float samples would be read as zeros in int16, and the header of a streamed flac lacks the length.
        if not audio.subtype.startswith("PCM_"):
            return audio.subtype.lower()
        return "length not in the header" if audio.frames > UNKNOWN else ""


def measure(path: str, decode: bool = True) -> tuple[int, float]:
    """(number of samples, largest magnitude) of a mono file; full scale is 1. Without `decode`, the magnitude is 1.

    Raises Unreadable when the file cannot be decoded, or ends before its header says.
    """
    with _opened(path) as audio:
        expected = audio.frames
        if not decode:
            return expected, 1.0
        frames, peak = 0, 0.0
        for block in _mono_blocks(audio):
            frames, peak = frames + len(block), max(peak, float(np.abs(block).max()))
    if frames != expected:
        raise Unreadable(f"ends after {frames} of {expected} samples")
    return frames, peak


def convert(path: str, target: str) -> None:
    """Write a recording as 16-bit, 16 kHz audio, its channels averaged, in the format that the target's suffix names.

    .wav takes 115 MB an hour, .flac about half of it; a crop of 2 s is read from .wav in a third of the time.
    Raises Unreadable, or UserError as `writing`.
    """
    container = Path(target).suffix[1:]
    with writing(target) as temporary:
        if Path(path).suffix.lower() in FFMPEG_SUFFIXES:
            _convert_with_ffmpeg(path, temporary, container)
        else:
            _convert_with_soundfile(path, temporary, container)


@contextmanager
def reading(path: Path | str) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """Open what soundfile can read: (number of samples, iterator of float32 blocks), at 16 kHz, channels averaged.

    Raises Unreadable, also while the blocks are being read.
    """
    with _opened(path) as audio:
        frames = audio.frames
        if frames > UNKNOWN:
            with _opened(path) as whole:
                frames = sum(map(len, _mono_blocks(whole)))
        yield -(-frames * SAMPLE_RATE // audio.samplerate), resample(_mono_blocks(audio), audio.samplerate)


def resample(blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Resample float32 blocks from `rate` Hz to 16 kHz; the result equals polyphase resampling of the whole signal.

    Each block is filtered together with as many neighbouring samples as the filter reaches.
    """
    common = math.gcd(rate, SAMPLE_RATE)
    up, down = SAMPLE_RATE // common, rate // common
    # scipy's filter spans 10 * max(up, down) of the upsampled samples to either side.
    context = down * math.ceil((10 * max(up, down) / up + 1) / down)
    step = down * math.ceil(max(BLOCK, context) / down)
    pending, left = np.zeros(0, np.float32), 0
    for block in blocks:
        pending = np.concatenate([pending, block])
        while len(pending) >= left + step + context:
            stretch = resample_poly(pending[: left + step + context], up, down)
            yield stretch[left * up // down : (left + step) * up // down]
            pending, left = pending[left + step - context :], context
    if len(pending) > left:
        yield resample_poly(pending, up, down)[left * up // down :]


@functools.cache
def ffmpeg() -> str:
    """Path of ffmpeg: the one on the PATH, else that of the package imageio-ffmpeg. Raises UserError without either."""
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise UserError(
            "m4a files need ffmpeg, which was not found; install it, or run `pip install imageio-ffmpeg`"
        ) from None


def _convert_with_ffmpeg(path: str, target: Path, container: str) -> None:
    command = [
        ffmpeg(),
        "-nostdin",
        "-loglevel",
        "error",
        "-threads",
        "1",
        "-y",
        "-i",
        path,
        "-vn",
        "-ac",
        "1",
        "-ar",
        str(SAMPLE_RATE),
        "-sample_fmt",
        "s16",
        "-map_metadata",
        "-1",
        "-f",
        container,
        str(target),
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    message = done.stderr.decode("utf-8", "replace").strip()
    if "No space left on device" in message:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if done.returncode or not target.exists():
        raise Unreadable(message.splitlines()[0] if message else f"ffmpeg ended with status {done.returncode}")


def _convert_with_soundfile(path: str, target: Path, container: str) -> None:
    with (
        _opened(path) as audio,
        soundfile.SoundFile(target, "w", SAMPLE_RATE, 1, format=container.upper(), subtype="PCM_16") as out,
    ):
        for block in resample(_mono_blocks(audio), audio.samplerate):
            write_16_bit(out, block)


def write_16_bit(out: soundfile.SoundFile, block: np.ndarray) -> None:
    """Append floats in [-1, 1], clipping those outside. Raises OSError when the disk is full."""
    # Rounded here, since libsndfile scales by 32767 and would change samples that came from 16 bits.
    samples = np.clip(np.rint(block * 32768.0), -32768, 32767).astype(np.int16)
    try:
        out.write(samples)
    except soundfile.LibsndfileError as error:
        raise OSError(str(error)) from error


def _opened(path: Path | str) -> soundfile.SoundFile:
    if Path(path).suffix.lower() == ".raw":  # soundfile cannot know their rate and channels
        raise Unreadable("raw samples without a header")
    try:
        return soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        raise Unreadable(error.error_string) from None


def _mono_blocks(audio: soundfile.SoundFile) -> Iterator[np.ndarray]:
    while True:
        try:
            block = audio.read(BLOCK, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise Unreadable(error.error_string) from None
        if not len(block):
            return
        block = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
        if not np.isfinite(block).all():
            raise Unreadable("has samples that are not finite")
        peak = np.abs(block).max()
        if peak > LOUDEST:
            raise Unreadable(
                f"reaches {peak:,.0f} times full scale, as 16-bit samples saved as floats do; divide them by 32,768"
            )
        yield block


def _complaint(num_samples: int, peak: float, checks: Checks) -> str:
    if not num_samples:
        return "empty"
    if peak < checks.silence_peak:
        return "silent"
    return f"shorter than {checks.min_seconds:g} s" if num_samples < checks.min_seconds * SAMPLE_RATE else ""


def _is_newer(target: str, source: str) -> bool:
    return os.path.exists(target) and os.path.getmtime(target) >= os.path.getmtime(source)
