"""From audio to embeddings on disk, with a network and without one."""

import os
import time

import numpy as np
import pytest
import soundfile
import torch

from cslib import checkpoints
from cslib.config import UserError, parse
from cslib.data.embeddings import read_embeddings
from cslib.data.manifests import Entry, write_set
from cslib.models import resnet
from cslib.models.layers.features import LogMel
from local import extract_embeddings, extract_floor
from tests.commands.tiny import save

NETWORK = {"num_mels": 24, "channels": [4, 6], "blocks": [1, 1], "stem_stride": 2, "embedding_size": 8}


@pytest.fixture
def folder(tmp_path):
    """A set of ten utterances of noise, each coloured otherwise, and a checkpoint of an untrained network."""
    rng, entries = np.random.default_rng(0), []
    for index in range(10):
        audio = np.convolve(rng.normal(0, 1000, 9000 + 500 * index), rng.random(8), "same").astype(np.int16)
        soundfile.write(tmp_path / f"u{index}.wav", audio, 16000)
        entries.append(Entry(f"u{index}", tmp_path / f"u{index}.wav", len(audio)))
    write_set(tmp_path / "set", entries)
    save_checkpoint(tmp_path / "final.pt", seed=0)
    return tmp_path


def save_checkpoint(path, seed):
    torch.manual_seed(seed)
    network = resnet.build(resnet.Config(**NETWORK))
    config = {"network": {"name": "resnet", **NETWORK}}
    checkpoints.save(path, {"config": config, "encoder": checkpoints.encoder_state(network)})


def extract(folder, out, *more):
    words = ["--checkpoint", folder / "final.pt", "--cuts", folder / "set", "--out", folder / out, *more]
    extract_embeddings.main(parse(extract_embeddings.Options, [*map(str, words), "--workers", "0"]))
    return folder / f"{out}.scp"


def test_every_utterance_gets_its_own_embedding(folder, capsys):
    ids, values = read_embeddings(extract(folder, "x"))
    assert ids == [f"u{index}" for index in range(10)]
    encoder = checkpoints.load_encoder(folder / "final.pt")
    audio = soundfile.read(folder / "u3.wav", dtype="float32")[0]
    with torch.inference_mode():
        expected = encoder.embed(torch.from_numpy(audio)[None])[0]
    np.testing.assert_allclose(values[3], expected, atol=1e-5)
    assert "10 of 10 utterances" in capsys.readouterr().out


def test_batch_size_does_not_change_the_embeddings(folder):
    _, one = read_embeddings(extract(folder, "one", "--batch-seconds", "0.1"))
    _, many = read_embeddings(extract(folder, "many", "--batch-seconds", "100"))
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_a_second_run_does_nothing_until_the_checkpoint_changes(folder, capsys):
    _, before = read_embeddings(extract(folder, "x"))
    extract(folder, "x")
    assert "nothing to do" in capsys.readouterr().out
    save_checkpoint(folder / "final.pt", seed=1)
    os.utime(folder / "final.pt", (time.time() + 10,) * 2)
    _, after = read_embeddings(extract(folder, "x"))
    assert not np.allclose(before, after)


def test_parts_in_any_order_make_the_whole(folder):
    _, whole = read_embeddings(extract(folder, "whole"))
    for index in (3, 1, 2):
        scp = extract(folder, "x", "--part", f"{index}/3")
    ids, joined = read_embeddings(scp)
    assert ids == [f"u{index}" for index in range(10)]
    np.testing.assert_allclose(joined, whole, atol=1e-5)


@pytest.mark.parametrize("streams, message", [("all", "one embedding"), ("both", "must be dominant or all")])
def test_streams_that_a_network_does_not_have_are_refused(folder, streams, message):
    with pytest.raises(UserError, match=message):
        extract(folder, "x", "--streams", streams)
    assert not (folder / "x.scp").exists()


def test_an_unreadable_file_leaves_no_list_behind(folder):
    (folder / "u4.wav").write_bytes(b"not audio")
    with pytest.raises(UserError, match="u4.wav"):
        extract(folder, "x")
    assert not (folder / "x.scp").exists()


def floor(folder, out="floor/test"):
    words = ["--train", folder / "set", "--cuts", folder / "set", "--out", folder / out, "--num-mels", "3"]
    extract_floor.main(parse(extract_floor.Options, [*map(str, words), "--workers", "0"]))
    return folder / f"{out}.scp"


def test_floor_is_white_on_its_training_set(folder, monkeypatch):
    monkeypatch.setattr(extract_floor, "VARIANCE_FLOOR", 0.0)
    ids, values = read_embeddings(floor(folder))
    assert ids == [f"u{index}" for index in range(10)]
    np.testing.assert_allclose(values.mean(0), np.zeros(6), atol=1e-3)
    np.testing.assert_allclose(values.T @ values / 10, np.eye(6), atol=2e-2)


def test_floor_does_not_blow_up_directions_of_little_variance(folder):
    _, values = read_embeddings(floor(folder))
    assert values.var(0).max() == pytest.approx(1, abs=1e-2)
    assert values.var(0).min() < 0.9


def test_floor_without_a_training_set_is_the_statistics_themselves(folder, capsys):
    words = ["--cuts", folder / "set", "--out", folder / "plain", "--num-mels", "3", "--workers", "0"]
    for _ in range(2):
        extract_floor.main(parse(extract_floor.Options, list(map(str, words))))
    assert "nothing to do" in capsys.readouterr().out and not (folder / "whitening.npz").exists()
    _, values = read_embeddings(folder / "plain.scp")
    for index in range(10):
        audio = torch.from_numpy(soundfile.read(folder / f"u{index}.wav", dtype="float32")[0])
        frames = LogMel(3)(audio[None])[0]
        np.testing.assert_allclose(values[index, :3], frames.mean(0), rtol=1e-4)
        np.testing.assert_allclose(values[index, 3:], frames.std(0, unbiased=False), rtol=1e-2)


