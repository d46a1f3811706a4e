"""Multi-crop views: reproducible item by item, from anywhere in the utterance, each augmented by itself."""

import numpy as np
import pytest
import soundfile
from torch.utils.data import default_collate

from cslib.config import UserError
from cslib.data.banks import Banks, BankWriter, open_banks
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import CHANNEL_TAPS, AugmentConfig
from cslib.datasets.views import ViewConfig, Views, read_crops, read_voiced_crops

LENGTHS = [20000, 20000, 20000, 3000, 9000, 20000]  # of which crops of 8,000 and 4,000 are taken
LABELS = np.array([0, 0, 0, 1, -1, 1])


@pytest.fixture
def utterances(tmp_path):
    """Sample n of utterance i has the value n modulo 4000, plus 4000 i: each sample tells whence it comes."""
    entries = []
    for index, length in enumerate(LENGTHS):
        audio = (np.arange(length) % 4000 + 4000 * index).astype(np.int16)
        soundfile.write(tmp_path / f"u{index}.flac", audio, 16000)
        entries.append(Entry(f"u{index}", tmp_path / f"u{index}.flac", length))
    write_set(tmp_path / "set", entries)
    return Utterances.open(tmp_path / "set")


@pytest.fixture
def banks(tmp_path):
    for kind, dtype in (("noise", np.int16), ("rirs", np.float32)):
        with BankWriter(tmp_path / "banks" / kind, dtype) as writer:
            for n in range(5):
                writer.add(np.random.default_rng(n).normal(0, 100, 12000 if kind == "noise" else 400).astype(dtype))
    return open_banks(tmp_path / "banks")


def views(utterances, banks=None, seed=0, labels=None, **config):
    config = {"global_seconds": 0.5, "local_seconds": 0.25, **config}
    return Views(utterances, banks or Banks(), ViewConfig(**config), AugmentConfig(channel_p=0.5), seed, labels)


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def owners(crops):
    """Which utterance each crop is of."""
    return crops[:, 0] // 4000


def test_an_item_depends_on_seed_and_index_alone(utterances, banks):
    forwards, backwards = views(utterances, banks), views(utterances, banks)
    first = [forwards[index] for index in range(15)]
    second = [backwards[index] for index in reversed(range(15))][::-1]
    assert all(same(one, other) for one, other in zip(first, second, strict=True))
    other_seed = [views(utterances, banks, seed=1)[index] for index in range(15)]
    assert not any(same(one, other) for one, other in zip(first, other_seed, strict=True))


def test_items_have_the_documented_shapes_and_make_batches(utterances, banks):
    dataset = views(utterances, banks, local_crops=3)
    batch = default_collate([dataset[index] for index in range(4)])
    for kind, count, frames in (("global", 2, 8000), ("local", 3, 4000)):
        assert batch[kind].shape == batch[f"{kind}_noise"].shape == (4, count, frames)
        assert str(batch[kind].dtype) == str(batch[f"{kind}_noise"].dtype) == "torch.int16"
        assert batch[f"{kind}_snr"].shape == (4, count) and batch[f"{kind}_rir"].shape == (4, count, 8000)
        assert batch[f"{kind}_channel"].shape == (4, count, CHANNEL_TAPS)
    assert not any(name.startswith("local") for name in views(utterances, local_crops=0)[0])


def test_every_utterance_comes_once_per_epoch_in_a_new_order(utterances):
    passes = [[views(utterances)[6 * number + place]["ids"] for place in range(6)] for number in range(4)]
    assert all(sorted(names) == [f"u{index}" for index in range(6)] for names in passes)
    assert len({tuple(names) for names in passes}) > 1


