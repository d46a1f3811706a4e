"""A folder of anything becomes a set of 16 kHz mono recordings, and what is left out is counted."""

import gzip
import itertools
import json
import os
import re
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.corpora.audio_files import ffmpeg
from cslib.data.manifests import MANIFESTS, read_manifest
from cslib.data.utterances import Utterances
from local.prepare_folder import Options, main
from tests.inference import bursts

RATE = 16_000


def speech(seconds=1.5, rate=RATE, channels=1, seed=0):
    samples = np.random.default_rng(seed).standard_normal((int(seconds * rate), channels)) * 0.1
    return samples.clip(-1, 1)


def write(path, *args, rate=RATE, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, speech(*args, rate=rate, **kwargs), rate)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """40 good recordings of all kinds, one unreadable, and one of each other reason."""
    root = tmp_path_factory.mktemp("corpus") / "deep"
    for n in range(32):
        write(root / f"part{n % 3}/plain {n:02d}.{'flac' if n % 2 else 'WAV'}", seed=n)
    write(root / "stereo.wav", channels=2)
    write(root / "phone.wav", rate=8000)
    write(root / "studio.flac", rate=44_100)
    write(root / "studio_stereo.wav", rate=44_100, channels=2)
    write(root / "music.mp3")
    write(root / "music.ogg")  # the same id as the mp3
    write(root / "a/b.wav")
    write(root / "a-b.wav")  # the same id again
    write(root / "short.wav", 0.5)
    soundfile.write(root / "silent.wav", np.zeros(2 * RATE), RATE)
    (root / "empty.wav").touch()
    soundfile.write(root / "no_samples.flac", np.zeros(0), RATE)
    write(root / "truncated.flac")
    data = (root / "truncated.flac").read_bytes()
    (root / "truncated.flac").write_bytes(data[: len(data) // 2])
    (root / "notes.txt").write_text("not audio")
    write(root / ".hidden.wav")
    return root


def lists(folder):
    return {name: list(read_manifest(folder / f"{name}.jsonl.gz")) for name in MANIFESTS}


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    main(Options(train_dir=corpus, data=data, nj=2))
    return data / "train"


def test_every_good_recording_is_listed_once_and_every_other_has_its_reason(prepared):
    cuts = lists(prepared)["cuts"]
    ids = [cut["id"] for cut in cuts]
    assert len(ids) == 40 and ids == sorted(set(ids))
    assert {"part0-plain_00", "music", "music-2", "a-b", "a-b-2"} <= set(ids)
    rows = [line.split("\t") for line in (prepared / "rejected.tsv").read_text().splitlines()]
    assert rows[0] == ["path", "reason"]
    reasons = {os.path.basename(path): reason.partition(":")[0] for path, reason in rows[1:]}
    assert reasons == {
        "short.wav": "shorter than 1 s",
        "silent.wav": "silent",
        "empty.wav": "empty",
        "no_samples.flac": "empty",
        "truncated.flac": "unreadable",
    }


def test_all_audio_is_16_khz_mono_of_the_listed_length_and_only_what_must_is_converted(prepared, corpus):
    converted = 0
    for recording in lists(prepared)["recordings"]:
        path = recording["sources"][0]["source"]
        info = soundfile.info(path)
        assert os.path.isabs(path) and (info.samplerate, info.channels) == (RATE, 1)
        assert info.frames == recording["num_samples"]
        assert abs(recording["duration"] - 1.5) < 0.1
        converted += path.startswith(str(prepared))
    assert converted == 6  # stereo, phone, studio, studio_stereo, mp3, ogg


def test_training_set_has_no_label(prepared):
    assert not (prepared / "speakers.tsv").exists()
    for name in MANIFESTS:
        assert b'"speaker"' not in gzip.decompress((prepared / f"{name}.jsonl.gz").read_bytes())


def test_second_run_does_nothing_and_says_so(prepared, corpus, capsys):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.is_file()}
    main(Options(train_dir=corpus, data=prepared.parent, nj=1))
    assert "nothing to do" in capsys.readouterr().out
    lists_after = {path: path.stat().st_mtime_ns for path in before if path.name != "journal.jsonl"}
    assert lists_after == {path: time for path, time in before.items() if path.name != "journal.jsonl"}


def test_conversions_of_a_killed_run_are_not_made_again(prepared, corpus, tmp_path, capsys):
    shutil.copytree(prepared / "audio", tmp_path / "data/train/audio")
    (tmp_path / "data/train/audio/stereo.wav.wav").unlink()
    main(Options(train_dir=corpus, data=tmp_path / "data", nj=1))
    assert "1 made now" in capsys.readouterr().out


def test_m4a_is_read_through_ffmpeg(tmp_path):
    write(tmp_path / "x.wav", 2.0, channels=2)
    (tmp_path / "corpus").mkdir()
    m4a = tmp_path / "corpus/x.m4a"
    subprocess.run([ffmpeg(), "-loglevel", "error", "-i", tmp_path / "x.wav", m4a], check=True)
    main(Options(train_dir=tmp_path / "corpus", data=tmp_path / "data", nj=1))
    (recording,) = lists(tmp_path / "data/train")["recordings"]
    assert abs(recording["duration"] - 2.0) < 0.1
    decoded = soundfile.read(recording["sources"][0]["source"])[0]
    mean = soundfile.read(tmp_path / "x.wav")[0].mean(axis=1)
    assert 0.5 < decoded.std() / mean.std() < 1.2  # the mean of the channels, not their sum


def test_more_than_5_percent_unreadable_ends_in_a_sentence_and_leaves_nothing(tmp_path):
    for n in range(18):
        write(tmp_path / f"corpus/{n}.wav", rate=8000)
    (tmp_path / "corpus/bad.wav").write_bytes(b"RIFF" + bytes(5000))
    with pytest.raises(UserError, match="1 of 19 recordings cannot be read.*bad.wav"):
        main(Options(train_dir=tmp_path / "corpus", data=tmp_path / "data", nj=1))
    assert not (tmp_path / "data/train").exists()
    write(tmp_path / "corpus/18.wav")
    main(Options(train_dir=tmp_path / "corpus", data=tmp_path / "data", nj=1))  # 1 of 20 is 5 %, no more
    assert len(lists(tmp_path / "data/train")["cuts"]) == 19


def test_set_inside_the_corpus_or_around_it_is_refused(tmp_path):
    write(tmp_path / "speech/train/a.wav")
    write(tmp_path / "train/b.wav")
    for train, data in (("speech/train", "speech"), ("speech", "speech/data"), ("train", ".")):
        with pytest.raises(UserError, match="choose another --data"):
            main(Options(train_dir=tmp_path / train, data=tmp_path / data))
    assert (tmp_path / "speech/train/a.wav").exists() and (tmp_path / "train/b.wav").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "give --train-dir"),
        ({"train_dir": "absent"}, "no such folder"),
        ({"train_dir": "bare"}, "there is no recording"),
        ({"test_dir": "loose"}, "in folders named after speakers"),
        ({"test_dir": "alone"}, "no nontarget pair"),
        ({"test_dir": "single"}, "no target pair"),
    ],
)
def test_unusable_folders_end_in_a_sentence_with_nothing_written(tmp_path, options, words):
    (tmp_path / "bare").mkdir()
    write(tmp_path / "loose/a.wav")
    for path in ("alone/ann/a", "alone/ann/b", "single/ann/a", "single/bob/a"):
        write(tmp_path / f"{path}.wav")
    with pytest.raises(UserError, match=words):
        folders = {name: tmp_path / value for name, value in options.items()}
        main(Options(**folders, data=tmp_path / "data", nj=1))
    assert not list(tmp_path.glob("data/*"))


