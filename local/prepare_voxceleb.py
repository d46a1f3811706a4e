"""Make data/voxceleb/{train,test} from VoxCeleb as it is published: VoxCeleb2 dev for training, VoxCeleb1 for the test.

    python local/prepare_voxceleb.py --vox2 corpora/vox2 --vox1 corpora/vox1 --trials corpora/vox1/meta

Layouts: <vox1>/{dev,test}/wav/id10001/<video>/00001.wav or <vox1>/wav/...; <vox2>/dev/aac/id00012/<video>/00001.m4a or
<vox2>/aac/..., with aac, wav or flac. The m4a files of VoxCeleb2 are decoded once, by ffmpeg, to FLAC in
data/voxceleb/train/audio/ (about 150 GB); a killed run continues where it was. The trial lists E and H use all of
VoxCeleb1, so none of it is in the training set. Speakers are in speakers.tsv only, not in the manifests.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cslib.config import UserError, run
from cslib.corpora.audio_files import AUDIO_SUFFIXES, FFMPEG_SUFFIXES, Checks
from cslib.corpora.preparation import Source, Summary, prepare_set
from cslib.data.manifests import read_manifest
from cslib.data.trials import read_trials, write_trials
from cslib.files import warn

PUBLISHED_AT = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb"


class Corpus(NamedTuple):
    """A published corpus.

    name        in messages
    folders     that may hold the folders of the speakers
    speaker     regular expression of a speaker's name, which tells the two corpora apart
    utterances  published number
    speakers    published number
    """

    name: str
    folders: tuple[str, ...]
    speaker: str
    utterances: int
    speakers: int


VOX1 = Corpus(
    "VoxCeleb1",
    ("dev/wav", "test/wav", "wav", "dev/flac", "test/flac", "flac"),
    r"id1\d{4}",
    utterances=153_516,
    speakers=1_251,
)
VOX2 = Corpus(
    "VoxCeleb2 dev",
    ("dev/wav", "dev/flac", "dev/aac", "wav", "flac", "aac"),
    r"id0\d{4}",
    utterances=1_092_009,
    speakers=5_994,
)
LISTS = {  # data/voxceleb/test/trials/<name>.txt: (published file, number of trials)
    "vox1_o": ("veri_test2.txt", 37_611),
    "vox1_o_original": ("veri_test.txt", 37_720),
    "vox1_e": ("list_test_all2.txt", 579_818),
    "vox1_h": ("list_test_hard2.txt", 550_894),
}


@dataclass
class Options:
    vox2: Path | None = None  # VoxCeleb2, whose dev part becomes train/
    vox1: Path | None = None  # VoxCeleb1, all of which becomes test/
    trials: Path | None = None  # folder with veri_test.txt, veri_test2.txt and so on; by default that of --vox1
    data: Path = Path("data/voxceleb")  # makes train/ and test/ in it
    nj: int = os.cpu_count() or 1  # number of processes


def main(options: Options) -> None:
    if options.vox1 is None and options.vox2 is None:
        raise UserError("give --vox2 (for training), --vox1 (for the test), or both")
    if options.trials and not options.vox1:
        raise UserError("--trials belongs to the test set; give --vox1, too")
    lists = find_lists(options.trials or options.vox1) if options.vox1 else {}
    for corpus, root in ((VOX2, options.vox2), (VOX1, options.vox1)):
        if root:
            prepare(corpus, root, options.data / ("train" if corpus is VOX2 else "test"), options.nj)
    for name, path in lists.items():
        write_list(name, path, options.data / "test")


def prepare(corpus: Corpus, root: Path, folder: Path, nj: int) -> Summary:
    """Write the set of one corpus; warn when its size is not the published one."""
    speakers = find_speakers(corpus, root)
    meta = read_sexes(root)
    sources = list_sources(speakers, meta, folder.absolute() / "audio")
    # Headers only, since decoding 2,300 hours to find silence would take days on one core.
    checks = Checks(decode=False, min_seconds=0.0, silence_peak=0.0)
    columns = f"sex of {len(meta)} speakers"
    summary = prepare_set(folder, sources, checks, nj, corpus.utterances, columns)
    print(summary)
    found = (summary.utterances, len(summary.speakers))
    if found != (corpus.utterances, corpus.speakers):
        warn(
            f"{corpus.name} has {found[0]:,} utterances of {found[1]:,} speakers here, instead of the published "
            f"{corpus.utterances:,} of {corpus.speakers:,}"
        )
    return summary


def find_speakers(corpus: Corpus, root: Path) -> dict[str, list[Path]]:
    """The folders of each speaker, sorted by speaker. Raises UserError when there is none."""
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder")
    found: dict[str, list[Path]] = {}
    for folder in (root.absolute() / name for name in corpus.folders):
        if folder.is_dir():
            for entry in os.scandir(folder):
                if re.fullmatch(corpus.speaker, entry.name):
                    found.setdefault(entry.name, []).append(folder / entry.name)
    if not found:
        raise UserError(
            f"{root}: there is no speaker's folder ({corpus.speaker}) in {', '.join(corpus.folders)}; "
            f"give the folder into which {corpus.name} was unpacked"
        )
    return dict(sorted(found.items()))


def list_sources(speakers: dict[str, list[Path]], sexes: dict[str, str], audio: Path) -> Iterator[Source]:
    """Yield the recordings in the order of their ids (speaker-video-number), holding one speaker at a time.

    When a recording exists in two formats, the one that needs no conversion is used.
    """
    for speaker, folders in speakers.items():
        chosen: dict[str, tuple[bool, str, str]] = {}
        for video, path in (
            (entry.name, path)
            for folder in folders
            for entry in _entries(folder)
            if entry.is_dir()
            for path in _recordings(entry.path)
        ):
            stem, suffix = os.path.splitext(os.path.basename(path))
            candidate = (suffix.lower() in FFMPEG_SUFFIXES, path, video)
            name = f"{speaker}-{video}-{stem}"
            chosen[name] = min(candidate, chosen.get(name, candidate))
        for name in sorted(chosen):
            _, path, video = chosen[name]
            target = str(audio / speaker / video / f"{name.removeprefix(f'{speaker}-{video}-')}.flac")
            sex = sexes.get(speaker, "-") if sexes else None
            yield Source(name, path, target, speaker, sex, session=video)


def _entries(folder: Path | str) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _recordings(folder: str) -> list[str]:
    return [entry.path for entry in _entries(folder) if os.path.splitext(entry.name)[1].lower() in AUDIO_SUFFIXES]


def read_sexes(root: Path) -> dict[str, str]:
    """m or f by speaker, from the published vox1_meta.csv or vox2_meta.csv in `root`; empty without them.

    Their columns are separated by tabs or by commas, depending on the year of the download. Raises UserError for a
    file without the column Gender.
    """
    sexes: dict[str, str] = {}
    for path in (root / "vox1_meta.csv", root / "vox2_meta.csv"):
        if not path.exists():
            continue
        with open(path, newline="", encoding="utf-8") as lines:
            rows = [
                [cell.strip() for cell in row] for row in csv.reader(line.replace("\t", ",") for line in lines) if row
            ]
        header = [name.lower() for name in rows[0]] if rows else []
        if "gender" not in header:
            raise UserError(f"{path}: there is no column Gender in its first line; download it from {PUBLISHED_AT}")
        column = header.index("gender")
        sexes |= {row[0]: row[column] for row in rows[1:] if len(row) > column}
    return sexes


def find_lists(folder: Path) -> dict[str, Path]:
    """The trial lists in `folder`, by their names here. Warns of missing ones; raises UserError when there is none."""
    found = {name: folder / file for name, (file, _) in LISTS.items() if (folder / file).is_file()}
    missing = [file for file, _ in LISTS.values() if not (folder / file).is_file()]
    if not found:
        raise UserError(
            f"{folder}: holds none of the trial lists {', '.join(missing)}; download them from "
            f"{PUBLISHED_AT} into one folder and give it as --trials"
        )
    if missing:
        warn(f"{folder}: there is no {', '.join(missing)}, so these trials are not made; download from {PUBLISHED_AT}")
    return found


def write_list(name: str, path: Path, folder: Path) -> None:
    """Write trials/<name>.txt with the ids of the set, leaving out trials of recordings that the set lacks."""
    trials = read_trials(path)
    expected = LISTS[name][1]
    if len(trials) != expected:
        warn(f"{path}: {len(trials):,} trials instead of the published {expected:,}")
    present = {item["id"] for item in read_manifest(folder / "recordings.jsonl.gz")}
    kept = [
        row
        for row in zip(trials.enrol, trials.test, trials.targets, strict=True)
        if row[0] in present and row[1] in present
    ]
    target = folder / "trials" / f"{name}.txt"
    if len(kept) < len(trials):
        warn(
            f"{path}: {len(trials) - len(kept):,} of {len(trials):,} trials are left out, "
            f"since their recordings are not in {folder}"
        )
    if kept:
        print(f"{target}: {write_trials(target, *zip(*kept, strict=True)):,} trials")
    else:
        target.unlink(missing_ok=True)


if __name__ == "__main__":
    run(main, Options)
