"""Make the noise folders of a corpus: data/<corpus>/noise to train with, noise_test for the adverse test set.

    python local/prepare_noise.py --out data/mini --synthetic
    python local/prepare_noise.py --out data/folder --noise-dir noises --rir-dir rirs --synthetic
    python local/prepare_noise.py --out data/voxceleb --musan musan --rirs RIRS_NOISES --babble 1000

Each holds banks of noise, music, babble and room impulse responses (RIRs). No recording is in both folders, so that
a system is tested on noises and rooms that it never heard. Files may have any sampling rate and any number of
channels. Babble is mixed from 3 to 10 people of the training set, or of MUSAN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import soundfile

from cslib.config import UserError, run
from cslib.corpora.audio_files import SOUNDFILE_SUFFIXES, resample
from cslib.corpora.synthesis.noises import draw_music, draw_noise, mix_babble
from cslib.corpora.synthesis.rirs import MAX_SECONDS, align_rir, draw_rir
from cslib.data.banks import RIRS, BankWriter, open_banks
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.utterances import Utterances
from cslib.files import progress, read_json, write_json

FOLDERS = ("noise", "noise_test")
SEGMENT_SECONDS = 30.0  # longer recordings are stored in pieces of this length
BABBLE_SECONDS = 10.0
TALKERS = (3, 10)  # in one babble
FEW = 3  # with fewer files than this, training and test share them
FEW_RIRS = 20  # with fewer RIRs than this, adverse recordings would share them: synthetic ones are added
NO_SOURCE = "nothing to make noise from; give --synthetic, --noise-dir, --rir-dir, --musan or --rirs"


@dataclass
class Options:
    out: Path  # data/<corpus>: gets noise/ and noise_test/; its train/ is what babble is mixed from
    seed: int = 0  # of the split into training and test, of babble and of everything synthetic
    synthetic: bool = False  # make up whatever kind no folder is given for, and RIRs where there are few
    noise_dir: Path | None = None  # folder with any audio files; one third goes to the test
    rir_dir: Path | None = None  # folder with any RIRs; one third goes to the test
    musan: Path | None = None  # OpenSLR 17, with noise/ music/ speech/; one tenth goes to the test
    rirs: Path | None = None  # OpenSLR 28: small, medium and real rooms; one tenth of them goes to the test
    babble: int = 30  # training babbles of 10 s; about 1000 for a large corpus
    synthetic_noises: int = 40  # of 10 s, and half as many for the test; so are the two below
    synthetic_music: int = 20  # of 10 s
    synthetic_rooms: int = 60  # reverberation times from 0.1 to 0.7 s


@dataclass(frozen=True)
class Source:
    """What goes into one bank: recordings, read or made while iterating, and of how many files they are."""

    recordings: Iterable[np.ndarray]
    files: int


def main(options: Options) -> None:
    settings = {name: str(value) for name, value in asdict(options).items() if name != "out"}
    markers = [options.out / folder / "noise.json" for folder in FOLDERS]
    if any(marker.exists() and read_json(marker) != settings for marker in markers):
        raise UserError(f"{options.out}: noise was made with other options; remove its noise and noise_test")
    if all(marker.exists() for marker in markers):
        for marker in markers:
            open_banks(marker.parent)  # refuses a folder of an earlier version, or a damaged one
        print(f"{options.out}: noise and noise_test were made before, nothing to do")
        return
    for folder, sources in zip(FOLDERS, collect(options), strict=True):
        for kind, source in sources.items():
            _write_bank(options.out / folder / kind, source)
        write_json(options.out / folder / "noise.json", settings)


def collect(options: Options) -> tuple[dict[str, Source], dict[str, Source]]:
    """What goes into the training folder and into the test folder, by kind.

    Raises UserError when that is nothing.
    """
    train, test = {}, {}
    for kind, files, share, group in _recorded(options):
        read = read_rirs if kind == RIRS else read_pieces
        for part, chosen in zip((train, test), split(files, share, options.seed, kind, group), strict=True):
            part[kind] = Source(read(chosen), len(chosen))
    if options.synthetic:
        for number, part in enumerate((train, test)):
            for kind, made in _synthetic(options, number).items():
                few = kind == RIRS and kind in part and part[kind].files < FEW_RIRS
                part[kind] = _joined(part[kind], made) if few else part.get(kind, made)
    if not train:
        raise UserError(NO_SOURCE)
    train.update(_babble(options, 0))
    test.update(_babble(options, 1) if options.musan else {})
    return train, test


def _recorded(options: Options) -> Iterator[tuple[str, list[Path], float, Callable[[Path], str]]]:
    """(kind, files, share for the test, what belongs together) for every kind that some folder holds."""
    if options.noise_dir and options.musan:
        raise UserError("noise_dir: give either --noise-dir or --musan")
    if options.rir_dir and options.rirs:
        raise UserError("rir_dir: give either --rir-dir or --rirs")
    if options.noise_dir:
        yield "noise", find_audio(options.noise_dir), 1 / 3, str
    if options.rir_dir:
        yield RIRS, find_audio(options.rir_dir), 1 / 3, str
    if options.musan:
        for kind in ("noise", "music"):
            yield kind, find_audio(options.musan / kind), 1 / 10, str
    if options.rirs:
        yield RIRS, find_rirs(options.rirs), 1 / 10, room_of


def find_audio(folder: Path) -> list[Path]:
    """All audio files below `folder`, sorted. Raises UserError when there is none."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SOUNDFILE_SUFFIXES)
    files = sorted(path for path in found if not path.name.startswith("."))
    if not files:
        kinds = ", ".join(sorted(SOUNDFILE_SUFFIXES))
        raise UserError(f"{folder}: there is no audio file ({kinds}) in it; check the path")
    return files


