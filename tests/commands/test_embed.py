"""Recordings to a file of embeddings."""

from pathlib import Path

import numpy as np
import pytest

from cslib.commands import embed
from cslib.config import UserError
from cslib.data.embeddings import read_embeddings
from cslib.inference import shipped
from cslib.inference.recordings import RecordingConfig, embed_recording
from tests.commands.tiny import call, noise, record, save


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkpoint and three recordings; the third is silent."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "run/checkpoints/final.pt", "resnet")
    record(tmp_path / "a.wav", noise(1.5, seed=1))
    record(tmp_path / "sub/b c.flac", noise(2.0, seed=2, rate=8000, channels=2), 8000)
    record(tmp_path / "silent.wav", noise(1.5, level=0))
    return tmp_path


def run(*words):
    call(embed, *words, "--checkpoint", "run/checkpoints/final.pt", "--device", "cpu")


def expected(folder, name):
    network = save(folder / "again.pt", "resnet")
    return embed_recording(network, folder / name, RecordingConfig()).vector


def test_npz_holds_a_vector_under_each_name_as_given(folder, capsys):
    run("a.wav", "sub/b c.flac", "--out", "out/x.npz")
    found = np.load("out/x.npz")
    assert set(found) == {"a.wav", "sub/b c.flac"}
    for name in found:
        np.testing.assert_allclose(found[name], expected(folder, name), atol=1e-6)
    printed = capsys.readouterr().out
    assert "a.wav: 1.5 s, 1.5 s of speech, embedding of size 8\nsub/b c.flac: 2.0 s, " in printed
    assert "out/x.npz: 2 embeddings" in printed


def test_ark_has_a_list_beside_it(folder):
    (folder / "x.unfinished").write_bytes(b"what a killed run left")
    run("sub/b c.flac", "a.wav", "--out", "x.ark")
    ids, values = read_embeddings(folder / "x.scp")
    assert ids == ["a.wav", "sub/b_c.flac"]
    np.testing.assert_allclose(values[0], expected(folder, "a.wav"), atol=1e-6)
    assert not (folder / "x.unfinished").exists()


def test_a_recording_that_will_not_do_does_not_stop_the_others(folder, capsys):
    with pytest.raises(UserError, match="2 of 3 recordings have no embedding, see above"):
        run("silent.wav", "a.wav", "none.wav", "--out", "x.npz")
    assert list(np.load("x.npz")) == ["a.wav"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("silent.wav: 1.5 s of silence") and printed[2].startswith("none.wav: no such file")


def test_nothing_is_written_unless_asked_for_or_when_nothing_came_out(folder, capsys):
    before = sorted(folder.rglob("*"))
    run("a.wav")
    assert "nothing was written; add --out embeddings.npz" in capsys.readouterr().out
    with pytest.raises(UserError, match="1 of 1 recordings"):
        run("silent.wav", "--out", "x.npz")
    assert sorted(folder.rglob("*")) == before


def test_windows_and_least_speech_can_be_chosen(folder, capsys):
    run("a.wav", "--window-seconds", "1")
    assert "1.5 s of speech, 2 windows" in capsys.readouterr().out
    with pytest.raises(UserError):
        run("a.wav", "--min-speech=2")


def test_mistakes_are_told_before_anything_is_embedded(folder, capsys):
    save(folder / "enhancer.pt", "mask_gru")
    for words, told in (
        (["a.wav", "--out", "x.txt"], "it must end in .npz or .ark"),
        (["a.wav", "a.wav"], "named twice"),
        (["a.wav", "--checkpoint", "enhancer.pt"], "MaskGru, makes no embeddings"),
    ):
        with pytest.raises(UserError, match=told):
            call(embed, "--device", "cpu", "--checkpoint", "run/checkpoints/final.pt", *words)
    assert capsys.readouterr().out == ""


def test_names_that_become_the_same_are_refused(folder, capsys):
    for name in ("x y.wav", "x_y.wav"):
        record(folder / name, noise(1.2))
    with pytest.raises(UserError, match="differ only in white space"):
        run("x y.wav", "x_y.wav", "--out", "x.ark")
    assert not (folder / "x.scp").exists() and not capsys.readouterr().out


def test_a_recording_may_be_called_like_an_argument_of_numpy(folder):
    record(folder / "a.wav", noise(1.2)).rename(folder / "file")
    run("file", "--out", "x.npz")
    np.testing.assert_allclose(np.load("x.npz")["file"], expected(folder, "file"), atol=1e-6)


def test_what_could_not_be_written_is_told_before_anything_is_embedded(folder, capsys):
    (folder / "taken.npz").mkdir()
    (folder / "taken.scp").mkdir()
    for words, told in (
        (["a.wav", "--out", "taken.npz"], "taken.npz: is a folder"),
        (["a.wav", "--out", "taken.ark"], "taken.scp: is a folder"),
        (["a.wav", "--out", "a.wav/x.npz"], "a.wav is not a folder you may write to"),
        ([b"\xff.wav".decode("utf-8", "surrogateescape")], "not valid UTF-8"),
    ):
        with pytest.raises(UserError, match=told):
            embed.main(
                embed.Options(
                    files=list(map(Path, words[:1])),
                    checkpoint=Path("run/checkpoints/final.pt"),
                    out=Path(words[2]) if words[1:] else None,
                    device="cpu",
                )
            )
    assert capsys.readouterr().out == ""


def test_the_network_that_comes_with_the_project_needs_no_checkpoint(folder, capsys, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", folder / "models")
    with pytest.raises(
        UserError, match="models/speaker.pt: the network that comes with the project is missing"
    ) as error:
        call(embed, "a.wav", "--out", "x.npz", "--device", "cpu")
    assert "\n" not in str(error.value) and not capsys.readouterr().out
    shipped.copy_network(folder / "run/checkpoints/final.pt", folder / "models/speaker.pt")
    call(embed, "a.wav", "--out", "x.npz", "--device", "cpu")
    np.testing.assert_allclose(np.load("x.npz")["a.wav"], expected(folder, "a.wav"), atol=1e-6)
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "network: models/speaker.pt, which comes with the project; --checkpoint selects another"
