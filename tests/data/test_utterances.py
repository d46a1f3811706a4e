"""Random access to the audio of a set, from files or shards, through a table that is never loaded."""

import gzip
import multiprocessing
import os
import pickle
import shutil

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.data import utterances as module
from cslib.data.manifests import Entry, recordings_of_set, write_set
from cslib.data.utterances import Row, Utterances
from local.pack_shards import Options
from local.pack_shards import main as pack
from utils import validate_data


@pytest.fixture
def samples():
    """int16 recordings of different lengths, by id."""
    return {f"u{n}": np.random.default_rng(n).normal(0, 5000, 9000 + 777 * n).astype(np.int16) for n in range(5)}


@pytest.fixture
def folder(tmp_path, samples):
    entries = []
    for number, (name, values) in enumerate(samples.items()):
        path = tmp_path / f"audio/{name}.{'wav' if number % 2 else 'flac'}"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, values, 16000)
        entries.append(Entry(name, path, len(values), speaker="ann"))
    write_set(tmp_path / "set", entries)
    return tmp_path / "set"


def audio(folder, name):
    return next(folder.with_name("audio").glob(f"{name}.*"))


def check(found, samples):
    assert found.ids() == list(samples) and len(found) == len(samples)
    assert found.num_samples.tolist() == [len(values) for values in samples.values()]
    for row, (name, values) in enumerate(samples.items()):
        assert found.id(row) == name
        np.testing.assert_array_equal(found.read(row), values)


def test_table_equals_the_manifest(folder, samples):
    check(Utterances.open(folder), samples)
    assert Utterances.open(folder).ids([3, 0, 3]) == ["u3", "u0", "u3"]
    assert Utterances.open(folder).ids([]) == []


@pytest.mark.parametrize("packed", [False, True])
def test_partial_read_equals_the_slice(folder, samples, packed):
    if packed:
        pack(Options(folder, shard_size=2, nj=1))
    found = Utterances.open(folder)
    rng = np.random.default_rng(1)
    for row, values in enumerate(samples.values()):
        for _ in range(20):
            start, stop = np.sort(rng.integers(0, len(values) + 1, 2))
            part = found.read(row, start, stop - start)
            assert part.dtype == np.int16
            np.testing.assert_array_equal(part, values[start:stop])
        np.testing.assert_array_equal(found.read(row, 5000), values[5000:])


def test_shards_made_by_lhotse_read_like_the_files(folder, samples):
    from lhotse import CutSet

    cuts = CutSet.from_file(folder / "cuts.jsonl.gz")
    (folder / "shards").mkdir()
    cuts.to_shar(folder / "shards", fields={"recording": "flac"}, shard_size=2)
    check(Utterances.open(folder), samples)


def test_shards_made_here_read_like_the_files_even_when_those_are_removed(folder, samples):
    pack(Options(folder, shard_size=2, nj=1))
    shutil.rmtree(folder.with_name("audio"))
    check(Utterances.open(folder), samples)


def test_packed_set_can_be_moved(folder, samples):
    pack(Options(folder, shard_size=2, nj=1))
    check(Utterances.open(folder), samples)
    check(Utterances.open(folder.rename(folder.with_name("elsewhere"))), samples)


def test_digest_depends_on_the_utterances_and_not_on_their_storage(folder, samples, tmp_path):
    digest = Utterances.open(folder).digest()
    pack(Options(folder, shard_size=2, nj=1))
    assert Utterances.open(folder).digest() == digest
    assert Utterances.open(folder.rename(folder.with_name("elsewhere"))).digest() == digest
    digests = {digest}
    for change in ({"u0": 8999}, {"u9": 9000}, {}):
        lengths = {name: len(values) for name, values in samples.items()} | change
        entries = [Entry(name, audio(folder, min(name, "u4")), length) for name, length in sorted(lengths.items())]
        write_set(tmp_path / "other", entries)
        digests.add(Utterances.open(tmp_path / "other").digest())
    assert len(digests) == 3  # without a change it is the first one again


