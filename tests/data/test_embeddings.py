"""Embeddings on disk, and their extraction in batches of like length."""

import os
import time

import kaldiio
import numpy as np
import pytest
import soundfile
import torch

from cslib.config import Part, UserError
from cslib.data.batches import batches_by_length
from cslib.data.embeddings import EmbeddingWriter, merge_parts, part_path, read_embeddings
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.inference.extraction import audio_batches, extract


def write(out, ids, values, **options):
    with EmbeddingWriter(out, **options) as writer:
        writer.add(ids, values)


def random_embeddings(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(7, 5), (7, 2, 5)])
def test_what_is_written_is_read_back_in_the_order_of_the_ids(tmp_path, shape):
    values, ids = random_embeddings(*shape), ["utt10", "a", "b/1", "longer-name", "c", "é", "z"]
    write(tmp_path / "test.set", ids, values)
    read_ids, read = read_embeddings(tmp_path / "test.set.scp")
    assert read_ids == sorted(ids)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, values[[ids.index(name) for name in read_ids]])


@pytest.mark.parametrize("shape", [(6, 5), (6, 2, 5)])
def test_files_are_kaldis(tmp_path, shape):
    values, ids = random_embeddings(*shape), list("fedcba")
    write(tmp_path / "ours", ids, values)
    theirs = dict(kaldiio.load_scp(str(tmp_path / "ours.scp")))
    assert {name: theirs[name].tolist() for name in ids} == dict(zip(ids, values.tolist(), strict=True))
    kaldiio.save_ark(str(tmp_path / "k.ark"), dict(zip(ids, values, strict=True)), scp=str(tmp_path / "k.scp"))
    np.testing.assert_array_equal(read_embeddings(tmp_path / "k.scp")[1], values)


def test_formats_other_than_float32_are_read_through_kaldiio(tmp_path):
    values = random_embeddings(4, 5).astype(np.float64)
    kaldiio.save_ark(str(tmp_path / "k.ark"), dict(zip("abcd", values, strict=True)), scp=str(tmp_path / "k.scp"))
    np.testing.assert_allclose(read_embeddings(tmp_path / "k.scp")[1], values, rtol=1e-6)


def test_a_moved_folder_is_still_readable(tmp_path):
    write(tmp_path / "before" / "x", ["a", "b"], random_embeddings(2, 3))
    (tmp_path / "before").rename(tmp_path / "after")
    np.testing.assert_array_equal(read_embeddings(tmp_path / "after" / "x.scp")[1], random_embeddings(2, 3))


@pytest.mark.parametrize("cut", [1, 12, 20, 31])
def test_an_interrupted_writer_goes_on_after_its_last_whole_entry(tmp_path, cut):
    values, ids = random_embeddings(6, 5), list("abcdef")
    with pytest.raises(KeyboardInterrupt), EmbeddingWriter(tmp_path / "x") as writer:
        writer.add(ids[:3], values[:3])
        raise KeyboardInterrupt
    assert not (tmp_path / "x.scp").exists()
    unfinished = tmp_path / "x.unfinished"
    os.truncate(unfinished, unfinished.stat().st_size - cut)  # as a crash may leave it
    with EmbeddingWriter(tmp_path / "x", expected=6) as writer:
        assert writer.done == {"a", "b"}
        writer.add(ids[2:], values[2:])
    np.testing.assert_array_equal(read_embeddings(tmp_path / "x.scp")[1], values)
    assert not unfinished.exists()


def test_embeddings_of_an_older_checkpoint_are_thrown_away(tmp_path):
    with pytest.raises(KeyboardInterrupt), EmbeddingWriter(tmp_path / "x") as writer:
        writer.add(["a"], random_embeddings(1, 5))
        raise KeyboardInterrupt
    checkpoint = tmp_path / "final.pt"
    checkpoint.touch()
    os.utime(checkpoint, (time.time() + 10,) * 2)
    with EmbeddingWriter(tmp_path / "x", sources=[checkpoint]) as writer:
        assert writer.done == set()


def test_fewer_than_expected_is_an_error_and_keeps_what_there_is(tmp_path):
    with pytest.raises(UserError, match="2 embeddings of 3"):
        write(tmp_path / "x", ["a", "b"], random_embeddings(2, 5), expected=3)
    assert not (tmp_path / "x.scp").exists()
    with EmbeddingWriter(tmp_path / "x") as writer:
        assert writer.done == {"a", "b"}


