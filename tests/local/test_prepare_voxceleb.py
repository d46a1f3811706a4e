"""VoxCeleb look-alikes, a few recordings in each of the published layouts."""

import gzip
import os
import subprocess

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.corpora.audio_files import ffmpeg
from cslib.data.manifests import MANIFESTS, read_manifest
from local.prepare_voxceleb import Options, find_lists, main, read_sexes

RATE = 16_000
VIDEOS = ("-aB_cdefgh1", "Zz0123456-_")
LISTS = ("veri_test.txt", "veri_test2.txt", "list_test_all2.txt", "list_test_hard2.txt")


def write(path, seconds=0.4, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(int(seconds * RATE)) * 0.1
    soundfile.write(path, noise.clip(-1, 1), RATE)


def make_vox1(root, layout="{part}/wav"):
    for part, speakers in (("dev", ("id10001", "id11251")), ("test", ("id10270",))):
        for speaker in speakers:
            for video in VIDEOS:
                write(root / layout.format(part=part) / speaker / video / "00001.wav")


def make_lists(folder, names=LISTS, extra=""):
    one, other, third = (f"{speaker}/{VIDEOS[0]}/00001.wav" for speaker in ("id10270", "id10001", "id11251"))
    text = f"1 {one} {one.replace(VIDEOS[0], VIDEOS[1])}\n0 {one} {other}\n0 {third} {other}\n{extra}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def m4a(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m4a")
    write(folder / "a.wav", seconds=1.0)
    subprocess.run([ffmpeg(), "-loglevel", "error", "-i", folder / "a.wav", folder / "a.m4a"], check=True)
    return (folder / "a.m4a").read_bytes()


def make_vox2(root, m4a, count=24, layout="dev/aac"):
    for n in range(count):
        path = root / layout / f"id0001{n % 3}" / VIDEOS[n % 2] / f"{n:05d}.m4a"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(m4a)


def ids(folder):
    return [item["id"] for item in read_manifest(folder / "cuts.jsonl.gz")]


@pytest.mark.parametrize("layout", ["{part}/wav", "wav"])
def test_vox1_of_either_layout_gives_the_whole_test_set_with_four_lists(tmp_path, layout, capsys):
    make_vox1(tmp_path / "vox1", layout)
    make_lists(tmp_path / "vox1")
    main(Options(vox1=tmp_path / "vox1", data=tmp_path / "data", nj=1))
    folder = tmp_path / "data/test"
    expected = [f"{s}-{v}-00001" for s in ("id10001", "id10270", "id11251") for v in VIDEOS]
    assert ids(folder) == expected
    rows = [line.split("\t") for line in (folder / "speakers.tsv").read_text().splitlines()]
    assert rows[:2] == [["utterance", "speaker", "session"], [expected[0], "id10001", VIDEOS[0]]]
    assert {path.name for path in (folder / "trials").iterdir()} == {
        "vox1_o.txt",
        "vox1_o_original.txt",
        "vox1_e.txt",
        "vox1_h.txt",
    }
    assert (folder / "trials/vox1_o.txt").read_text().splitlines()[:2] == [
        f"id10270-{VIDEOS[0]}-00001 id10270-{VIDEOS[1]}-00001 target",
        f"id10270-{VIDEOS[0]}-00001 id10001-{VIDEOS[0]}-00001 nontarget",
    ]
    warnings = capsys.readouterr().err
    assert "VoxCeleb1 has 6 utterances of 3 speakers here, instead of the published 153,516 of 1,251" in warnings
    assert "veri_test2.txt: 3 trials instead of the published 37,611" in warnings
    assert not (folder / "audio").exists()  # nothing to convert


def test_vox2_m4a_become_16_khz_flac_once_and_the_source_stays(tmp_path, m4a, capsys):
    make_vox2(tmp_path / "vox2", m4a)
    main(Options(vox2=tmp_path / "vox2", data=tmp_path / "data", nj=2))
    folder = tmp_path / "data/train"
    assert "24 m4a as 16 kHz mono, 24 made now" in capsys.readouterr().out
    assert len(ids(folder)) == 24 and len(list(tmp_path.glob("vox2/**/*.m4a"))) == 24
    for recording in read_manifest(folder / "recordings.jsonl.gz"):
        path = recording["sources"][0]["source"]
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.frames) == (RATE, 1, recording["num_samples"])
        assert path == str(
            folder
            / "audio"
            / (recording["id"][:7] + "/" + recording["id"][8:19] + "/" + recording["id"][20:] + ".flac")
        )
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.flac")}
    main(Options(vox2=tmp_path / "vox2", data=tmp_path / "data", nj=1))
    assert "nothing to do" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*.flac")}
    (folder / "journal.jsonl").unlink()
    next(iter(times)).unlink()
    main(Options(vox2=tmp_path / "vox2", data=tmp_path / "data", nj=1))
    assert "24 m4a as 16 kHz mono, 1 made now" in capsys.readouterr().out