@pytest.mark.parametrize("name", ["u0", "u1", "u4"])
def test_audio_replaced_by_other_audio_of_the_same_length_gives_another_digest(folder, samples, name):
    digest = Utterances.open(folder).digest()
    values = samples[name].copy()
    values[len(values) // 3] += 1  # a small set is read whole: a single sample tells
    soundfile.write(audio(folder, name), values, 16000)
    assert Utterances.open(folder).digest() != digest
    soundfile.write(audio(folder, name), samples[name], 16000)
    assert Utterances.open(folder).digest() == digest


@pytest.mark.parametrize("count", [1, 7, 1999, 2001, 100_000])
def test_excerpts_lie_within_their_recordings_and_all_over_the_set(count):
    lengths = np.random.default_rng(count).integers(1, 200_000, count)
    rows, starts, frames = np.array(list(module.excerpts(lengths))).T
    assert len(set(rows)) == len(rows) == min(count, 2000) and rows[0] == 0 and rows[-1] == count - 1
    assert (starts >= 0).all() and (frames > 0).all() and (starts + frames <= lengths[rows]).all()
    assert frames.sum() <= 200 * 16_000
    assert (frames == lengths[rows]).all() or frames.max() == 200 * 16_000 // len(rows)


def test_excerpts_of_a_large_set_see_a_change_of_all_beginnings_or_endings():
    length, half_second = 10 * 16_000, 8000
    _, starts, frames = np.array(list(module.excerpts(np.full(10_000, length)))).T
    assert (starts < half_second).sum() > 50 and (starts + frames > length - half_second).sum() > 50


def test_a_damaged_table_is_written_again(folder, samples):
    Utterances.open(folder)
    table, time = folder / "table.npy", (folder / "table.npy").stat().st_mtime_ns
    for damage in (b"", table.read_bytes()[:200]):
        table.write_bytes(damage)
        os.utime(table, ns=(time, time))
        check(Utterances.open(folder), samples)


@pytest.mark.parametrize("item", ["5", "{}", '{"id": "a", "recording": {"sources": [], "num_samples": 5}}'])
def test_a_manifest_of_something_else_is_one_sentence(folder, item):
    (folder / "cuts.jsonl.gz").write_bytes(gzip.compress(item.encode()))
    with pytest.raises(UserError, match="cuts.jsonl.gz: damaged, .*; prepare the data again") as error:
        Utterances.open(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("time", [-3600, 0.001, 3600])
def test_table_is_written_again_when_the_manifest_has_changed(folder, time):
    cuts = folder / "cuts.jsonl.gz"
    when = cuts.stat().st_mtime + time  # a manifest that is put back is older than the table
    Utterances.open(folder)
    write_set(folder, [Entry("other", "/x.wav", 5)])
    os.utime(cuts, (when, when))
    assert Utterances.open(folder).ids() == ["other"]


def test_unchanged_table_is_written_once(folder, monkeypatch):
    Utterances.open(folder)
    monkeypatch.setattr(module, "_write_table", lambda *_: pytest.fail("written again"))
    Utterances.open(folder)


def test_shards_that_are_added_or_removed_are_noticed(folder, samples):
    Utterances.open(folder)
    pack(Options(folder, shard_size=2, nj=1))
    shutil.move(folder.with_name("audio"), folder.with_name("away"))
    check(Utterances.open(folder), samples)
    shutil.move(folder.with_name("away"), folder.with_name("audio"))
    shutil.rmtree(folder / "shards")
    check(Utterances.open(folder), samples)


def test_pickled_utterances_are_a_path_and_read_the_same(folder, samples):
    data = pickle.dumps(Utterances.open(folder))
    assert len(data) < 500
    check(pickle.loads(data), samples)


def damage(path, how):
    if how == "gone":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not audio at all" * 100)
    elif how == "cut off":
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    elif how == "shorter":
        soundfile.write(path, soundfile.read(path, dtype="int16")[0][:-1], 16000)
    elif how == "8 kHz":
        soundfile.write(path, np.zeros(20_000, np.int16), 8000)
    elif how == "stereo":
        soundfile.write(path, np.zeros((20_000, 2), np.int16), 16000)
    elif how == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("name", ["u0", "u1"])  # flac and wav
@pytest.mark.parametrize(
    "how, words",
    [
        ("gone", "cannot be read"),
        ("empty", "cannot be read"),
        ("text", "cannot be read"),
        ("cut off", "ends [0-9]+ samples early|cannot be read"),
        ("shorter", "ends 1 samples early"),
        ("8 kHz", "8000 Hz and 1 channels"),
        ("stereo", "16000 Hz and 2 channels"),
        ("folder", "cannot be read"),
    ],
)
def test_damaged_audio_is_one_sentence_that_names_the_file(folder, name, how, words):
    found, path = Utterances.open(folder), audio(folder, name)
    damage(path, how)
    with pytest.raises(UserError, match=words) as error:
        found.read(found.ids().index(name))
    assert (
        str(path) in str(error.value) and "prepare the data again" in str(error.value) and "\n" not in str(error.value)
    )


@pytest.mark.parametrize("packed", [False, True])
def test_reading_beyond_the_end_is_an_error_not_another_utterance(folder, samples, packed):
    if packed:
        pack(Options(folder, shard_size=5, nj=1))
    found = Utterances.open(folder)
    for start, frames in ((9000 - 10, 11), (20_000, 1)):
        with pytest.raises(UserError, match="early|cannot be read"):
            found.read(0, start, frames)


def test_damaged_manifest_is_one_sentence(folder):
    cuts = folder / "cuts.jsonl.gz"
    cuts.write_bytes(cuts.read_bytes()[:-30])
    with pytest.raises(UserError, match="cuts.jsonl.gz: damaged"):
        Utterances.open(folder)
    assert not (folder / "table.npy").exists()
    cuts.write_bytes(gzip.compress(b""))
    with pytest.raises(UserError, match="no utterance"):
        Utterances.open(folder)
    cuts.unlink()
    with pytest.raises(UserError, match="no cuts.jsonl.gz in it; prepare the data first"):
        Utterances.open(folder)


def test_damaged_shards_are_one_sentence(folder):
    pack(Options(folder, shard_size=2, nj=1))
    tar = folder / "shards/recording.000001.tar"
    whole = tar.read_bytes()
    for change in (lambda: tar.write_bytes(whole[:1000]), lambda: tar.write_text("no tar"), tar.unlink):
        change()
        with pytest.raises(UserError, match="recording.000001.tar: .*pack again"):
            Utterances.open(folder)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_table_of_200_000_utterances_is_opened_without_being_loaded(tmp_path):
    count, place = 200_000, "/corpus/" + "long/" * 30

    def rows():
        return (Row(f"utterance-{n:08d}", f"{place}{n}.flac", 0, 0, n) for n in range(count))

    module._write_table(tmp_path / "table.npy", rows, changed=1)
    assert (tmp_path / "table.npy").stat().st_size > 35e6
    before = resident()
    found = Utterances(tmp_path / "table.npy")
    assert found.id(123_456) == "utterance-00123456" and found.num_samples[199_999] == 199_999
    assert resident() - before < 4e6


def open_together(folder, barrier, results):
    barrier.wait()
    found = Utterances.open(folder)
    results.put((found.ids(), found.read(4).sum()))


def test_processes_that_open_a_new_set_together_all_read_it_whole(folder, samples):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=open_together, args=(folder, barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    for _ in processes:
        assert results.get(timeout=30) == (list(samples), samples["u4"].sum())
    for process in processes:
        process.join()
    assert not list(folder.glob(".writing-*"))


@pytest.fixture
def parts(folder, samples):
    """A set of three parts of u1 and u2, and what they hold, by id."""
    places = {"u1-a": ("u1", 0, 4000), "u1-b": ("u1", 4000, 5777), "u2-a": ("u2", 321, 7000)}
    entries = [
        Entry(name, audio(folder, of), frames, start=start, of_samples=len(samples[of]))
        for name, (of, start, frames) in places.items()
    ]
    write_set(folder.with_name("parts"), entries)
    held = {name: samples[of][start : start + frames] for name, (of, start, frames) in places.items()}
    return folder.with_name("parts"), held


@pytest.mark.parametrize("packed", [False, True])
def test_parts_of_recordings_read_like_recordings_of_their_own(parts, packed):
    from lhotse import CutSet

    folder, held = parts
    digest = Utterances.open(folder).digest()
    for cut in CutSet.from_file(folder / "cuts.jsonl.gz"):
        np.testing.assert_array_equal(np.rint(cut.load_audio()[0] * 32768), held[cut.id])
    validate_data.main(validate_data.Options(folder, full=True))
    if packed:
        pack(Options(folder, shard_size=2, nj=1))
        shutil.rmtree(folder.with_name("audio"))
        for cut in CutSet.from_shar(in_dir=folder / "shards"):
            np.testing.assert_array_equal(np.rint(cut.load_audio()[0] * 32768), held[cut.id])
    check(Utterances.open(folder), held)
    np.testing.assert_array_equal(Utterances.open(folder).read(1, 100, 50), held["u1-b"][100:150])
    assert Utterances.open(folder).digest() == digest


def test_whole_recordings_of_a_set_of_parts_are_not_given_for_its_utterances(parts, folder, samples):
    assert list(recordings_of_set(folder)) == list(samples)
    with pytest.raises(UserError, match="u1-a is a part of a recording; give a set of whole recordings"):
        recordings_of_set(parts[0])


def test_table_of_an_earlier_version_is_made_again(folder, samples):
    Utterances.open(folder)
    table = np.load(folder / "table.npy")
    changed = (folder / "table.npy").stat().st_mtime_ns
    np.save(folder / "table.npy", table[[name for name in table.dtype.names if name != "start"]])
    os.utime(folder / "table.npy", ns=(changed, changed))
    check(Utterances.open(folder), samples)
