"""Pairs: all versions of an item cover the same part of a recording, and an item follows from its number."""

import pickle

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import default_collate

from cslib.config import UserError
from cslib.data.manifests import Entry, write_set
from cslib.data.pairs import Condition, PairedUtterances, read_conditions, whole_batches, write_conditions
from cslib.datasets.pairs import PairConfig, Pairs

FRAMES = 1600  # of a crop of 0.1 s
LENGTHS = [3000, 1600, 700, 2500, 4000]
OFFSETS = {"noisy": 0, "clean": 5000, "weak": 10000, "strong": 15000}  # what tells the versions of a sample apart


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five recordings: sample t of recording u has the value t + 100 u, and more in its other versions."""
    root = tmp_path_factory.mktemp("pairs")
    for version, offset in OFFSETS.items():
        (root / version).mkdir()
        entries = []
        for number, length in enumerate(LENGTHS):
            # Negatives are plain folders, of wav or of flac.
            path = root / version / (f"u{number}.wav" if version == "weak" else f"u{number}.flac")
            soundfile.write(path, np.arange(length, dtype=np.int16) + 100 * number + offset, 16000)
            entries.append(Entry(f"u{number}", path, length))
        if version in ("noisy", "clean"):
            write_set(root / version, entries)
    return root


def open_pairs(folder, *negatives):
    return PairedUtterances.open(folder, [folder / name for name in negatives])


def pairs(folder, *negatives, seed=3):
    return Pairs(open_pairs(folder, *negatives), PairConfig(crop_seconds=0.1), seed)


def equal(one, other):
    return one["ids"] == other["ids"] and all(np.array_equal(one[name], other[name]) for name in one if name != "ids")


def test_all_versions_of_an_item_cover_the_same_part_of_the_same_recording(folder):
    dataset = pairs(folder, "weak", "strong")
    starts = set()
    for index in range(40):
        item = dataset[index]
        assert (item["noisy"].shape, item["clean"].shape, item["negatives"].shape) == ((1600,), (1600,), (2, 1600))
        assert all(item[name].dtype == np.int16 for name in ("noisy", "clean", "negatives"))
        assert (item["clean"] - item["noisy"] == 5000).all()
        assert (item["negatives"] - item["noisy"] == [[10000], [15000]]).all()
        starts.add((item["ids"], int(item["noisy"][0]) - 100 * int(item["ids"][1])))
    assert len(starts) > 20  # three of five recordings are longer than a crop
    assert all(0 <= start <= max(0, LENGTHS[int(name[1])] - FRAMES) for name, start in starts)


def test_an_item_is_a_function_of_seed_and_index(folder):
    dataset, other = pairs(folder), pairs(folder)
    items = [dataset[index] for index in range(12)]
    assert all(equal(other[index], items[index]) for index in reversed(range(12)))
    assert not all(equal(pairs(folder, seed=4)[index], items[index]) for index in range(12))


def test_every_recording_comes_once_per_epoch_in_another_order(folder):
    dataset = pairs(folder)
    names = [dataset[index]["ids"] for index in range(50)]
    passes = [names[start : start + 5] for start in range(0, 50, 5)]
    assert all(sorted(each) == [f"u{number}" for number in range(5)] for each in passes)
    assert len({tuple(each) for each in passes}) > 5


def test_negatives_do_not_change_what_is_drawn(folder):
    with_them, without = pairs(folder, "strong"), pairs(folder)
    for index in range(10):
        item, other = with_them[index], without[index]
        assert item["ids"] == other["ids"] and np.array_equal(item["noisy"], other["noisy"])
        assert other["negatives"].shape == (0, FRAMES)


def test_a_short_recording_is_repeated_in_all_versions(folder):
    dataset = pairs(folder, "weak")
    item = next(item for item in map(dataset.__getitem__, range(5)) if item["ids"] == "u2")
    assert np.array_equal(item["noisy"], np.resize(np.arange(700) + 200, FRAMES))
    assert np.array_equal(item["negatives"][0], np.resize(np.arange(700) + 10200, FRAMES))


@pytest.mark.parametrize("negatives", [(), ("weak", "strong")])
def test_items_go_into_batches_and_to_other_processes(folder, negatives):
    dataset = pickle.loads(pickle.dumps(pairs(folder, *negatives)))
    batch = default_collate([dataset[index] for index in range(3)])
    assert batch["noisy"].shape == (3, FRAMES) and batch["negatives"].shape == (3, len(negatives), FRAMES)
    assert len(batch["ids"]) == 3 and equal(dataset[1], pairs(folder, *negatives)[1])


def test_whole_batches_hold_every_recording_once_longest_first(folder):
    batches = list(whole_batches(open_pairs(folder, "strong"), batch_seconds=8000 / 16000))
    assert [batch["ids"] for batch in batches] == [["u4", "u0"], ["u3", "u1", "u2"]]
    for batch in batches:
        assert batch["lengths"].tolist() == [LENGTHS[int(name[1])] for name in batch["ids"]]
        assert batch["noisy"].shape == (len(batch["ids"]), int(batch["lengths"].max()))
        for row, (name, length) in enumerate(zip(batch["ids"], batch["lengths"].tolist(), strict=True)):
            assert (batch["noisy"][row, :length] == torch.arange(length) + 100 * int(name[1])).all()
            assert (batch["clean"][row, :length] - batch["noisy"][row, :length] == 5000).all()
            assert (batch["negatives"][row, 0, :length] - batch["noisy"][row, :length] == 15000).all()
            assert not any(batch[side][row, ..., length:].any() for side in ("noisy", "clean", "negatives"))


def test_whole_batches_of_chosen_rows_by_a_process(folder):
    before = torch.get_rng_state()
    batches = list(whole_batches(open_pairs(folder), 1.0, rows=[2, 4], workers=1))
    assert [batch["ids"] for batch in batches] == [["u4", "u2"]]
    assert torch.equal(torch.get_rng_state(), before)  # validating does not change the training


def remade(folder, tmp_path, side, lengths):
    """The pairs with one side made anew, silent."""
    tmp_path.mkdir(exist_ok=True)
    entries = []
    for number, length in enumerate(lengths):
        path = tmp_path / f"{side}-u{number}.wav"
        soundfile.write(path, np.zeros(length, np.int16), 16000)
        entries.append(Entry(f"u{number}", path, length))
    write_set(tmp_path / "set" / side, entries)
    other = "clean" if side == "noisy" else "noisy"
    write_set(
        tmp_path / "set" / other,
        [Entry(f"u{number}", folder / other / f"u{number}.flac", length) for number, length in enumerate(LENGTHS)],
    )
    return tmp_path / "set"


def test_sides_that_differ_in_ids_or_lengths_are_refused_in_a_sentence_that_names_the_recording(folder, tmp_path):
    with pytest.raises(UserError, match=r"u4 is in clean and not in noisy; prepare the pairs again"):
        PairedUtterances.open(remade(folder, tmp_path / "a", "noisy", LENGTHS[:4]))
    with pytest.raises(UserError, match=r"u3 has 2,500 samples in noisy and 2,499 in clean"):
        PairedUtterances.open(remade(folder, tmp_path / "b", "clean", [3000, 1600, 700, 2499, 4000]))


def test_a_negative_that_is_missing_or_of_another_length_is_named(folder, tmp_path):
    for number, length in enumerate(LENGTHS[:4]):
        soundfile.write(tmp_path / f"u{number}.wav", np.zeros(length - (number == 3), np.int16), 16000)
    with pytest.raises(UserError, match=r"lacks 1 of 5 recordings, for one u4.wav"):
        PairedUtterances.open(folder, [tmp_path])
    soundfile.write(tmp_path / "u4.wav", np.zeros(4000, np.int16), 16000)
    utterances = PairedUtterances.open(folder, [tmp_path])
    with pytest.raises(UserError, match=r"u3.wav: 16000 Hz, 1 channels, 2,499 samples, but .* 2,500; enhance"):
        utterances.read(3, 0, 100)
    with pytest.raises(UserError, match="no such folder of enhanced recordings"):
        PairedUtterances.open(folder, [tmp_path / "none"])


def test_another_noise_of_the_same_length_is_another_digest(folder, tmp_path):
    other = PairedUtterances.open(remade(folder, tmp_path, "noisy", LENGTHS))
    assert other.num_samples.tolist() == LENGTHS and other.ids() == open_pairs(folder).ids()
    digests = {other.digest(), open_pairs(folder).digest(), open_pairs(folder, "weak").digest()}
    assert len(digests) == 3 and open_pairs(folder).digest() in digests


def test_conditions_come_back_as_written_and_unknown_ones_are_none(tmp_path):
    conditions = {"a": Condition(2.5, "bus"), "b": Condition(), "c": Condition(-5.0, None)}
    write_conditions(tmp_path, conditions)
    assert (tmp_path / "pairs.tsv").read_text() == "id\tsnr\tnoise\na\t2.5\tbus\nb\t-\t-\nc\t-5\t-\n"
    assert read_conditions(tmp_path) == conditions
    with pytest.raises(UserError, match="pairs.tsv: there is no such file"):
        read_conditions(tmp_path / "none")
    (tmp_path / "pairs.tsv").write_text("id\tsnr\tnoise\na\tloud\tbus\n")
    with pytest.raises(UserError, match="a line is not id, SNR and noise"):
        read_conditions(tmp_path)


def test_crops_of_no_length_are_refused():
    with pytest.raises(UserError, match="crop_seconds is 0; it must be"):
        PairConfig(crop_seconds=0)
