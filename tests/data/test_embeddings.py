"""Embeddings on disk, and their extraction in batches of like length."""

import os
import pickle
import time

import kaldiio
import numpy as np
import pytest
import soundfile
import torch

from cslib.config import Part, UserError
from cslib.data.batches import batches_by_length
from cslib.data.embeddings import (
    EmbeddingWriter,
    Origin,
    is_complete,
    merge_parts,
    objection,
    part_path,
    read_embeddings,
)
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
    with EmbeddingWriter(tmp_path / "x", Origin([checkpoint])) as writer:
        assert writer.done == set()


def test_fewer_than_expected_is_an_error_and_keeps_what_there_is(tmp_path):
    with pytest.raises(UserError, match="2 of 3 embeddings"):
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
        assert not merge_parts(out, 3, Origin())
        chosen = Part(f"{index}/3").slice(6)
        write(part_path(out, Part(f"{index}/3")), ids[chosen], values[chosen])
    assert merge_parts(out, 3, Origin())
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


def test_embeddings_are_current_while_their_sources_and_options_are_the_same(tmp_path):
    (tmp_path / "final.pt").write_text("weights")
    out, origin = tmp_path / "x", Origin([tmp_path / "final.pt"], {"streams": "all"}, {"streams": "dominant"})
    assert objection(out, origin) == "it does not exist"
    write(out, ["a", "b"], random_embeddings(2, 5), origin=origin)
    os.utime(tmp_path / "final.pt", (time.time() + 10,) * 2)  # newer, but of the same content
    assert is_complete(out, Origin(origin.sources, {"streams": "all"}))
    assert "other options (streams)" in objection(out, Origin(origin.sources, {"streams": "dominant"}))
    (tmp_path / "x.json").write_text("{")
    assert "damaged" in objection(out, origin)
    origin.write(tmp_path / "x.json")
    (tmp_path / "final.pt").write_text("others")
    assert "has changed" in objection(out, Origin(origin.sources, {"streams": "all"}))


def test_files_of_earlier_versions_without_a_note_count_as_made_with_the_defaults(tmp_path):
    (tmp_path / "final.pt").write_text("weights")
    write(tmp_path / "x", ["a", "b"], random_embeddings(2, 5))
    for value, told in ((60.0, None), (30.0, "perhaps with other options")):
        found = objection(tmp_path / "x", Origin([tmp_path / "final.pt"], {"seconds": value}, {"seconds": 60.0}))
        assert found == told or told in found
    os.utime(tmp_path / "final.pt", (time.time() + 10,) * 2)
    assert "older" in objection(tmp_path / "x", Origin([tmp_path / "final.pt"]))


def test_what_was_interrupted_with_other_options_begins_anew(tmp_path):
    values = random_embeddings(3, 5)
    one, other = (Origin([], {"streams": streams}, {"streams": "dominant"}) for streams in ("dominant", "all"))
    for origin, left in ((one, set()), (one, {"a"}), (other, set()), (one, set())):
        with pytest.raises(KeyboardInterrupt), EmbeddingWriter(tmp_path / "x", origin) as writer:
            assert writer.done == left
            writer.add(["a"], values[:1]) if not left else None
            raise KeyboardInterrupt


def test_parts_of_another_origin_are_not_joined(tmp_path):
    values, out = random_embeddings(2, 5), tmp_path / "x"
    one, other = (Origin([], {"streams": streams}) for streams in ("dominant", "all"))
    write(part_path(out, Part("1/2")), ["a"], values[:1], origin=one)
    write(part_path(out, Part("2/2")), ["b"], values[1:], origin=other)
    assert not merge_parts(out, 2, one) and not merge_parts(out, 2, other)
    write(part_path(out, Part("2/2")), ["b"], values[1:], origin=one)
    assert merge_parts(out, 2, one) and is_complete(out, one) and not is_complete(out, other)


def damage(data, rng, text):
    """One byte changed, a few missing or doubled, or the end cut off."""
    at, kind = int(rng.integers(len(data))), rng.integers(4)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + data[at + 1 + int(rng.integers(4)) :]
    if kind == 2:
        return data[:at] + data[at : at + 1 + int(rng.integers(4))] + data[at:]
    new = rng.choice(list(b" \n:0123456789\xff\x00ab/.")) if text else rng.integers(256)
    return data[:at] + bytes([int(new)]) + data[at + 1 :]


