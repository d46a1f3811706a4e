"""Mixtures: items depend on their index alone; identities are equally frequent and never twice in a mixture."""

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.data.banks import BankWriter, open_banks
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig
from cslib.datasets.mixtures import MixtureConfig, Mixtures

FRAMES = 4000  # of a crop of 0.25 s


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """12 utterances u00..u11, sample t of value t; u11 is shorter than a crop, u10 than two of them."""
    root, entries = tmp_path_factory.mktemp("corpus"), []
    for index in range(12):
        length = {10: 7000, 11: 3000}.get(index, 12000 + index)
        soundfile.write(root / f"u{index:02d}.wav", np.arange(length, dtype=np.int16), 16000)
        entries.append(Entry(f"u{index:02d}", root / f"u{index:02d}.wav", length))
    write_set(root / "set", entries)
    for kind, dtype in (("noise", np.int16), ("rirs", np.float32)):
        with BankWriter(root / "banks" / kind, dtype) as writer:
            writer.add(np.linspace(1, 0, 500).astype(np.float32) if kind == "rirs" else np.arange(9000, dtype=dtype))
    return root


def mixtures(folder, labels=None, batch_size=4, seed=0, noise=False, views=2, cell=100, passes=4, **config):
    return Mixtures(
        Utterances.open(folder / "set"),
        open_banks(folder / "banks" if noise else None),
        MixtureConfig(**{"crop_seconds": 0.25, **config}),
        AugmentConfig(),
        batch_size,
        seed,
        views=views,
        cell=cell,
        passes=passes,
        labels=None if labels is None else np.array(labels),
    )


def names(item):
    return item["ids"].split()


def one_pass(dataset, number):
    return [dataset[index] for index in range(number * dataset.per_pass, (number + 1) * dataset.per_pass)]


def own_items(dataset, number):
    """The items of a pass without those that only fill the last batch."""
    return one_pass(dataset, number)[: dataset.views * dataset.per_round]


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def read_in_worker(dataset, indices):
    return [dataset[index] for index in indices]