def test_floor_runs_once(folder, capsys):
    floor(folder)
    floor(folder)
    assert "nothing to do" in capsys.readouterr().out


def test_other_options_make_new_embeddings(folder, capsys):
    """--max-seconds and --streams shape them; the options that change only speed do not."""
    _, whole = read_embeddings(extract(folder, "x"))
    _, short = read_embeddings(extract(folder, "x", "--max-seconds", "0.5"))
    assert "x: extracted again, as it was made with other options (max_seconds)" in capsys.readouterr().out
    assert not np.allclose(whole, short)
    extract(folder, "x", "--max-seconds", "0.5", "--batch-seconds", "3", "--device", "cpu")
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="one embedding"):  # so they were not taken for current
        extract(folder, "x", "--max-seconds", "0.5", "--streams", "all")


def test_all_streams_after_the_dominant_one(folder, capsys):
    save(folder / "final.pt", "galr")
    _, one = read_embeddings(extract(folder, "x"))
    _, streams = read_embeddings(extract(folder, "x", "--streams", "all"))
    assert streams.ndim == one.ndim + 1
    _, again = read_embeddings(extract(folder, "x"))
    np.testing.assert_array_equal(again, one)


def test_parts_are_made_anew_with_other_options(folder, capsys):
    for index in (1, 2):
        extract(folder, "x", "--part", f"{index}/2")
    _, short = read_embeddings(extract(folder, "whole", "--max-seconds", "0.5"))
    capsys.readouterr()
    for index in (1, 2):
        scp = extract(folder, "x", "--part", f"{index}/2", "--max-seconds", "0.5")
    told = capsys.readouterr().out
    assert told.count("extracted again") == 2 and told.count("joined from 2 parts") == 1
    np.testing.assert_allclose(read_embeddings(scp)[1], short, atol=1e-5)
    extract(folder, "x", "--part", "1/2", "--max-seconds", "0.5")
    assert "nothing to do" in capsys.readouterr().out


def test_a_checkpoint_that_is_gone_is_one_sentence(folder):
    extract(folder, "x")
    (folder / "final.pt").unlink()
    for _ in range(2):
        with pytest.raises(UserError, match="final.pt"):
            extract(folder, "x")
        (folder / "x.json").unlink(missing_ok=True)


def test_embeddings_of_earlier_versions_count_as_made_with_the_defaults(folder, capsys):
    extract(folder, "x")
    (folder / "x.json").unlink()
    extract(folder, "x")
    assert "nothing to do" in capsys.readouterr().out
    extract(folder, "x", "--max-seconds", "0.5")
    assert "an earlier version made it, perhaps with other options" in capsys.readouterr().out


def test_floor_is_made_anew_with_other_options(folder, capsys):
    _, before = read_embeddings(floor(folder))
    words = ["--train", folder / "set", "--cuts", folder / "set", "--out", folder / "floor/test", "--workers", "0"]
    extract_floor.main(parse(extract_floor.Options, [*map(str, words), "--num-mels", "4"]))
    _, after = read_embeddings(folder / "floor/test.scp")
    assert (before.shape[1], after.shape[1]) == (6, 8)
    extract_floor.main(parse(extract_floor.Options, [*map(str, words), "--num-mels", "4", "--max-seconds", "0.5"]))
    _, short = read_embeddings(folder / "floor/test.scp")
    assert not np.allclose(after, short)
    extract_floor.main(parse(extract_floor.Options, [*map(str, words[2:]), "--num-mels", "4", "--max-seconds", "0.5"]))
    _, plain = read_embeddings(folder / "floor/test.scp")
    assert not np.allclose(plain, short)


def test_floor_leaves_no_file_open(folder, monkeypatch):
    opened, load = [], np.load
    monkeypatch.setattr(np, "load", lambda *words, **how: opened.append(load(*words, **how)) or opened[-1])
    floor(folder)
    archives = [one for one in opened if isinstance(one, np.lib.npyio.NpzFile)]
    assert archives and all(archive.zip is None for archive in archives)


def test_a_damaged_whitening_is_one_sentence(folder):
    floor(folder)
    good = (folder / "floor/whitening.npz").read_bytes()
    for content in (b"", b"nothing", good[:200]):
        (folder / "floor/whitening.npz").write_bytes(content)
        with pytest.raises(UserError, match="whitening.npz: damaged"):
            floor(folder)


def test_replaced_recordings_of_the_same_length_are_extracted_again(folder, capsys):
    _, before = read_embeddings(extract(folder, "x"))
    floor = ["--train", folder / "set", "--cuts", folder / "set", "--out", folder / "floor" / "set", "--workers", "0"]
    extract_floor.main(parse(extract_floor.Options, list(map(str, floor))))
    audio = soundfile.read(folder / "u3.wav", dtype="int16")[0]
    soundfile.write(folder / "u3.wav", audio[::-1].copy(), 16000)
    capsys.readouterr()
    _, after = read_embeddings(extract(folder, "x"))
    assert "recordings of the set were replaced" in capsys.readouterr().out
    assert [index for index in range(10) if not np.allclose(before[index], after[index])] == [3]
    extract_floor.main(parse(extract_floor.Options, list(map(str, floor))))
    assert "recordings of the set were replaced" in capsys.readouterr().out
