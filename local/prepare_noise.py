"""Make the noise folders of a corpus: data/<corpus>/noise for training, noise_test for the adverse test set.

    python local/prepare_noise.py --out data/mini --synthetic
    python local/prepare_noise.py --out data/folder --noise-dir noises --rir-dir rirs --synthetic
    python local/prepare_noise.py --out data/voxceleb --musan musan --rirs RIRS_NOISES --babble 1000

Each holds banks of noise, music, babble and room impulse responses (RIRs). No recording is in both folders, so systems
are tested on noises and rooms unseen in training. Files may have any sampling rate and number of channels. Babble is
mixed from 3 to 10 speakers of the training set, or of MUSAN.
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
BABBLE_SPEAKERS = (3, 10)
FEW = 3  # fewer files than this are shared by training and test
FEW_RIRS = 20  # fewer RIRs than this are complemented by synthetic ones, so that adverse recordings differ in them
NO_SOURCE = "no source of noise is given; give --synthetic, --noise-dir, --rir-dir, --musan or --rirs"


@dataclass
class Options:
    out: Path  # data/<corpus>; makes noise/ and noise_test/ in it, and mixes babble from its train/
    seed: int = 0  # of the split into training and test, of babble and of all that is synthetic
    synthetic: bool = False  # synthesise the kinds that no folder is given for, and RIRs when there are fewer than 20
    noise_dir: Path | None = None  # folder with recordings of noise; one third goes to the test
    rir_dir: Path | None = None  # folder with RIRs; one third goes to the test
    musan: Path | None = None  # OpenSLR 17, with noise/, music/ and speech/; one tenth goes to the test
    rirs: Path | None = None  # OpenSLR 28; one tenth of its rooms goes to the test
    babble: int = 30  # training babbles of 10 s each; about 1000 for a large corpus
    synthetic_noises: int = 40  # synthetic noises of 10 s each; the test gets half as many, also of the next two kinds
    synthetic_music: int = 20  # synthetic pieces of music of 10 s each
    synthetic_rooms: int = 60  # synthetic RIRs, with reverberation times from 0.1 to 0.7 s


@dataclass(frozen=True)
class Source:
    """The contents of one bank: recordings, read or synthesised while iterating, and the number of their files."""

    recordings: Iterable[np.ndarray]
    files: int


def main(options: Options) -> None:
    settings = {name: str(value) for name, value in asdict(options).items() if name != "out"}
    markers = [options.out / folder / "noise.json" for folder in FOLDERS]
    if any(marker.exists() and read_json(marker) != settings for marker in markers):
        raise UserError(f"{options.out}: noise was made with other options; remove its folders noise and noise_test")
    if all(marker.exists() for marker in markers):
        for marker in markers:
            open_banks(marker.parent)  # a folder of an earlier version, or a damaged one, is refused
        print(f"{options.out}: noise and noise_test were made before, nothing to do")
        return
    for folder, sources in zip(FOLDERS, collect(options), strict=True):
        for kind, source in sources.items():
            _write_bank(options.out / folder / kind, source)
        write_json(options.out / folder / "noise.json", settings)


def collect(options: Options) -> tuple[dict[str, Source], dict[str, Source]]:
    """The contents of the training folder and of the test folder, by kind. Raises UserError when there are none."""
    train: dict[str, Source] = {}
    test: dict[str, Source] = {}
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
    """Yield (kind, files, share for the test, group of a file) of every kind that a folder is given for."""
    if options.noise_dir and options.musan:
        raise UserError("give either --noise-dir or --musan, not both")
    if options.rir_dir and options.rirs:
        raise UserError("give either --rir-dir or --rirs, not both")
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

    The folder of the real ones also holds noises, which are left out by their names. A few hundred real RIRs stand
    against tens of thousands of simulated ones. Each is repeated, so that real and small rooms are equally likely.
    """
    small, medium = (find_audio(folder / "simulated_rirs" / size) for size in ("smallroom", "mediumroom"))
    real = [path for path in find_audio(folder / "real_rirs_isotropic_noises") if "noise" not in path.stem]
    return [*small, *medium, *real * max(1, round(len(small) / max(1, len(real))))]