def test_test_folder_gives_speakers_and_every_pair_once(tmp_path, capsys):
    counts = {"ann": 3, "bob smith": 2, "eve": 4}
    for speaker, count in counts.items():
        for n in range(count):
            write(tmp_path / f"speech/{speaker}/session{n % 2}/{n}.wav")
    write(tmp_path / "speech/readme.wav")
    main(Options(test_dir=tmp_path / "speech", data=tmp_path / "data", nj=1))
    folder = tmp_path / "data/test"
    rows = [line.split("\t") for line in (folder / "speakers.tsv").read_text().splitlines()]
    assert rows[0] == ["utterance", "speaker"]
    assert Counter(speaker for _, speaker in rows[1:]) == counts
    speaker_of = dict(rows[1:])
    trials = [line.split() for line in (folder / "trials/clean.txt").read_text().splitlines()]
    assert [tuple(trial[:2]) for trial in trials] == list(itertools.combinations(sorted(speaker_of), 2))
    for one, other, label in trials:
        assert label == ("target" if speaker_of[one] == speaker_of[other] else "nontarget")
    assert "not in a speaker's folder" in (folder / "rejected.tsv").read_text()
    assert all('"speaker"' not in json.dumps(cut) for cut in lists(folder)["cuts"])


def talk(path, voices, seed, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, bursts.recording(voices, seed, **how), RATE)