def write_as(kind, folder):
    """x.ark and x.scp of eight embeddings, in a format."""
    values = random_embeddings(8, 2, 5) if "matrices" in kind else random_embeddings(8, 5)
    entries = dict(zip("abcdefgh", values, strict=True))
    if "float32" in kind:
        write(folder / "x", list(entries), values)
        return
    how = {"compressed": {"compression_method": 2}, "text": {"text": True}}.get(kind.split()[0], {})
    if "float64" in kind:
        entries = {name: value.astype(np.float64) for name, value in entries.items()}
    kaldiio.save_ark(str(folder / "x.ark"), entries, scp=str(folder / "x.scp"), **how)


KINDS = ["float32", "float32 matrices", "float64", "float64 matrices", "compressed matrices", "text", "text matrices"]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_one_sentence_or_still_readable(tmp_path, kind):
    """Of 400 damaged copies of each, ark and scp in turn; bytes of a value cannot be told from those of another."""
    write_as(kind, tmp_path)
    ids, values = read_embeddings(tmp_path / "x.scp")
    rng, refused = np.random.default_rng(1), 0
    for number in range(400):
        file = tmp_path / ("x.scp" if number % 2 else "x.ark")
        good = file.read_bytes()
        file.write_bytes(damage(good, rng, text=number % 2 or "text" in kind))
        try:
            found_ids, found = read_embeddings(tmp_path / "x.scp")
            assert found.dtype == np.float32 and found.ndim == values.ndim and len(found) == len(found_ids)
            assert number % 2 or found_ids == ids
        except UserError as error:
            refused += 1
            assert str(error).startswith(str(tmp_path)) and "extract the embeddings again" in str(error)
            assert "\n" not in str(error)
        file.write_bytes(good)
    assert refused > 100
    np.testing.assert_array_equal(read_embeddings(tmp_path / "x.scp")[1], values)


@pytest.mark.parametrize("shape", [(8, 5), (8, 2, 5)])
def test_a_damaged_unfinished_file_is_read_as_far_as_it_is_whole(tmp_path, shape):
    values, ids = random_embeddings(*shape), list("abcdefgh")
    with pytest.raises(KeyboardInterrupt), EmbeddingWriter(tmp_path / "x") as writer:
        writer.add(ids, values)
        raise KeyboardInterrupt
    good, rng = (tmp_path / "x.unfinished").read_bytes(), np.random.default_rng(2)
    for _ in range(200):
        (tmp_path / "x.unfinished").write_bytes(damage(good, rng, text=False))
        with pytest.raises(KeyboardInterrupt), EmbeddingWriter(tmp_path / "x") as writer:
            assert len(writer.done) <= 9
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "text, message",
    [
        (b"a x.ark:99999999999999999999999\n", "line 1 is not"),
        (b"a x.ark:\xc2\xb2\n", "line 1 is not"),
        (b"a x.ark:2\n x.ark:2\n", "line 2 is not"),
        (b"a \xff:2\n", "not UTF-8"),
        (b"a x.ark:500\n", "no embedding begins at byte 500"),
        (b"a " + b"y" * 5000 + b":2\n", "no such file"),
        (b"a nul\0.ark:2\n", "no such file"),
    ],
)
def test_what_is_wrong_with_a_list_is_told(tmp_path, text, message):
    write(tmp_path / "x", ["a"], random_embeddings(1, 5))
    (tmp_path / "x.scp").write_bytes(text)
    with pytest.raises(UserError, match=message):
        read_embeddings(tmp_path / "x.scp")


def test_an_ark_that_would_run_code_is_refused(tmp_path):
    """kaldiio unpickles entries that begin with PKL."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "x.ark").write_bytes(b"a PKL" + pickle.dumps(Evil()))
    (tmp_path / "x.scp").write_text(f"a {tmp_path}/x.ark:2\n")
    with pytest.raises(UserError, match="no embedding begins at byte 2"):
        read_embeddings(tmp_path / "x.scp")
    assert not (tmp_path / "ran").exists()


def test_an_empty_or_foreign_ark_is_refused(tmp_path):
    (tmp_path / "x.scp").write_text(f"a {tmp_path}/x.ark:2\n")
    for content, message in ((b"", "empty"), (b"a \0BFV \x04\0\0\0\0", "cannot be read|vector or a matrix")):
        (tmp_path / "x.ark").write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_embeddings(tmp_path / "x.scp")
    (tmp_path / "x.scp").unlink()
    (tmp_path / "x.scp").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_embeddings(tmp_path / "x.scp")