def split(
    files: Sequence[Path], share: float, seed: int, kind: str, group: Callable[[Path], str] = str
) -> tuple[list[Path], list[Path]]:
    """Divide files between training and test; files of one group stay together.

    share   of the groups that goes to the test, at least one group
    kind    their name in the message when there are too few; training and test then both get all
    group   of a file; by default, each file is a group
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
    """The room of a file of OpenSLR 28: its folder (Room001), or its name without the digits at its end."""
    simulated = path.parent.name.startswith("Room")
    return str(path.parent) if simulated else str(path.with_name(path.stem.rstrip("_0123456789")))


def read_pieces(files: Iterable[Path]) -> Iterator[np.ndarray]:
    """Yield recordings as int16 pieces of up to 30 s at 16 kHz, channels averaged, read in blocks.

    Digital silence is left out, and so are files that cannot be read, with a printed line.
    """
    for path in files:
        try:
            for piece in _pieces(_at_16k(path), round(SEGMENT_SECONDS * SAMPLE_RATE)):
                if piece.any():
                    yield to_pcm(piece)
        except soundfile.LibsndfileError as error:
            print(f"{path}: left out, cannot be read ({error.error_string})")


def read_rirs(files: Iterable[Path]) -> Iterator[np.ndarray]:
    """Yield RIRs, float32 [<= 16000] at 16 kHz, from the first channel, aligned by their main tap.

    Files that are silent or cannot be read are left out, with a printed line.
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
    """Blocks of any size as pieces of `length`; a rest shorter than a second is dropped after the first piece."""
    pending, count = np.zeros(0, np.float32), 0
    for block in blocks:
        pending = np.concatenate([pending, block])
        while len(pending) >= length:
            yield pending[:length]
            pending, count = pending[length:], count + 1
    if len(pending) >= (SAMPLE_RATE if count else 1):
        yield pending


def _joined(rirs: Source, made: Source) -> Source:
    print(f"RIRs: {rirs.files} are few, so {made.files} synthetic ones are added")
    return Source(chain(rirs.recordings, made.recordings), rirs.files + made.files)


def _synthetic(options: Options, part: int) -> dict[str, Source]:
    """Synthetic noise, music and RIRs; half as many for the test (part 1), from other random numbers."""

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
    """Babble of speakers of the training set, or of MUSAN's speech (for the test, of held-out files)."""
    if options.musan:
        files = split(find_audio(options.musan / "speech"), 1 / 10, options.seed, "speech")[part]
        sources = len(files)
        read = partial(_speech_from_files, files)
    elif (options.out / "train" / "cuts.jsonl.gz").exists():
        utterances = Utterances.open(options.out / "train")
        sources = len(utterances)
        read = partial(_speech_from_set, utterances)
    else:
        print(f"no babble is made, since it is mixed from {options.out / 'train'}, which is not prepared")
        return {}
    seeds = ([options.seed, part, 3, i] for i in range(max(1, options.babble // (1 + part))))
    return {"babble": Source((_mixed(np.random.default_rng(seed), read) for seed in seeds), sources)}


def _mixed(rng: np.random.Generator, read: Callable[[np.random.Generator, int], np.ndarray]) -> np.ndarray:
    frames = round(BABBLE_SECONDS * SAMPLE_RATE)
    speakers = [read(rng, frames) for _ in range(rng.integers(BABBLE_SPEAKERS[0], BABBLE_SPEAKERS[1] + 1))]
    return mix_babble(rng, speakers, frames)


def _speech_from_set(utterances: Utterances, rng: np.random.Generator, frames: int) -> np.ndarray:
    row = int(rng.integers(len(utterances)))
    return utterances.read(row, 0, min(frames, int(utterances.num_samples[row])))


def _speech_from_files(files: Sequence[Path], rng: np.random.Generator, frames: int) -> np.ndarray:
    path = files[int(rng.integers(len(files)))]
    try:
        with soundfile.SoundFile(path) as audio:
            wanted = round(frames * audio.samplerate / SAMPLE_RATE)
            audio.seek(int(rng.integers(max(1, audio.frames - wanted))))
            block = audio.read(wanted, dtype="float32", always_2d=True).mean(axis=1)
            return to_pcm(np.concatenate(list(resample([block], audio.samplerate))))
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path}: cannot be read ({error.error_string}); fix or remove it") from None


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