@pytest.fixture
def talks(tmp_path):
    """Twelve recordings of one voice and three of two."""
    for n in range(12):
        talk(tmp_path / f"speech/one/{n:02d}.wav", [n] * 6, n, seconds=2.5)
    for n in range(3):
        talk(tmp_path / f"speech/two/{n}.wav", [n, n + 20] * 3, 50 + n, seconds=2.5)
    return Options(train_dir=tmp_path / "speech", data=tmp_path / "data", nj=1)


def test_recordings_of_several_speakers_are_named_counted_and_listed(talks, capsys):
    for again in range(2):
        main(talks)
        out, err = capsys.readouterr()
        assert ("looked for several in 15 recordings, 0 others have too little speech" in out) == (not again)
        assert "warning: 3 recordings look as if several people speak (two-" in err and "--pieces" in err
    rows = (talks.data / "train/several_speakers.tsv").read_text().splitlines()
    assert rows[0] == "utterance\tscore" and {row.split("\t")[0] for row in rows[1:]} == {"two-0", "two-1", "two-2"}
    for path in talks.train_dir.glob("two/*"):
        path.unlink()
    main(talks)
    assert "warning" not in capsys.readouterr().err


def test_pieces_are_utterances_of_one_voice_and_copy_no_audio(talks, capsys):
    talks.pieces = True
    main(talks)
    out, err = capsys.readouterr()
    assert "train: 15 recordings, " in out and "into 90 pieces of 2 to 15 s" in out and not err
    utterances = Utterances.open(talks.data / "train")
    assert len(utterances) == 90 and not (talks.data / "train/audio").exists()
    assert (
        re.fullmatch(r"one-00-00000\d\d", utterances.id(0))
        and abs(int(utterances.num_samples[0]) - 2.5 * RATE) < 0.1 * RATE
    )
    main(talks)
    assert "nothing to do" in capsys.readouterr().out and len(Utterances.open(talks.data / "train")) == 90


def test_another_way_of_cutting_makes_another_set(talks):
    sizes = []
    for options in ({}, {"pieces": True}, {"longest_piece": 1.5, "shortest_piece": 0.5}, {"pieces": False}):
        for name, value in options.items():
            setattr(talks, name, value)
        main(talks)
        sizes.append(len(Utterances.open(talks.data / "train")))
    assert sizes == [15, 90, 180, 15]


def test_killed_cutting_is_done_again(talks, monkeypatch):
    main(talks)
    talks.pieces = True
    monkeypatch.setattr("local.prepare_folder.cut_into_pieces", lambda *_: iter([1 / 0]))
    with pytest.raises(ZeroDivisionError):
        main(talks)
    monkeypatch.undo()
    assert len(Utterances.open(talks.data / "train")) == 15
    main(talks)
    assert len(Utterances.open(talks.data / "train")) == 90


def test_recordings_without_a_piece_are_listed_and_a_set_without_pieces_is_refused(talks):
    talk(talks.train_dir / "brief.wav", [1, 2], 9, seconds=1.0)
    talks.pieces = True
    main(talks)
    assert "brief.wav\tno piece of 2 s" in (talks.data / "train/rejected.tsv").read_text()
    talks.shortest_piece = 7.0
    with pytest.raises(UserError, match="none of 16 recordings has 7 s of speech without a pause; lower"):
        main(talks)
    assert len(Utterances.open(talks.data / "train")) == 90
