"""Make data/<corpus>/{train,test} from folders of recordings: any tree for training, a folder per speaker for the test.

    python local/prepare_folder.py --train-dir speech/unlabelled --test-dir speech/test --data data/folder

Recordings may be wav, flac, ogg or mp3 files (or m4a, with ffmpeg) of any sampling rate and number of channels. What is
not a 16 kHz mono wav or flac file is converted once, into data/<corpus>/<set>/audio/; the source is left as it is.
Recordings that are unreadable, empty, silent or too short are left out and listed in rejected.tsv; more than 5 %
unreadable ones are an error. No label is read from the training folder. The test folder gives speakers.tsv, and
trials/clean.txt with all pairs.

Every training recording must have one speaker. Those that look as if several people speak are named in a warning and
listed in data/<corpus>/train/several_speakers.tsv (cslib/inference/several_speakers.py says how they are found). With
--pieces, training recordings are cut at pauses and every piece becomes an utterance, `<recording>-<start in 1/100 s>`.
No audio is copied for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cslib.config import UserError, run
from cslib.corpora.all_pairs import write_all_pairs
from cslib.corpora.audio_files import AUDIO_SUFFIXES, Checks
from cslib.corpora.folders import refuse_overlap, relative_audio_paths, remove_set, unique_ids
from cslib.corpora.preparation import Source, Summary, prepare_set
from cslib.data.manifests import Entry
from cslib.data.utterances import Utterances
from cslib.files import warn, write_lines
from cslib.inference.several_speakers import judge
from cslib.inference.stretches import Pieces, StretchConfig, cut_into_pieces

LIST = "several_speakers.tsv"
SHOWN = 3  # recordings that a warning names


@dataclass
class Options:
    train_dir: Path | None = None  # training recordings, in any tree, one speaker in each; only their audio is used
    test_dir: Path | None = None  # test recordings, one folder per speaker, with recordings anywhere below it
    data: Path = Path("data/folder")  # makes train/ and test/ in it
    nj: int = os.cpu_count() or 1  # number of processes
    seed: int = 1  # of the choice of trials, when there are more than 500,000
    min_seconds: float = 1.0  # shorter recordings are left out, in seconds
    silence_peak: float = 0.001  # recordings whose largest magnitude is below it are left out; full scale is 1
    pieces: bool = False  # cut training recordings at pauses, for recordings in which several people speak
    pause: float = 0.2  # shortest pause at which --pieces cuts, in seconds
    shortest_piece: float = 2.0  # shorter stretches of speech are left out, in seconds
    longest_piece: float = 15.0  # longer stretches of speech are cut into equal parts, in seconds


def main(options: Options) -> None:
    if options.train_dir is None and options.test_dir is None:
        raise UserError("give --train-dir (for training), --test-dir (one folder per speaker), or both")
    for folder in filter(None, (options.train_dir, options.test_dir)):
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder")
    if options.train_dir:
        _prepare(options.data / "train", options.train_dir, options, by_speaker=False)
        if not options.pieces:
            warn_of_several_speakers(options.data / "train", options.nj)
    if options.test_dir:
        _prepare(options.data / "test", options.test_dir, options, by_speaker=True)


def _prepare(folder: Path, corpus: Path, options: Options, by_speaker: bool) -> None:
    refuse_overlap(folder.resolve(), corpus.resolve())
    paths = sorted(relative_audio_paths(corpus))
    loose = [path for path in paths if by_speaker and "/" not in path]
    sources = list_sources(corpus.absolute(), sorted(set(paths) - set(loose)), folder.absolute() / "audio", by_speaker)
    if not sources:
        raise UserError(
            f"{corpus}: there is no recording ({', '.join(sorted(AUDIO_SUFFIXES))}) "
            f"{'in folders named after speakers' if by_speaker else 'below it'}"
        )
    checks = Checks(min_seconds=options.min_seconds, silence_peak=options.silence_peak)
    config = StretchConfig(options.pause, options.shortest_piece, options.longest_piece)
    pieces = Pieces(config) if options.pieces and not by_speaker else None
    new = not (folder / "cuts.jsonl.gz").exists()
    try:
        summary = prepare_set(
            folder,
            sources,
            checks,
            options.nj,
            total=len(sources),
            columns=str(config) if pieces else "",
            left_out=[(str(corpus / path), "not in a speaker's folder") for path in loose],
            cut=_cutter(pieces, options.nj) if pieces else None,
        )
        print(summary)
        if not summary.unchanged:
            (folder / LIST).unlink(missing_ok=True)
            if pieces:
                print(pieces)
        if by_speaker:
            print(write_all_pairs(folder, np.random.default_rng(options.seed)))
    except UserError:
        if new:
            remove_set(folder)
        raise


def _cutter(report: Pieces, nj: int) -> Callable[[list[Entry], Summary], Iterator[Entry]]:
    def cut(recordings: list[Entry], summary: Summary) -> Iterator[Entry]:
        yield from cut_into_pieces(recordings, report.config, nj, report)
        if not report.pieces:
            raise UserError(
                f"{summary.folder}: none of {report.recordings:,} recordings has {report.config.shortest:g} s of "
                "speech without a pause; lower --shortest-piece, or raise --pause"
            )
        for path, reason in report.silent:
            summary.reject(path, reason)

    return cut


def warn_of_several_speakers(folder: Path, nj: int) -> None:
    """List the recordings of a set that look as if several people speak, unless that was done, and warn of them."""
    path = folder / LIST
    if not path.exists():
        found = judge(Utterances.open(folder), nj)
        print(
            f"{folder}: every recording must have one speaker; looked for several in {len(found.scores):,} recordings, "
            f"{found.too_short:,} others have too little speech to tell"
        )
        write_lines(path, ["utterance\tscore", *(f"{name}\t{found.scores[name]:.2f}" for name in found.suspicious)])
    names = [line.partition("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    if names:
        shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        warn(
            f"{len(names):,} recordings look as if several people speak ({shown}; all are in {path}), but training "
            "takes two crops of a recording for the same speaker; listen to some of them, and remove them or cut all "
            "recordings at pauses with --pieces"
        )


def list_sources(corpus: Path, paths: list[str], audio: Path, by_speaker: bool) -> list[Source]:
    """The recordings at the sorted `paths` below `corpus`, in the order of their ids.

    by_speaker  the first folder of a path is the speaker
    """
    sources = []
    for name, path in zip(unique_ids(paths), paths, strict=True):
        # The suffix stays in the name, since a.mp3 and a.wav in one folder are two recordings.
        # Without compression: training on a CPU would spend a quarter of its time on decoding.
        target = str(audio / f"{path}.wav")
        speaker = path.partition("/")[0] if by_speaker else None
        sources.append(Source(name, str(corpus / path), target, speaker))
    return sorted(sources)


if __name__ == "__main__":
    run(main, Options)