def test_crops_are_contiguous_parts_of_the_named_utterance(utterances):
    for index in range(12):
        item = views(utterances)[index]
        row = int(item["ids"][1:])
        for crop in [*item["global"], *item["local"]]:
            assert (crop // 4000 == row).all()
            if len(crop) <= LENGTHS[row]:
                assert (np.diff(crop) % 4000 == 1).all()


def test_starts_and_augmentations_of_an_items_crops_are_independent(utterances, banks):
    drawn = [views(utterances, banks)[index] for index in range(30)]
    long = [item for item in drawn if LENGTHS[int(item["ids"][1:])] == 20000]
    assert all(not np.array_equal(*item["global"]) for item in long)
    assert all(len(np.unique(item["local"][:, 0])) > 1 for item in long)
    for name in ("channel", "noise", "rir"):
        assert sum(not np.array_equal(*item[f"global_{name}"]) for item in drawn) > 10
    assert len({tuple(item["local_snr"]) for item in drawn}) > 20


def test_starts_are_uniform_from_the_first_to_the_last_possible(utterances):
    # A crop of 17,000 samples of an utterance of 20,000 has 3,001 places.
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        crops = read_crops(utterances, 1, rng.random(2), np.array([17000, 17000]))
        found += [crop[0] - 4000 for crop in crops]
    assert 0 <= min(found) < 40 and 2960 < max(found) <= 3000
    assert abs(np.mean(found) - 1500) < 120 and abs(np.std(found) - 866) < 60
    ends = read_crops(utterances, 1, np.array([0.0, 1 - 1e-9]), np.array([17000, 17000]))
    assert [crop[0] for crop in ends] == [4000, 4000 + 3000]


@pytest.mark.parametrize("places, reads", [([0.1, 0.2, 0.25], 1), ([0.0, 0.0, 0.99], 3)])
def test_an_utterance_is_read_once_unless_its_crops_lie_far_apart(utterances, monkeypatch, places, reads):
    spans, read = [], Utterances.read

    def watched(self, row, start=0, frames=None):
        spans.append(frames)
        return read(self, row, start, frames)

    monkeypatch.setattr(Utterances, "read", watched)
    frames = np.array([1000, 1000, 500])
    crops = read_crops(utterances, 0, np.array(places), frames)
    assert len(spans) == reads and sum(spans) < LENGTHS[0]  # and never the whole of it
    whole = read(utterances, 0)
    for place, crop, size in zip(places, crops, frames, strict=True):
        start = int(place * (LENGTHS[0] - size + 1))
        assert np.array_equal(crop, whole[start : start + size])


@pytest.mark.parametrize("row", [3, 4])
def test_a_short_utterance_is_repeated_not_padded(utterances, row):
    long, short = read_crops(utterances, row, np.array([0.7, 0.4]), np.array([10000, 2000]))
    np.testing.assert_array_equal(long, np.resize(utterances.read(row), 10000))
    start = int(0.4 * (LENGTHS[row] - 2000 + 1))
    np.testing.assert_array_equal(short, utterances.read(row)[start : start + 2000])


def test_crops_without_silence_contain_speech_only(tmp_path):
    """Two seconds of noise with a second of silence between them, and a recording of silence alone."""
    rng, quiet = np.random.default_rng(0), np.zeros(16000)
    loud = [rng.normal(0, 3000, 16000) for _ in range(2)]
    entries = []
    for name, audio in (("u0", np.concatenate([loud[0], quiet, loud[1]])), ("u1", quiet)):
        soundfile.write(tmp_path / f"{name}.flac", audio.astype(np.int16), 16000)
        entries.append(Entry(name, tmp_path / f"{name}.flac", len(audio)))
    write_set(tmp_path / "set", entries)
    made = views(Utterances.open(tmp_path / "set"), delete_silence=True, global_seconds=1.5)
    for item in (made[index] for index in range(12)):
        voiced = np.abs(item["global"]).reshape(2, -1, 160).max(2) > 0
        assert item["global"].shape == (2, 24000) and item["local"].shape[1] == 4000
        assert voiced.mean() > 0.9 if item["ids"] == "u0" else not voiced.any()  # a few frames beside speech stay


def test_speech_is_searched_in_a_part_of_a_long_recording(utterances, monkeypatch):
    monkeypatch.setattr("cslib.datasets.views.MOST_SEARCHED", 9000)
    for place in (0.0, 0.5, 0.999):
        crops = read_voiced_crops(utterances, 1, np.array([place, 0.3]), np.array([4000, 2000]))
        assert [len(crop) for crop in crops] == [4000, 2000] and {crop[0] // 4000 for crop in crops} == {1}


def test_reduced_overlap_moves_global_crops_apart(utterances):
    def distance(chance):
        return np.mean(
            [
                np.abs(
                    np.diff(
                        views(utterances, reduce_overlap_p=chance, seed=seed)._places(np.random.default_rng(seed))[:2]
                    )
                )
                for seed in range(400)
            ]
        )

    # The mean distance of two uniform numbers is 1/3, of the outermost of five 4/6.
    assert distance(0.0) == pytest.approx(1 / 3, abs=0.03)
    assert distance(1.0) == pytest.approx(2 / 3, abs=0.03)


def test_cluster_positives_come_from_two_utterances_of_one_label(utterances):
    dataset, partners = views(utterances, labels=LABELS, positives="cluster"), {}
    for index in range(60):
        item = dataset[index]
        names = [int(name[1:]) for name in item["ids"].split()]
        if LABELS[names[0]] < 0:
            assert names == [4] and (owners(item["global"]) == 4).all()
            continue
        assert len(names) == 2 and names[0] != names[1] and LABELS[names[0]] == LABELS[names[1]]
        assert owners(item["global"]).tolist() == names and owners(item["local"]).tolist() == names * 2
        partners.setdefault(names[0], set()).add(names[1])
    assert partners == {0: {1, 2}, 1: {0, 2}, 2: {0, 1}, 3: {5}, 5: {3}}


def test_an_utterance_alone_in_its_cluster_gives_all_crops(utterances):
    dataset = views(utterances, labels=np.arange(6), positives="cluster")
    assert all(len(dataset[index]["ids"].split()) == 1 for index in range(6))


def test_labels_are_ignored_with_utterance_positives(utterances):
    assert same(views(utterances, labels=LABELS)[3], views(utterances)[3])


@pytest.mark.parametrize(
    "option, value",
    [
        ("global_crops", 1),
        ("local_crops", -1),
        ("global_seconds", 0.0),
        ("local_seconds", float("inf")),
        ("reduce_overlap_p", 1.5),
        ("positives", "speaker"),
    ],
)
def test_a_bad_value_is_refused(option, value):
    with pytest.raises(UserError, match=rf"objective\.views\.{option} is .*; it must be"):
        ViewConfig(**{option: value})
