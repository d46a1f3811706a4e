"""The manifests of a set, and how recordings of every format get into one."""

import gzip
import json
import os

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from cslib.config import UserError
from cslib.corpora.audio_files import Checks, convert, examine, resample
from cslib.corpora.preparation import Journal, Record, Source, prepare_set
from cslib.data.manifests import MANIFESTS, Entry, as_lhotse, read_manifest, write_set

SPEECH = np.sin(np.arange(20_000) / 7.0) * 0.3


def entries(count, **columns):
    return [Entry(f"utt{n:05d}", f"/corpus/utt{n:05d}.flac", 16_000 + n, **columns) for n in range(count)]


def test_lists_read_back_by_lhotse_equal_its_own_objects(tmp_path):
    from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet
    from lhotse.audio import AudioSource

    write_set(tmp_path, entries(3, speaker="ann"))
    recordings = [
        Recording(e.id, [AudioSource("file", [0], e.path)], 16_000, e.num_samples, e.num_samples / 16_000)
        for e in entries(3)
    ]
    supervisions = [SupervisionSegment(r.id, r.id, 0.0, r.duration, channel=0) for r in recordings]
    cuts = [
        MonoCut(r.id, 0.0, r.duration, 0, supervisions=[s], recording=r)
        for r, s in zip(recordings, supervisions, strict=True)
    ]
    assert list(RecordingSet.from_file(tmp_path / "recordings.jsonl.gz")) == recordings
    assert list(SupervisionSet.from_file(tmp_path / "supervisions.jsonl.gz")) == supervisions
    assert list(CutSet.from_file(tmp_path / "cuts.jsonl.gz")) == cuts
    assert [list(items) for items in zip(*map(as_lhotse, entries(3)), strict=True)] == [
        [item.to_dict() for item in items] for items in (recordings, supervisions, cuts)
    ]


def test_speakers_are_in_speakers_tsv_and_nowhere_else(tmp_path):
    zoe = Entry("a", "/x/a.wav", 16_000, "Zoë", "f", "v1")
    write_set(tmp_path, [zoe, Entry("b", "/x/b.wav", 16_000, "bob")])
    lines = (tmp_path / "speakers.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    header = ["utterance", "speaker", "sex", "session"]
    assert rows == [header, ["a", "Zoë", "f", "v1"], ["b", "bob", "-", "-"]]
    for name in MANIFESTS:
        text = gzip.decompress((tmp_path / f"{name}.jsonl.gz").read_bytes()).decode()
        assert "Zo" not in text and "speaker" not in text


def test_set_without_speakers_has_no_speakers_file_even_where_there_was_one(tmp_path):
    write_set(tmp_path, entries(2, speaker="ann"))
    assert write_set(tmp_path, entries(2)) == 2
    assert not (tmp_path / "speakers.tsv").exists()
    assert (tmp_path / "rejected.tsv").read_text() == "path\treason\n"


def test_equal_sets_are_equal_bytes(tmp_path):
    for name in ("one", "other"):
        write_set(tmp_path / name, entries(5))
    assert (tmp_path / "one/cuts.jsonl.gz").read_bytes() == (tmp_path / "other/cuts.jsonl.gz").read_bytes()


@pytest.mark.parametrize(
    "bad, words",
    [
        ([Entry("b", "/b.wav", 1), Entry("a", "/a.wav", 1)], "a comes twice, or after b"),
        ([Entry("a", "/a.wav", 1), Entry("a", "/a.wav", 1)], "twice"),
        ([Entry("a b", "/a.wav", 1)], "white space"),
        ([Entry("a", "/a.wav", 1, "ann"), Entry("b", "/b.wav", 1)], "all must have a speaker, or none"),
        ([], "no usable utterance"),
    ],
)
def test_bad_entries_are_refused_and_the_old_set_stays(tmp_path, bad, words):
    write_set(tmp_path, entries(3))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=words):
        write_set(tmp_path, bad)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_damaged_manifest_is_one_sentence(tmp_path):
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "a"}\n' * 1000)[:-20])
    with pytest.raises(UserError, match="damaged"):
        list(read_manifest(path))
    with pytest.raises(UserError, match="no such file"):
        list(read_manifest(tmp_path / "none.jsonl.gz"))


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_resampling_in_blocks_equals_resampling_whole(rate, monkeypatch):
    monkeypatch.setattr("cslib.corpora.audio_files.BLOCK", 3000)
    signal = np.random.default_rng(1).standard_normal(40_001).astype(np.float32)
    whole = resample_poly(signal, 16_000, rate)
    joined = np.concatenate(list(resample(np.array_split(signal, 23), rate)))
    np.testing.assert_allclose(joined, whole, atol=1e-5)


def test_folding_stereo_of_equal_channels_changes_no_sample(tmp_path):
    samples = np.random.default_rng(1).integers(-32768, 32768, 20_000).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", np.stack([samples, samples], 1), 16_000)
    convert(str(tmp_path / "a.wav"), tmp_path / "a.flac")
    assert (soundfile.read(tmp_path / "a.flac", dtype="int16")[0] == samples).all()