def find_rirs(folder: Path) -> list[Path]:
    """The RIRs of OpenSLR 28: simulated small and medium rooms, and the real ones.

    The folder of the real ones also holds noises, told by their names; those are left out. What is left are a few
    hundred beside tens of thousands: each comes several times, so that a draw is as likely a real room as a small one.
    """
    small, medium = (find_audio(folder / "simulated_rirs" / size) for size in ("smallroom", "mediumroom"))
    real = [path for path in find_audio(folder / "real_rirs_isotropic_noises") if "noise" not in path.stem]
    return [*small, *medium, *real * max(1, round(len(small) / max(1, len(real))))]


def split(
    files: Sequence[Path], share: float, seed: int, kind: str, group: Callable[[Path], str] = str
) -> tuple[list[Path], list[Path]]:
    """Files for training and for the test. Files of one group stay together, by default each is its own.

    share   of the groups that goes to the test, at least one group
    kind    what to call them in the printed line when there are too few to share out; both get all then
    """
    groups = sorted({group(path) for path in files})
    if len(groups) < FEW:
        print(f"{kind}: {len(groups)} recordings are too few to hold some out; training and test share them")
        return list(files), list(files)
    order = np.random.default_rng([seed, len(groups)]).permutation(len(groups))
    held_out = {groups[i] for i in order[: max(1, round(share * len(groups)))]}
    train = [path for path in files if group(path) not in held_out]
    return train, [path for path in files if group(path) in held_out]


def room_of(path: Path) -> str:
    """The room of a file of OpenSLR 28: its folder (Room001), or its name without final digits."""
    simulated = path.parent.name.startswith("Room")
    return str(path.parent) if simulated else str(path.with_name(path.stem.rstrip("_0123456789")))


def read_pieces(files: Iterable[Path]) -> Iterator[np.ndarray]:
    """int16 [<= 30 s] pieces of recordings at 16 kHz, channels averaged, read in blocks.

    Digital silence is left out, and so is a file that cannot be read, with a printed line.
    """
    for path in files:
        try:
            for piece in _pieces(_at_16k(path), round(SEGMENT_SECONDS * SAMPLE_RATE)):
                if piece.any():
                    yield to_pcm(piece)
        except soundfile.LibsndfileError as error:
            print(f"{path}: left out, not readable ({error.error_string})")


def read_rirs(files: Iterable[Path]) -> Iterator[np.ndarray]:
    """float32 [<= 16000] RIRs at 16 kHz from the first channel, aligned by their main tap.

    A file that cannot be read, or is silent, is left out with a printed line.
    """
    longest = round(10 * MAX_SECONDS * SAMPLE_RATE)  # the main tap has come by then
    for path in files:
        try:
            start = next(_at_16k(path, first_channel=True), np.zeros(0))
            yield align_rir(start[:longest])
        except (soundfile.LibsndfileError, ValueError) as error:
            print(f"{path}: left out, not an RIR ({error})")


def to_pcm(audio: np.ndarray) -> np.ndarray:
    """float [-1, 1] to int16."""
    return np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)


