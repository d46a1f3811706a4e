"""Recordings of any kind and length through a network: names, lengths, seams, and going on after a kill."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch

from cslib.config import UserError, parse
from cslib.data.manifests import Entry, write_set
from cslib.data.pairs import EnhancedFolder
from cslib.data.utterances import Utterances
from cslib.inference.enhancement import Job, enhance_file
from cslib.models import mask_gru, resnet
from local import enhance
from tests.evaluation.speech import talk
from tests.tiny_run import ENVIRONMENT, ROOT

RATE = 16000


def save(path, module, section):
    """A final.pt as a training leaves it."""
    torch.manual_seed(0)
    network = module.build(module.Config(**section))
    path.parent.mkdir(parents=True, exist_ok=True)
    name = module.__name__.rpartition(".")[2]
    torch.save({"config": {"network": {"name": name, **section}}, "encoder": network.state_dict()}, path)
    return network.eval()


@pytest.fixture
def checkpoint(tmp_path):
    save(tmp_path / "run/final.pt", mask_gru, {"hidden": 4, "layers": 1, "window_seconds": 0.5})
    return tmp_path / "run/final.pt"


def network():
    torch.manual_seed(0)
    return mask_gru.build(mask_gru.Config(hidden=4, layers=1, window_seconds=0.5)).eval()


def record(path, seconds=0.4, rate=RATE, channels=1, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(0, 2000, (round(seconds * rate), channels)).astype(np.int16)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return samples[:, 0]


def call(checkpoint, source, out, *more):
    enhance.main(
        parse(
            enhance.Options,
            ["--checkpoint", str(checkpoint), "--in", str(source), "--out", str(out), "--device", "cpu", *more],
        )
    )
    return out


def test_names_tree_length_and_kind_are_kept_and_the_factor_is_printed(checkpoint, tmp_path, capsys):
    for name, seconds in (("a.wav", 0.3), ("sub/b.FLAC", 1.7), ("sub/deep/c d.wav", 0.00025)):
        record(tmp_path / "in" / name, seconds)
    (tmp_path / "in/notes.txt").write_text("x")
    out = call(checkpoint, tmp_path / "in", tmp_path / "out")
    made = {str(path.relative_to(out)): soundfile.info(path) for path in out.rglob("*.*") if path.suffix != ".json"}
    assert {name: info.frames for name, info in made.items()} == {
        "a.wav": 4800,
        "sub/b.FLAC": 27200,
        "sub/deep/c d.wav": 4,
    }
    assert all((info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16") for info in made.values())
    assert made["sub/b.FLAC"].format == "FLAC" and made["a.wav"].format == "WAV"
    printed = capsys.readouterr().out
    assert "3 of 3 recordings to enhance" in printed and "real-time factor 0." in printed and "16 kHz" not in printed


def test_what_comes_out_is_what_the_network_makes_of_the_whole_recording(checkpoint, tmp_path):
    samples = record(tmp_path / "in/a.wav", 2.3)  # five windows
    out = call(checkpoint, tmp_path / "in/a.wav", tmp_path / "out")
    whole = network().enhance(torch.from_numpy(samples / np.float32(32768))[None])[0].numpy()
    found = soundfile.read(out / "a.wav", dtype="int16")[0]
    np.testing.assert_allclose(found, whole * 32768, atol=1.0)
    assert np.abs(found).max() > 100


@pytest.mark.parametrize("pieces", [[23456], [100] * 234 + [56], [8000, 15456]])
def test_how_a_recording_comes_in_pieces_does_not_matter(pieces):
    audio, model = 0.1 * torch.randn(sum(pieces), generator=torch.Generator().manual_seed(1)), network()
    streamed = torch.cat(list(model.stream(audio.split(pieces), len(audio))))
    assert torch.equal(streamed, model.enhance(audio[None])[0])


def test_other_rates_and_channels_are_told_in_one_sentence(checkpoint, tmp_path, capsys):
    record(tmp_path / "in/a.wav", 0.5, rate=44100, channels=2)
    record(tmp_path / "in/b.wav", 0.5, rate=8000)
    record(tmp_path / "in/c.wav", 0.5)
    out = call(checkpoint, tmp_path / "in", tmp_path / "out")
    assert [soundfile.info(out / name).frames for name in ("a.wav", "b.wav", "c.wav")] == [8000] * 3
    assert "2 of 3 recordings, e.g. " in (printed := capsys.readouterr().out)
    assert printed.count("are not 16 kHz mono") == 1


def test_memory_does_not_grow_with_the_length(tmp_path):
    def peak(seconds):
        record(tmp_path / "a.wav", seconds)
        tracemalloc.start()
        held = []

        class Through(mask_gru.MaskGru):
            def forward(self, noisy, lengths=None):
                held.append(noisy.shape[1])
                return noisy

        model = Through(mask_gru.Config(hidden=1, layers=1)).eval()
        enhance_file(model, "cpu", Job(tmp_path / "a.wav", tmp_path / "out" / "a.wav"))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert max(held) == 160_000 and soundfile.info(tmp_path / "out/a.wav").frames == seconds * RATE
        return most

    assert peak(600) < 1.2 * peak(150)


def test_a_second_run_goes_on_and_another_network_is_refused(checkpoint, tmp_path, capsys):
    for name in "abc":
        record(tmp_path / f"in/{name}.wav")
    out = call(checkpoint, tmp_path / "in", tmp_path / "out")
    before = {path: path.read_bytes() for path in out.glob("*.wav")}
    (out / "b.wav").unlink()
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.wav")}
    capsys.readouterr()
    call(checkpoint, tmp_path / "in", out)
    assert "1 of 3 recordings to enhance" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in out.glob("*.wav")} == before
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    save(checkpoint, mask_gru, {"hidden": 5, "layers": 1})
    with pytest.raises(UserError, match="was made with another network"):
        call(checkpoint, tmp_path / "in", out)


def test_parts_are_the_whole(checkpoint, tmp_path):
    for name in "abc":
        record(tmp_path / f"in/{name}.wav")
    for part in ("1/2", "2/2"):
        call(checkpoint, tmp_path / "in", tmp_path / "out", "--part", part)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.wav")) == ["a.wav", "b.wav", "c.wav"]


def test_the_noisy_side_of_a_set_becomes_a_folder_of_negatives_and_a_set(checkpoint, tmp_path):
    entries = []
    for n, name in enumerate(("u1", "u2.b")):
        path = tmp_path / f"elsewhere/{n}.flac"
        samples = record(path, 0.3 + 0.1 * n)
        entries.append(Entry(name, path, len(samples)))
    write_set(tmp_path / "train/noisy", entries)
    out = call(checkpoint, tmp_path / "train/noisy", tmp_path / "negative/train")
    folder, made = EnhancedFolder.open(out, ["u1", "u2.b"]), Utterances.open(out)
    assert made.ids() == ["u1", "u2.b"] and made.num_samples.tolist() == [4800, 6400]
    np.testing.assert_array_equal(folder.read("u2.b", 6400, 0, 6400), made.read(1))
    assert made.read(1).any()


def test_mistakes_are_one_sentence(checkpoint, tmp_path):
    record(tmp_path / "in/a.wav")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.wav").write_bytes(b"RIFF nothing")
    (tmp_path / "cut").mkdir()
    record(tmp_path / "cut/a.flac", 2.0)
    (tmp_path / "cut/a.flac").write_bytes((tmp_path / "cut/a.flac").read_bytes()[:20000])
    save(tmp_path / "speaker.pt", resnet, {"channels": [2, 2, 2, 2], "blocks": [1, 1, 1, 1], "embedding_size": 4})
    for given, source, out, told in (
        (checkpoint, "none", "out", "none: no such file or folder"),
        (checkpoint, "empty", "out", "empty: has no wav or flac file"),
        (checkpoint, "in", "in/enhanced", "lies in the folder to enhance"),
        (checkpoint, "in/a.wav", "in", "the recording to enhance; choose another --out"),
        (checkpoint, "bad", "out1", "a.wav: cannot be read"),
        (checkpoint, "cut", "out2", "a.flac: cannot be read"),
        (tmp_path / "none.pt", "in", "out", "none.pt: there is no such checkpoint"),
        (tmp_path / "speaker.pt", "in", "out", "ResNet, enhances nothing"),
    ):
        with pytest.raises(UserError) as error:
            call(given, tmp_path / source, tmp_path / out)
        assert told in str(error.value) and "\n" not in str(error.value)
        assert not list(tmp_path.glob("out*/*.wav")) and not list(tmp_path.glob("out*/.writing*"))


def test_the_option_is_called_in(checkpoint, tmp_path):
    done = subprocess.run(
        [sys.executable, "local/enhance.py", "--help"], cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True
    )
    assert "--in IN" in done.stdout and "--in_" not in done.stdout
    with pytest.raises(UserError, match="--in and --out: give both"):
        enhance.main(parse(enhance.Options, ["--checkpoint", "a", "--out", "b"]))


def test_without_recordings_it_is_seen_whether_the_network_opens(checkpoint, tmp_path, capsys):
    enhance.main(enhance.Options(checkpoint))
    assert "an enhancement network" in capsys.readouterr().out
    (tmp_path / "text.pt").write_text("x")
    with pytest.raises(UserError, match="not a checkpoint"):
        enhance.main(enhance.Options(tmp_path / "text.pt"))


def test_whole_numbers_that_became_floats_are_refused(checkpoint, tmp_path):
    soundfile.write(tmp_path / "loud.wav", (9000 * talk(0)).astype(np.float32), 16000, "FLOAT")
    with pytest.raises(UserError, match=r"loud.wav: cannot be read \(reaches .* times full scale"):
        enhance.main(enhance.Options(checkpoint, tmp_path / "loud.wav", tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.wav"))
