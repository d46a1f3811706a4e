"""Labelled crops: reproducible item by item, balanced over utterances or labels."""

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.data.banks import open_banks
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig
from cslib.datasets.crops import CropConfig, LabelledCrops, random_crop

LABELS = np.array([0, 0, 0, 0, 0, 1, 2, -1])


@pytest.fixture
def utterances(tmp_path):
    """Utterance i holds the value 1000 (i + 1) throughout; the last but one is short."""
    entries = []
    for index in range(8):
        audio = np.full(3000 if index == 6 else 20000, 1000 * (index + 1), dtype=np.int16)
        soundfile.write(tmp_path / f"u{index}.wav", audio, 16000)
        entries.append(Entry(f"u{index}", tmp_path / f"u{index}.wav", len(audio)))
    write_set(tmp_path / "set", entries)
    return Utterances.open(tmp_path / "set")


def crops(utterances, seed=0, labels=LABELS, **config):
    return LabelledCrops(utterances, labels, open_banks(None), CropConfig(seconds=0.5, **config), AugmentConfig(), seed)


def test_an_item_depends_on_seed_and_index_alone(utterances):
    forwards, backwards = crops(utterances, interferer_p=0.5), crops(utterances, interferer_p=0.5)
    first = [forwards[index] for index in range(20)]
    second = [backwards[index] for index in reversed(range(20))][::-1]
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert [item["ids"] for item in first] != [crops(utterances, seed=1)[i]["ids"] for i in range(20)]


def test_every_labelled_utterance_comes_once_per_epoch_in_a_new_order(utterances):
    dataset = crops(utterances)
    passes = [[dataset[7 * number + place]["ids"] for place in range(7)] for number in range(4)]
    assert all(sorted(names) == [f"u{index}" for index in range(7)] for names in passes)
    assert len({tuple(names) for names in passes}) > 1


def test_the_crop_and_the_label_are_those_of_the_named_utterance(utterances):
    dataset = crops(utterances)
    for index in range(7):
        item = dataset[index]
        row = int(item["ids"][1:])
        assert item["label"] == LABELS[row] and item["label"].dtype == np.int64
        assert item["speech"].shape == (8000,) and (item["speech"] == 1000 * (row + 1)).all()


def test_balanced_draws_labels_evenly(utterances):
    dataset = crops(utterances, balanced=True)
    drawn = np.bincount([dataset[index]["label"] for index in range(300)], minlength=3)
    assert (abs(drawn - 100) < 35).all()


def test_interferer_has_another_label_and_is_never_a_rejected_utterance(utterances):
    dataset = crops(utterances, interferer_p=1.0)
    for index in range(30):
        item = dataset[index]
        value = int(item["interferer"][0]) // 1000 - 1
        assert 0 <= value < 7 and LABELS[value] != item["label"]


def test_there_is_no_interferer_by_default(utterances):
    assert not any(crops(utterances)[index]["interferer"].any() for index in range(20))


def test_a_short_utterance_is_repeated_not_padded(tmp_path):
    audio = np.arange(3000, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", audio, 16000)
    write_set(tmp_path / "set", [Entry("a", tmp_path / "a.wav", 3000)])
    crop = random_crop(Utterances.open(tmp_path / "set"), 0, 8000, np.random.default_rng(0))
    np.testing.assert_array_equal(crop, np.resize(audio, 8000))


def test_labels_that_reject_everything_are_refused(utterances):
    with pytest.raises(UserError, match="no utterance of the set has a label"):
        crops(utterances, labels=np.full(8, -1))


def test_items_have_the_documented_shapes_and_types(utterances):
    item = crops(utterances)[0]
    assert isinstance(item.pop("ids"), str)
    assert {key: (np.asarray(value).dtype, np.shape(value)) for key, value in item.items()} == {
        "speech": (np.int16, (8000,)),
        "interferer": (np.int16, (8000,)),
        "sir": (np.float32, ()),
        "channel": (np.float32, (256,)),
        "noise": (np.int16, (8000,)),
        "snr": (np.float32, ()),
        "rir": (np.float32, (8000,)),
        "label": (np.int64, ()),
        "row": (np.int64, ()),
    }


@pytest.fixture
def tones(tmp_path):
    """Utterance i is a tone of 500 (i + 1) Hz."""
    entries, seconds = [], np.arange(20000) / 16000
    for index in range(8):
        tone = np.round(8000 * np.sin(2 * np.pi * 500 * (index + 1) * seconds)).astype(np.int16)
        soundfile.write(tmp_path / f"u{index}.wav", tone, 16000)
        entries.append(Entry(f"u{index}", tmp_path / f"u{index}.wav", len(tone)))
    write_set(tmp_path / "set", entries)
    return Utterances.open(tmp_path / "set")


def test_a_speed_moves_the_pitch_and_makes_a_class_of_its_own(tones):
    speeds = [1.0, 0.8, 1.25]
    dataset = crops(tones, speeds=speeds)
    assert dataset.classes == 9
    seen = set()
    for index in range(60):
        item = dataset[index]
        number, label = divmod(int(item["label"]), 3)
        assert label == LABELS[item["row"]] and item["speech"].shape == (8000,)
        loudest = np.abs(np.fft.rfft(item["speech"] * np.hanning(8000))).argmax() * 2  # Hz
        assert abs(loudest - 500 * (item["row"] + 1) * speeds[number]) <= 2
        seen.add(number)
    assert seen == {0, 1, 2}


def test_a_short_utterance_is_repeated_before_it_is_played_faster(utterances):
    assert (random_crop(utterances, 6, 8000, np.random.default_rng(0), speed=1.25) == 7000).all()


@pytest.mark.parametrize("speeds", [[], [1.0, 0.0], [1.0, 3.0]])
def test_impossible_speeds_are_refused(speeds):
    with pytest.raises(UserError, match="speeds"):
        CropConfig(speeds=speeds)