def test_a_value_that_is_not_finite_names_its_utterance(tmp_path):
    values = random_embeddings(3, 5)
    values[1, 2] = np.nan
    with pytest.raises(UserError, match="^b: "):
        write(tmp_path / "x", ["a", "b", "c"], values)


def test_embeddings_of_different_sizes_are_refused(tmp_path):
    with EmbeddingWriter(tmp_path / "x") as writer:
        writer.add(["a"], random_embeddings(1, 5))
        writer.add(["b"], random_embeddings(1, 4))
    with pytest.raises(UserError, match="differ in shape"):
        read_embeddings(tmp_path / "x.scp")


@pytest.mark.parametrize("text, message", [("", "empty"), ("a x.ark\n", "line 1"), ("a gone.ark:3\n", "no such")])
def test_a_bad_list_is_refused(tmp_path, text, message):
    (tmp_path / "x.scp").write_text(text)
    with pytest.raises(UserError, match=message):
        read_embeddings(tmp_path / "x.scp")


def test_the_last_part_joins_all_of_them(tmp_path):
    values, ids, out = random_embeddings(6, 5), list("fbdace"), tmp_path / "x"
    for index in (1, 2, 3):
        assert not merge_parts(out, 3)
        chosen = Part(f"{index}/3").slice(6)
        write(part_path(out, Part(f"{index}/3")), ids[chosen], values[chosen])
    assert merge_parts(out, 3)
    read_ids, read = read_embeddings(tmp_path / "x.scp")
    assert read_ids == sorted(ids)
    np.testing.assert_array_equal(read, values[np.argsort(ids)])


def test_batches_hold_every_row_once_and_never_too_much_audio():
    lengths = np.random.default_rng(0).integers(1, 1000, size=200)
    lengths[7] = 5000  # longer than a batch
    batches = batches_by_length(lengths, 3000)
    assert sorted(np.concatenate(batches).tolist()) == list(range(200))
    assert batches[0].tolist() == [7]
    assert all(lengths[batch].max() * len(batch) <= 3000 for batch in batches[1:])
    assert len(batches) < 1.2 * lengths.sum() / 3000 + 2


@pytest.fixture
def utterances(tmp_path):
    """Five utterances of noise: 0.2, 1, 1.5, 2 and 3 seconds."""
    rng, entries = np.random.default_rng(0), []
    for name, seconds in zip("abcde", (1.5, 0.2, 3, 1, 2), strict=True):
        audio = rng.integers(-3000, 3000, int(16000 * seconds)).astype(np.int16)
        soundfile.write(tmp_path / f"{name}.flac", audio, 16000)
        entries.append(Entry(name, tmp_path / f"{name}.flac", len(audio)))
    write_set(tmp_path / "set", entries)
    return Utterances.open(tmp_path / "set")


def test_audio_is_padded_with_zeros_cut_in_the_middle_and_repeated_when_short(utterances):
    found = {}
    for ids, audio, lengths in audio_batches(utterances, np.arange(5), 4.0, 2.5, workers=0):
        for name, row, length in zip(ids, audio, lengths.tolist(), strict=True):
            assert (row[length:] == 0).all()
            found[name] = row[:length]
    whole = [utterances.read(row).astype(np.float32) / 32768 for row in range(5)]
    np.testing.assert_array_equal(found["a"], whole[0])
    np.testing.assert_array_equal(found["b"], np.resize(whole[1], 8000))
    np.testing.assert_array_equal(found["c"], whole[2][4000:44000])


def test_extraction_skips_what_is_done(utterances, tmp_path):
    seen = []

    def embed(audio, lengths):
        seen.extend(lengths.tolist())
        return torch.stack([audio.sum(1), lengths.float()], dim=1)

    with EmbeddingWriter(tmp_path / "x", expected=5) as writer:
        writer.add(["c"], random_embeddings(1, 2))
        seconds = extract(embed, utterances, np.arange(5), writer, "cpu", 4.0, 60.0, 0)
    assert sorted(seen) == [8000, 16000, 24000, 32000]
    assert seconds == 5.0
    ids, values = read_embeddings(tmp_path / "x.scp")
    assert ids == list("abcde") and values[3, 1] == 16000
