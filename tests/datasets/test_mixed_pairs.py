"""Pairs mixed on the fly: the SNR, the noise, and items that depend on their index alone."""

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.data.banks import BankWriter, open_banks
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.datasets.mixed_pairs import MixedPairs
from cslib.datasets.pairs import PairConfig

LENGTHS = [9000, 4800, 700]  # samples; a crop has 1600
HERTZ = {"noise": 500, "music": 1500, "babble": 3000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three recordings of white noise, and a tone for each kind of noise."""
    root = tmp_path_factory.mktemp("mixed")
    entries = []
    for number, length in enumerate(LENGTHS):
        path = root / f"speech/u{number}.flac"
        path.parent.mkdir(exist_ok=True)
        samples = np.random.default_rng(number).normal(0, 1000, length).astype(np.int16)
        soundfile.write(path, samples, 16000)
        entries.append(Entry(f"u{number}", path, length))
    write_set(root / "speech", entries)
    for kind, hertz in HERTZ.items():
        with BankWriter(root / "noise" / kind, np.int16) as writer:
            writer.add((8000 * np.sin(2 * np.pi * hertz * np.arange(20_000) / 16_000)).astype(np.int16))
    return root


def mixed(folder, seed=3, **config):
    return MixedPairs(
        Utterances.open(folder / "speech"),
        open_banks(folder / "noise").noise,
        PairConfig(crop_seconds=0.1, **config),
        seed,
    )


def noise_of(item):
    return item["noisy"].astype(float) - item["clean"]


def test_clean_side_is_a_crop_and_noise_is_all_that_differs(folder):
    dataset, speech, starts = mixed(folder), Utterances.open(folder / "speech"), set()
    for index in range(12):
        item = dataset[index]
        assert item["noisy"].dtype == item["clean"].dtype == np.int16 and item["negatives"].shape == (0, 1600)
        recording = speech.read(int(item["ids"][1:])).astype(float)
        if len(recording) < 1600:
            recording = np.resize(recording, 1600)
        places = np.correlate(recording, item["clean"].astype(float), "valid")
        found = recording[places.argmax() :][:1600]
        assert 0 < np.abs(found - item["clean"]).max() <= 6  # the dither
        starts.add((item["ids"], places.argmax()))
        spectrum = np.abs(np.fft.rfft(noise_of(item) * np.hanning(1600)))
        assert spectrum.argmax() * 10 in HERTZ.values()
    assert len(starts) == 4 + 4 + 1  # the shortest recording is always taken whole


def test_pauses_are_drawn_again_and_a_quiet_recording_gives_its_loudest_crop(folder, tmp_path):
    entries = []
    for name, level in (("loud", 1000), ("quiet", 20)):  # three seconds of pause, then a fifth of one of speech
        samples = np.zeros(48_000 + 3200, np.int16)
        samples[-3200:] = np.random.default_rng(0).normal(0, level, 3200)
        soundfile.write(tmp_path / f"{name}.flac", samples, 16000)
        entries.append(Entry(name, tmp_path / f"{name}.flac", len(samples)))
    write_set(tmp_path / "speech", entries)
    dataset = MixedPairs(
        Utterances.open(tmp_path / "speech"), open_banks(folder / "noise").noise, PairConfig(crop_seconds=2.0), 0
    )
    sizes = {"loud": [], "quiet": []}
    for index in range(40):
        item = dataset[index]
        sizes[item["ids"]].append(np.abs(item["clean"]).max())
    assert min(np.mean(np.array(found) > 10) for found in sizes.values()) > 0.7  # of random crops, a sixth


def test_ratios_fill_their_range_and_every_kind_of_noise_is_as_frequent(folder):
    dataset = mixed(folder, snr_db=(-5.0, 10.0))
    items = [dataset[index] for index in range(240)]
    ratios = [10 * np.log10(np.sum(item["clean"].astype(float) ** 2) / np.sum(noise_of(item) ** 2)) for item in items]
    assert -5.1 < min(ratios) < -4 and 9 < max(ratios) < 10.1 and np.mean(ratios) == pytest.approx(2.5, abs=0.8)
    tones = [np.abs(np.fft.rfft(noise_of(item) * np.hanning(1600))).argmax() * 10 for item in items]
    assert all(60 < tones.count(hertz) < 100 for hertz in HERTZ.values())


def test_an_item_depends_on_seed_and_index_alone_and_the_next_epoch_has_other_noise(folder):
    one, two = mixed(folder), mixed(folder)
    two[7]  # the order of reading does not matter
    for index in (4, 0, 4):
        assert all(np.array_equal(one[index][side], two[index][side]) for side in ("noisy", "clean"))
    short = [one[index] for index in range(9) if one[index]["ids"] == "u2"]  # whole, so the same speech in each pass
    assert len(short) == 3
    assert all(np.abs(item["clean"].astype(int) - short[0]["clean"]).max() <= 12 for item in short)
    assert not np.array_equal(short[0]["noisy"], short[1]["noisy"])
    assert not np.array_equal(mixed(folder, seed=4)[0]["noisy"], one[0]["noisy"])


@pytest.mark.parametrize("range_db", [(5.0, 0.0), (float("nan"), 5.0), (0.0, 1000.0)])
def test_impossible_snr_ranges_are_refused(range_db):
    with pytest.raises(UserError, match="snr_db is "):
        PairConfig(snr_db=range_db)