def _at_16k(path: Path, first_channel: bool = False) -> Iterator[np.ndarray]:
    """float32 blocks of half a minute at 16 kHz."""
    with soundfile.SoundFile(path) as audio:
        blocks = audio.blocks(1 << 16, dtype="float32", always_2d=True)
        mono = (block[:, 0] if first_channel else block.mean(axis=1) for block in blocks)
        yield from resample(mono, audio.samplerate)


def _pieces(blocks: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Blocks of any size as pieces of `length`; what is left is dropped if it is under a second."""
    pending, count = np.zeros(0, np.float32), 0
    for block in blocks:
        pending = np.concatenate([pending, block])
        while len(pending) >= length:
            yield pending[:length]
            pending, count = pending[length:], count + 1
    if len(pending) >= (SAMPLE_RATE if count else 1):
        yield pending


def _joined(rirs: Source, made: Source) -> Source:
    print(f"RIRs: {rirs.files} are few, {made.files} synthetic ones are added so that recordings differ in theirs")
    return Source(chain(rirs.recordings, made.recordings), rirs.files + made.files)


def _synthetic(options: Options, part: int) -> dict[str, Source]:
    """Made-up noise, music and RIRs; half as many for the test (part 1), from other random numbers."""

    def made(kind: int, count: int, draw: Callable[[np.random.Generator], np.ndarray]) -> Source:
        count = max(1, count // (1 + part))
        seeds = ([options.seed, part, kind, i] for i in range(count))
        return Source((draw(np.random.default_rng(seed)) for seed in seeds), count)

    frames = 10 * SAMPLE_RATE
    return {
        "noise": made(0, options.synthetic_noises, lambda rng: draw_noise(rng, frames)),
        "music": made(1, options.synthetic_music, lambda rng: draw_music(rng, frames)),
        RIRS: made(2, options.synthetic_rooms, lambda rng: draw_rir(rng, rt60=rng.uniform(0.1, 0.7))),
    }


def _babble(options: Options, part: int) -> dict[str, Source]:
    """Babble of people of the training set, or of MUSAN's speech (for the test, of the files held out)."""
    if options.musan:
        files = split(find_audio(options.musan / "speech"), 1 / 10, options.seed, "speech")[part]
        talkers = len(files)
        read = partial(_speech_from_files, files)
    elif (options.out / "train" / "cuts.jsonl.gz").exists():
        utterances = Utterances.open(options.out / "train")
        talkers = len(utterances)
        read = partial(_speech_from_set, utterances)
    else:
        print(f"no babble among the noises: it is mixed from people of {options.out / 'train'}, which is not prepared")
        return {}
    seeds = ([options.seed, part, 3, i] for i in range(max(1, options.babble // (1 + part))))
    return {"babble": Source((_mixed(np.random.default_rng(seed), read) for seed in seeds), talkers)}


def _mixed(rng: np.random.Generator, read: Callable[[np.random.Generator, int], np.ndarray]) -> np.ndarray:
    frames = round(BABBLE_SECONDS * SAMPLE_RATE)
    talkers = [read(rng, frames) for _ in range(rng.integers(TALKERS[0], TALKERS[1] + 1))]
    return mix_babble(rng, talkers, frames)


def _speech_from_set(utterances: Utterances, rng: np.random.Generator, frames: int) -> np.ndarray:
    row = int(rng.integers(len(utterances)))
    return utterances.read(row, 0, min(frames, int(utterances.num_samples[row])))


def _speech_from_files(files: Sequence[Path], rng: np.random.Generator, frames: int) -> np.ndarray:
    path = files[rng.integers(len(files))]
    try:
        with soundfile.SoundFile(path) as audio:
            wanted = round(frames * audio.samplerate / SAMPLE_RATE)
            audio.seek(int(rng.integers(max(1, audio.frames - wanted))))
            block = audio.read(wanted, dtype="float32", always_2d=True).mean(axis=1)
            return to_pcm(np.concatenate(list(resample([block], audio.samplerate))))
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path}: not readable ({error.error_string}); remove or mend it") from None


def _write_bank(folder: Path, source: Source) -> None:
    count, samples = 0, 0
    with BankWriter(folder, np.float32 if folder.name == RIRS else np.int16) as writer:
        for recording in progress(source.recordings, f"{folder.parent.name}/{folder.name}"):
            writer.add(recording)
            count, samples = count + 1, samples + len(recording)
    minutes = samples / SAMPLE_RATE / 60
    print(f"{folder}: {count:,} segments from {source.files:,} recordings, {minutes:.1f} min")


if __name__ == "__main__":
    run(main, Options)