@pytest.mark.parametrize(
    "name, rate, kind, change",
    [
        ("a.wav", 16_000, {"subtype": "PCM_16"}, ""),
        ("a.wav", 16_000, {"subtype": "PCM_24"}, ""),
        ("a.flac", 16_000, {}, ""),
        ("a.wav", 16_000, {"subtype": "FLOAT"}, "float"),  # read as int16 it would be all zeros
        ("a.wav", 8_000, {}, "8000 Hz"),
        ("a.ogg", 16_000, {}, "ogg"),
        ("a.mp3", 16_000, {}, "mp3"),
    ],
)
def test_only_what_the_readers_cannot_take_is_converted(tmp_path, name, rate, kind, change):
    soundfile.write(tmp_path / name, SPEECH, rate, **kind)
    found = examine(str(tmp_path / name), str(tmp_path / "out/a.flac"), Checks())
    assert (found.change, found.reason, found.converted) == (change, "", bool(change))
    info = soundfile.info(found.audio)
    assert (info.samplerate, info.channels, info.frames) == (16_000, 1, found.num_samples)
    assert abs(found.num_samples - 20_000 * 16_000 / rate) < 2500
    peak = np.abs(soundfile.read(found.audio, dtype="int16")[0]).max() / 32768
    assert 0.25 < peak < 0.4


def test_opposed_stereo_is_silent_and_leaves_no_conversion(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([SPEECH, -SPEECH], 1), 16_000)
    found = examine(str(tmp_path / "a.wav"), str(tmp_path / "out.flac"), Checks())
    assert found.reason == "silent" and not (tmp_path / "out.flac").exists()


def test_samples_that_are_not_finite_are_unreadable(tmp_path):
    samples = np.where(np.arange(20_000) == 9, np.nan, SPEECH)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert "not finite" in examine(str(tmp_path / "a.wav"), str(tmp_path / "out.flac"), Checks()).reason


def test_changed_source_is_converted_again(tmp_path):
    source, target = tmp_path / "a.wav", tmp_path / "a.flac"
    soundfile.write(source, SPEECH, 8_000)
    assert examine(str(source), str(target), Checks()).converted
    assert not examine(str(source), str(target), Checks()).converted
    soundfile.write(source, SPEECH[:15_000], 8_000)
    os.utime(source, (2e9, 2e9))
    found = examine(str(source), str(target), Checks())
    assert found.converted and found.num_samples == 30_000


def record(name, reason=""):
    return Record(name, f"/c/{name}", 1, 1, f"/c/{name}", 16_000, reason, "")


def test_journal_of_a_killed_run_is_completed_by_the_older_one(tmp_path):
    settings = json.dumps({"min": 1})
    old = [json.dumps(record(name)) for name in "abcd"]
    new = [json.dumps(record(name, "silent")) for name in "ab"]
    (tmp_path / "journal.jsonl").write_text("\n".join([settings, *old, ""]))
    (tmp_path / "journal.partial.jsonl").write_text("\n".join([settings, *new, old[2][:9]]))  # cut in a line
    known = list(Journal(tmp_path, {"min": 1}).known())
    assert [item.id for item in known] == ["a", "b", "c", "d"]
    assert [item.reason for item in known] == ["silent", "silent", "", ""]
    assert list(Journal(tmp_path, {"min": 2}).known()) == []


@pytest.mark.parametrize("damage", ["no JSON", "5", '["b"]', "\udcff"])
def test_a_damaged_journal_counts_up_to_the_damage(tmp_path, damage):
    lines = [json.dumps({"min": 1}), json.dumps(record("a")), damage, json.dumps(record("c")), ""]
    (tmp_path / "journal.jsonl").write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    assert [item.id for item in Journal(tmp_path, {"min": 1}).known()] == ["a"]


def test_run_killed_in_the_middle_continues_and_ends_like_an_uninterrupted_one(tmp_path, monkeypatch):
    for n in range(6):
        soundfile.write(tmp_path / f"{n}.wav", SPEECH, 8_000)
    paths = [tmp_path / f"{n}.wav" for n in range(6)]

    def sources(folder, stop=None):
        for path in paths:
            if path.stem == stop:
                raise KeyboardInterrupt
            yield Source(path.stem, str(path), str(tmp_path / f"audio/{path.stem}.flac"))

    with pytest.raises(KeyboardInterrupt):
        prepare_set(tmp_path / "set", sources("set", stop="4"), Checks(), nj=1)
    assert not (tmp_path / "set/cuts.jsonl.gz").exists()
    summary = prepare_set(tmp_path / "set", sources("set"), Checks(), nj=1)
    assert summary.work == {"known": 4, "converted": 2} and not summary.unchanged
    assert prepare_set(tmp_path / "set", sources("set"), Checks(), nj=1).unchanged
    prepare_set(tmp_path / "whole", sources("whole"), Checks(), nj=1)
    for name in MANIFESTS:
        path = f"{name}.jsonl.gz"
        assert (tmp_path / "set" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()


def test_removed_recording_leaves_the_set(tmp_path):
    for n in range(3):
        soundfile.write(tmp_path / f"{n}.wav", SPEECH, 16_000)
    sources = [Source(str(n), str(tmp_path / f"{n}.wav"), "") for n in range(3)]
    assert prepare_set(tmp_path / "set", sources, Checks(), nj=1).utterances == 3
    summary = prepare_set(tmp_path / "set", sources[:2], Checks(), nj=1)
    assert not summary.unchanged and summary.work == {"known": 2}
    assert [item["id"] for item in read_manifest(tmp_path / "set/cuts.jsonl.gz")] == ["0", "1"]
