"""Banks of noise and of room impulse responses (RIRs): many short recordings in one memory-mapped file.

A bank is a folder with `samples.npy` (all recordings, end to end) and `segments.npy` (int64 [n, 2]: start and length
of each, in samples). A crop is read by its offset, so its cost does not grow with the bank.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from cslib.config import UserError
from cslib.files import writing

if TYPE_CHECKING:
    from typing_extensions import Self

NOISE_KINDS = ("noise", "music", "babble")
RIRS = "rirs"
_OLD_RIRS = "rooms"  # an earlier name; to ignore it would silently drop the RIRs


class BankWriter:
    """Context manager that writes a bank recording by recording, in constant memory.

    folder  created when missing; both files are put there when the block ends without an error
    dtype   np.int16 for noise, np.float32 for RIRs
    Raises UserError when the block ends and nothing was added, or when the disk is full.
    """

    def __init__(self, folder: Path, dtype: np.dtype | type) -> None:
        self.folder = Path(folder)
        self.dtype = np.dtype(dtype)
        self._segments: list[tuple[int, int]] = []
        self._total = 0

    def __enter__(self) -> BankWriter:
        self._stack = ExitStack()
        temporary = self._stack.enter_context(writing(self.folder / "samples.npy"))
        self._file = self._stack.enter_context(temporary.open("wb"))
        self._write_header()
        self._header_size = self._file.tell()
        return self

    def add(self, samples: np.ndarray) -> None:
        """Append one recording, [frames >= 1]. Raises ValueError for another shape or dtype than the bank's."""
        if samples.dtype != self.dtype or samples.ndim != 1 or not len(samples):
            raise ValueError(f"expected {self.dtype} [frames >= 1], got {samples.dtype} {samples.shape}")
        self._file.write(samples.tobytes())
        self._segments.append((self._total, len(samples)))
        self._total += len(samples)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if kind is not None:
            return self._stack.__exit__(kind, error, traceback)
        with self._stack:
            self._finish_samples()
        with writing(self.folder / "segments.npy") as temporary:
            np.save(temporary, np.array(self._segments, dtype=np.int64))
        return None

    def _finish_samples(self) -> None:
        if not self._segments:
            raise UserError(f"{self.folder}: nothing to put into this bank; check the folder of recordings")
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self._header_size:  # numpy reserves room for a growing first axis
            raise RuntimeError("the header of samples.npy grew over its first samples")
        # An interrupted rewrite leaves a bank without segments, never new samples with old segments.
        (self.folder / "segments.npy").unlink(missing_ok=True)

    def _write_header(self) -> None:
        description = np.lib.format.dtype_to_descr(self.dtype)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": description, "fortran_order": False, "shape": (self._total,)}
        )


class Bank:
    """A bank opened for reading. It stays on disk; a crop reads only its own pages.

    A pickled bank is the name of its folder, so loader workers may be forked or spawned.
    """

    dtype: type

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.samples = self._load("samples.npy", memory_map=True)
        self.segments = self._load("segments.npy", memory_map=False)
        self._check()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a bank. Raises UserError when the folder is not a complete bank of this kind."""
        return cls(folder)

    def __len__(self) -> int:
        return len(self.segments)

    def __reduce__(self) -> tuple:
        return type(self), (self.folder,)

    def _load(self, name: str, memory_map: bool) -> np.ndarray:
        path = self.folder / name
        try:
            return np.load(path, mmap_mode="r" if memory_map else None)
        except FileNotFoundError:
            raise _damaged(path, "there is no such file") from None
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(path, f"cannot be read ({error})") from None

    def _check(self) -> None:
        samples, segments = self.samples, self.segments
        if samples.dtype != self.dtype or samples.ndim != 1:
            raise _damaged(
                self.folder, f"samples.npy is {samples.dtype} {samples.shape} instead of {np.dtype(self.dtype)} [total]"
            )
        if segments.dtype != np.int64 or segments.ndim != 2 or segments.shape[1] != 2 or not len(segments):
            raise _damaged(self.folder, "segments.npy is not a table of starts and lengths")
        start, length = segments.T
        if start.min() < 0 or length.min() < 1 or (start + length).max() > len(samples):
            raise _damaged(self.folder, "segments.npy points outside samples.npy")


def _damaged(where: Path, what: str) -> UserError:
    return UserError(f"{where}: {what}; prepare the noise folder again")


class NoiseBank(Bank):
    """Noise recordings, int16 at 16 kHz."""

    dtype = np.int16

    def crop(self, rng: np.random.Generator, frames: int) -> np.ndarray:
        """int16 [frames] from a random place in a random recording; shorter ones are concatenated."""
        crop = np.empty(frames, np.int16)
        filled = 0
        while filled < frames:
            start, length = self.segments[rng.integers(len(self))]
            taken = min(length, frames - filled)
            start += rng.integers(length - taken + 1)
            crop[filled : filled + taken] = self.samples[start : start + taken]
            filled += taken
        return crop


class RirBank(Bank):
    """Room impulse responses (RIRs), float32: main tap first and of magnitude 1, at 16 kHz."""

    dtype = np.float32

    def draw(self, rng: np.random.Generator, max_frames: int) -> np.ndarray:
        """A random RIR, float32 [<= max_frames]; the tail of a longer one is cut off."""
        start, length = self.segments[rng.integers(len(self))]
        return np.array(self.samples[start : start + min(length, max_frames)])


@dataclass
class Banks:
    """What speech is augmented with. Without any bank it stays clean.

    noise  by kind, in the order of NOISE_KINDS
    rirs   None when there are none
    """

    noise: dict[str, NoiseBank] = field(default_factory=dict)
    rirs: RirBank | None = None


def open_banks(noise_folder: Path | None) -> Banks:
    """Open the banks in data/<corpus>/noise. Kinds whose folder is absent are left out; None gives no bank at all.

    Raises UserError when the folder is missing, when it holds no bank, when a bank in it is damaged, or when its
    RIRs still lie in the folder `rooms`.
    """
    if noise_folder is None:
        return Banks()
    folder = Path(noise_folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such noise folder; prepare the noise, or train without it")
    if (folder / _OLD_RIRS).exists():
        raise UserError(
            f"{folder / _OLD_RIRS}: RIRs are read from the folder `{RIRS}` now; rename `{_OLD_RIRS}` to `{RIRS}`, "
            f"or remove {folder} and prepare the noise again"
        )
    noise = {kind: NoiseBank.open(folder / kind) for kind in NOISE_KINDS if (folder / kind).exists()}
    rirs = RirBank.open(folder / RIRS) if (folder / RIRS).exists() else None
    if not noise and rirs is None:
        raise _damaged(folder, f"holds none of {', '.join((*NOISE_KINDS, RIRS))}")
    return Banks(noise, rirs)