@pytest.mark.parametrize("labels", [None, [0, 0, 0, 1, 1, 1, 2, 2, 2, -1, -1, 0]])
def test_an_item_depends_on_seed_and_index_alone(folder, labels):
    dataset = mixtures(folder, labels, noise=True, cell=8)
    indices = range(0, 5 * dataset.per_pass, 3)
    first = [dataset[index] for index in indices]
    assert all(map(equal, first, [dataset[index] for index in indices]))
    fresh = mixtures(folder, labels, noise=True, cell=8)
    assert all(map(equal, first, [fresh[index] for index in reversed(indices)][::-1]))
    other = mixtures(folder, labels, noise=True, cell=8, seed=1)
    assert not any(map(equal, first, [other[index] for index in indices]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_process_reads_the_same_items(folder, method):
    dataset, indices = mixtures(folder, noise=True, cell=8), [0, 1, 30, 77]
    here = [dataset[index] for index in indices]
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as workers:
        assert all(map(equal, here, workers.submit(read_in_worker, dataset, indices).result()))


def test_items_have_the_documented_shapes_and_types(folder):
    item = mixtures(folder, noise=True, streams=3)[5]
    assert {name: (value.shape, value.dtype.name) for name, value in item.items() if name != "ids"} == {
        "sources": ((3, FRAMES), "int16"),
        "channel": ((3, 256), "float32"),
        "noise": ((3, FRAMES), "int16"),
        "snr": ((3,), "float32"),
        "rir": ((3, 8000), "float32"),
        "sir": ((2,), "float32"),
        "active": ((3,), "bool"),
        "identity": ((3,), "int64"),
        "origin": ((3,), "int64"),
        "view": ((3,), "int64"),
    }


@pytest.mark.parametrize("streams, views, cell", [(2, 2, 12), (2, 3, 8), (3, 2, 12), (2, 1, 4), (3, 4, 6)])
def test_each_identity_comes_once_per_view_in_every_pass(folder, streams, views, cell):
    dataset = mixtures(folder, streams=streams, views=views, cell=cell)
    for number in range(5):
        items = own_items(dataset, number)
        drawn = Counter(
            (int(view), name) for item in items for view, name in zip(item["view"], names(item), strict=True)
        )
        assert set(drawn.values()) == {1} and len(drawn) == views * cell
        assert {view for view, _ in drawn} == set(range(views))


def test_with_an_odd_number_one_identity_fills_the_last_mixture(folder):
    dataset = mixtures(folder, cell=7, views=2)
    for number in range(4):
        items = own_items(dataset, number)
        assert len(items) == 2 * 4
        for view in range(2):
            drawn = Counter(name for item in items if item["view"][0] == view for name in names(item))
            assert sorted(drawn.values()) == [1] * 6 + [2]


def test_the_last_batch_of_a_pass_is_filled_with_new_mixtures_of_the_same_cell(folder):
    dataset = mixtures(folder, cell=7, views=2, batch_size=6)
    items = one_pass(dataset, 0)
    assert len(items) == 12 == dataset.per_pass  # 8 and 4 that fill
    cell = {name for item in items[:8] for name in names(item)}
    assert {name for item in items[8:] for name in names(item)} <= cell
    assert len({int(item["origin"][0]) for item in items}) == 12


@pytest.mark.parametrize("streams", [2, 3])
def test_two_crops_of_an_utterance_never_meet_in_a_mixture(folder, streams):
    dataset = mixtures(folder, streams=streams, cell=5, views=3)
    items = [item for number in range(12) for item in one_pass(dataset, number)]
    assert all(len(set(names(item))) == len(set(item["identity"].tolist())) == streams for item in items)
    origins = [set(item["origin"].tolist()) for item in items]
    assert all(len(origin) == 1 for origin in origins) and len(set.union(*origins)) == len(items)


def test_views_come_from_different_parts_of_a_long_utterance(folder):
    dataset = mixtures(folder, views=3)
    starts = {}
    for number in range(20):
        for item in own_items(dataset, number):
            for name, view, source in zip(names(item), item["view"], item["sources"], strict=True):
                assert np.array_equal(np.diff(source[:3000]), np.ones(2999)) or name == "u11"
                starts.setdefault((name, number), {})[int(view)] = int(source[0])
    long = {key: found for key, found in starts.items() if key[0] < "u10"}
    assert len(long) == 10 * 20
    for found in long.values():
        first, second, third = sorted(found.values())
        assert second - first >= FRAMES and third - second >= FRAMES
    # Each view gets to see every part of the utterance.
    assert {found[0] // FRAMES for found in long.values()} == {0, 1, 2}
    too_short = [found for key, found in starts.items() if key[0] == "u10"]
    assert all(0 <= start <= 3000 for found in too_short for start in found.values())
    assert len({tuple(found.values()) for found in too_short}) > 10


def test_an_utterance_shorter_than_the_crop_is_repeated(folder):
    item = next(item for item in one_pass(mixtures(folder), 0) if "u11" in names(item))
    np.testing.assert_array_equal(item["sources"][names(item).index("u11")], np.resize(np.arange(3000), FRAMES))


@pytest.mark.parametrize("cell", [3, 4, 5, 12])
def test_cells_partition_the_corpus_in_every_epoch(folder, cell):
    dataset = mixtures(folder, cell=cell, passes=2)
    count = -(-12 // cell)
    assert dataset.cells == count and dataset.identities == cell
    epochs = []
    for epoch in range(3):
        cells = []
        for place in range(count):
            first, second = (
                {
                    name: identity
                    for item in one_pass(dataset, 2 * (epoch * count + place) + turn)
                    for name, identity in zip(names(item), item["identity"].tolist(), strict=True)
                }
                for turn in range(2)
            )
            assert first == second and sorted(first.values()) == list(range(cell))
            cells.append(frozenset(first))
        assert len(frozenset.union(*cells)) == 12  # nobody is left out
        filled = sum(map(len, cells)) - 12
        assert filled == count * cell - 12  # and only the last cell repeats
        assert sum(len(a & b) for a in cells for b in cells if a is not b) == 2 * filled
        epochs.append(frozenset(cells))
    if count > 1:
        assert len(set(epochs)) == 3


def test_first_pass_of_a_cell_is_recognised(folder):
    several, whole = mixtures(folder, cell=4, passes=3), mixtures(folder, cell=12, passes=3)
    assert [several.first_pass_of_cell(number) for number in range(7)] == [
        True,
        False,
        False,
        True,
        False,
        False,
        True,
    ]
    assert [whole.first_pass_of_cell(number) for number in range(7)] == [True] + [False] * 6


def test_a_cell_of_the_size_of_a_batch_makes_every_batch_a_pass(folder):
    dataset = mixtures(folder, batch_size=4, cell=4, views=2, passes=1)
    assert dataset.per_pass == 4
    for number in range(9):
        drawn = Counter(name for item in one_pass(dataset, number) for name in names(item))
        assert sorted(drawn.values()) == [2, 2, 2, 2]


BALANCED = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
UNBALANCED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize("streams", [2, 3])
@pytest.mark.parametrize(
    "labels",
    [
        BALANCED,
        UNBALANCED,
        [0] * 6 + [1] * 5 + [-1],
        [-1] * 10 + [0, 0],
        [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2],
    ],
)
def test_no_identity_meets_itself_in_a_mixture(folder, labels, streams):
    dataset = mixtures(folder, labels, streams=streams, views=1)
    for number in range(15):
        for item in one_pass(dataset, number):
            found = [labels[int(name[1:])] for name in names(item)]
            assert item["identity"].tolist() == found
            assert item["origin"].tolist() == [int(name[1:]) for name in names(item)]
            known = [label for label in found if label >= 0]
            assert len(set(known)) == len(known) and len(set(names(item))) == streams


def test_with_labels_every_utterance_comes_once_per_pass_as_long_as_that_is_possible(folder):
    for labels in (BALANCED, [-1] * 6 + [0] * 6):
        dataset = mixtures(folder, labels, views=1)
        assert dataset.identities == max(labels) + 1
        for number in range(5):
            drawn = Counter(name for item in own_items(dataset, number) for name in names(item))
            assert len(drawn) == 12 and set(drawn.values()) == {1}


def test_a_dominant_identity_is_replaced_and_all_others_still_occur(folder):
    dataset = mixtures(folder, UNBALANCED, views=1)
    for number in range(5):
        drawn = {name for item in own_items(dataset, number) for name in names(item)}
        assert drawn >= {"u09", "u10", "u11"}
    heard = {name for number in range(20) for item in own_items(dataset, number) for name in names(item)}
    assert len(heard) == 12


def test_in_single_mixtures_only_the_first_speaker_is_active(folder):
    dataset = mixtures(folder, single_p=0.3, streams=3)
    active = [dataset[index]["active"].tolist() for index in range(400)]
    assert {tuple(item) for item in active} == {(True, True, True), (True, False, False)}
    assert 0.2 < active.count([True, False, False]) / 400 < 0.4
    assert all(all(mixtures(folder, single_p=0.0)[index]["active"]) for index in range(50))


def test_sir_of_speakers_stays_in_its_range(folder):
    ratios = np.array([mixtures(folder, sir_db=(-2.0, 3.0))[index]["sir"][0] for index in range(100)])
    assert -2 <= ratios.min() < -1.5 and 2.5 < ratios.max() <= 3


def test_each_speaker_has_an_rir_and_a_noise_of_its_own(folder):
    dataset = mixtures(folder, noise=True)
    items = [dataset[index] for index in range(40)]
    assert sum(np.array_equal(item["noise"][0], item["noise"][1]) for item in items) < 10  # both without
    assert len({tuple(item["snr"]) for item in items}) > 20
    assert any(np.count_nonzero(item["rir"][0]) > 1 == np.count_nonzero(item["rir"][1]) for item in items)


def test_items_and_passes_draw_from_different_generators(folder, monkeypatch):
    """numpy takes the seed [a, b] and [a, b, 0] for the same."""
    seeds, generator = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: seeds.append(tuple(seed)) or generator(seed))
    dataset = mixtures(folder, cell=4)
    for index in range(0, 6 * dataset.per_pass):
        dataset[index]
    states = {}
    for seed in set(seeds):
        states.setdefault(tuple(np.random.SeedSequence(seed).generate_state(4)), set()).add(seed)
    assert all(len(same) == 1 for same in states.values()) and len(states) > 6 * dataset.per_pass


@pytest.mark.parametrize("labels, streams", [([0] * 12, 2), ([0] * 6 + [1] * 6, 3), (None, 13)])
def test_too_few_identities_are_refused(folder, labels, streams):
    with pytest.raises(UserError, match="identities are too few"):
        mixtures(folder, labels, streams=streams)
