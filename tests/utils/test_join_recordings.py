"""Joined recordings have the speakers, lengths and joins that are listed, and a set of them is judged by these."""

import csv

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from local import prepare_folder
from tests.inference.bursts import RATE, recording
from utils.join_recordings import Options, main


@pytest.fixture
def joined(tmp_path):
    """Six files of one and six of several out of twelve voices, eight recordings each."""
    for voice in range(12):
        for n in range(8):
            path = tmp_path / f"speakers/v{voice:02d}/{n}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, recording([voice], seed=n, seconds=2.5 + n / 10), RATE)
    options = Options(tmp_path / "speakers", out=tmp_path / "joined", one=6, several=6, shortest=14, longest=18)
    main(options)
    return options


def rows(options):
    with open(options.out / "joins.tsv", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_part_is_speech_between_pauses_and_occurs_once(joined):
    files = {row["file"] for row in rows(joined)}
    assert len(files) == 12
    for name in files:
        parts = [row for row in rows(joined) if row["file"] == name]
        speakers = {row["speaker"] for row in parts}
        assert len(speakers) == 1 if name.startswith("one/") else 1 <= len(speakers) <= 4
        samples = soundfile.read(joined.out / f"{name}.flac")[0]
        assert len(samples) / RATE >= 14
        places = [(int(row["first"]), int(row["last"])) for row in parts]
        assert all(np.abs(samples[first:last]).mean() > 0.02 for first, last in places)
        pauses = [after - last for (_, last), (after, _) in zip(places, places[1:], strict=False)]
        assert all(0.2 * RATE <= pause <= RATE for pause in pauses)
        assert all(
            np.abs(samples[last : last + pause]).max() < 0.01 for (_, last), pause in zip(places, pauses, strict=False)
        )


def test_a_set_of_them_is_judged_and_pieces_are_checked(joined, tmp_path, capsys):
    for pieces in (False, True):
        data = tmp_path / f"data{pieces}"
        prepare_folder.main(prepare_folder.Options(train_dir=joined.out, data=data, nj=1, pieces=pieces))
        capsys.readouterr()
        main(Options(judge=data / "train", joins=joined.out / "joins.tsv"))
        printed = capsys.readouterr().out
        assert ("ROC area" in printed) != pieces
        assert ("pieces of recordings of several speakers: 100.0% have one" in printed) == pieces


def test_too_few_speakers_are_refused(tmp_path):
    (tmp_path / "speakers").mkdir()
    with pytest.raises(UserError, match="there are 0 speakers; 4 are needed"):
        main(Options(tmp_path / "speakers", out=tmp_path / "joined"))