def test_training_lists_name_no_speaker_and_hold_nothing_of_vox1(tmp_path, m4a):
    """Even when both corpora are unpacked into one folder."""
    make_vox2(tmp_path / "both", m4a, count=6)
    make_vox1(tmp_path / "both", "dev/wav")
    main(Options(vox2=tmp_path / "both", data=tmp_path / "data", nj=1))
    folder = tmp_path / "data/train"
    assert {name[:7] for name in ids(folder)} == {"id00010", "id00011", "id00012"}
    for name in MANIFESTS:
        assert b'"speaker"' not in gzip.decompress((folder / f"{name}.jsonl.gz").read_bytes())


def test_of_two_formats_of_a_recording_the_one_that_needs_no_conversion_is_taken(tmp_path, m4a):
    make_vox2(tmp_path / "vox2", m4a, count=3)
    for path in list(tmp_path.glob("vox2/**/*.m4a")):
        write(path.with_suffix(".wav"))
    main(Options(vox2=tmp_path / "vox2", data=tmp_path / "data", nj=1))
    assert len(ids(tmp_path / "data/train")) == 3 and not (tmp_path / "data/train/audio").exists()


@pytest.mark.slow
def test_damaged_m4a_is_listed_and_too_many_of_them_are_an_error_that_keeps_the_conversions(tmp_path, m4a):
    make_vox2(tmp_path / "vox2", m4a)
    bad = sorted(tmp_path.glob("vox2/**/*.m4a"))
    bad[3].write_bytes(m4a[: len(m4a) // 2])
    main(Options(vox2=tmp_path / "vox2", data=tmp_path / "data", nj=1))
    rows = (tmp_path / "data/train/rejected.tsv").read_text().splitlines()
    assert len(rows) == 2 and rows[1].startswith(f"{bad[3]}\tunreadable")
    assert len(ids(tmp_path / "data/train")) == 23
    bad[4].write_bytes(b"")
    bad[5].write_bytes(os.urandom(1000))
    with pytest.raises(UserError, match="2 of 24 recordings cannot be read"):
        main(Options(vox2=tmp_path / "vox2", data=tmp_path / "new", nj=1))
    assert not (tmp_path / "new/train/cuts.jsonl.gz").exists()
    assert len(list((tmp_path / "new/train/audio").rglob("*.flac"))) == 21


def test_missing_lists_are_named_with_the_place_they_are_published_at(tmp_path, capsys):
    make_lists(tmp_path, names=LISTS[:2])
    assert set(find_lists(tmp_path)) == {"vox1_o", "vox1_o_original"}
    warning = capsys.readouterr().err
    assert "list_test_all2.txt, list_test_hard2.txt" in warning
    assert "robots.ox.ac.uk/~vgg/data/voxceleb" in warning
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="veri_test2.txt.*robots.ox.ac.uk"):
        find_lists(tmp_path / "none")


def test_trials_of_absent_recordings_are_left_out_and_counted(tmp_path, capsys):
    make_vox1(tmp_path / "vox1")
    make_lists(tmp_path / "lists", extra="1 id10999/aaaaaaaaaaa/00001.wav id10999/bbbbbbbbbbb/00001.wav\n")
    main(Options(vox1=tmp_path / "vox1", trials=tmp_path / "lists", data=tmp_path / "data", nj=1))
    assert len((tmp_path / "data/test/trials/vox1_h.txt").read_text().splitlines()) == 3
    assert "1 of 4 trials are left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10001\tA.J._Buckley\tm\tIreland\tdev\n",
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid10001 ,n000012 ,m ,dev \n",
    ],
)
def test_sexes_come_from_the_published_table_where_it_is_there(tmp_path, text):
    assert read_sexes(tmp_path) == {}
    (tmp_path / "vox1_meta.csv").write_text(text)
    assert read_sexes(tmp_path) == {"id10001": "m"}


def test_table_added_later_brings_the_column(tmp_path):
    make_vox1(tmp_path)
    make_lists(tmp_path)
    for expected in (["utterance", "speaker", "session"], ["utterance", "speaker", "sex", "session"]):
        main(Options(vox1=tmp_path, data=tmp_path / "data", nj=1))
        rows = [line.split("\t") for line in (tmp_path / "data/test/speakers.tsv").read_text().splitlines()]
        assert rows[0] == expected
        (tmp_path / "vox1_meta.csv").write_text("VoxCeleb1 ID\tGender\nid10001\tf\n")
    assert [row[2] for row in rows[1:]] == ["f", "f", "-", "-", "-", "-"]


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "give --vox2"),
        ({"vox2": "absent"}, "no such folder"),
        ({"vox2": "empty"}, "give the folder into which VoxCeleb2 dev was unpacked"),
        ({"vox2": "empty", "trials": "empty"}, "give --vox1, too"),
    ],
)
def test_wrong_folders_end_in_a_sentence(tmp_path, options, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        main(Options(**{name: tmp_path / value for name, value in options.items()}, data=tmp_path / "data"))
    assert not (tmp_path / "data").exists()
