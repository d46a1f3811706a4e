"""Files and folders to enhanced ones; what happens to a single recording is tested in tests/local/test_enhance.py."""

import pytest
import soundfile

from cslib.commands import enhance
from cslib.config import UserError
from tests.commands.tiny import RATE, call, noise, record, save


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "final.pt", "mask_gru")
    return tmp_path


def run(*words):
    call(enhance, *words, "--checkpoint", "final.pt", "--out", "out", "--device", "cpu")


def test_files_and_folders_of_any_kind_go_into_one_folder(folder, capsys):
    record(folder / "one/a.wav", noise(0.3))
    record(folder / "two/b.flac", noise(0.3))
    record(folder / "two/sub/c.ogg", noise(0.5, rate=44100, channels=2), 44100)
    run("one/a.wav", "two")
    made = {
        str(path.relative_to(folder / "out")): soundfile.info(path)
        for path in (folder / "out").rglob("*.*")
        if path.suffix != ".json"
    }
    assert {name: (info.format, info.frames) for name, info in made.items()} == {
        "a.wav": ("WAV", 4800),
        "b.flac": ("FLAC", 4800),
        "sub/c.wav": ("WAV", RATE // 2),
    }
    printed = capsys.readouterr().out
    assert "3 of 3 recordings to enhance" in printed and "real-time factor" in printed
    run("one/a.wav", "two")
    assert "0 of 3 recordings to enhance" in capsys.readouterr().out


def test_recordings_of_one_name_are_not_written_over_each_other(folder):
    for place in ("one/a.wav", "two/a.wav", "two/a.ogg"):
        record(folder / place, noise(0.3))
    for words in (["one", "two/a.wav"], ["two"]):
        with pytest.raises(UserError, match=r"would be written to out/a.wav, as .*another --out"):
            run(*words)
    with pytest.raises(UserError, match="a.wav: named twice; name it once"):
        run("one/a.wav", "one")
    assert not (folder / "out").exists()


def test_speaker_encoders_enhance_nothing(folder):
    save(folder / "final.pt", "resnet")
    record(folder / "a.wav", noise(0.3))
    with pytest.raises(UserError, match="ResNet, enhances nothing"):
        run("a.wav")


def test_what_is_no_recording_is_told(folder):
    (folder / "a.txt").write_text("x")
    with pytest.raises(UserError, match="a.txt: has no flac, mp3, ogg, opus or wav file"):
        run("a.txt")
