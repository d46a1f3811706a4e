"""Banks of noise and RIRs: written in constant memory, read by offset."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from cslib.config import UserError
from cslib.data.banks import BankWriter, NoiseBank, RirBank, open_banks


def write(folder, recordings, dtype=np.int16):
    with BankWriter(folder, dtype) as writer:
        for recording in recordings:
            writer.add(np.asarray(recording, dtype))
    return folder


def pages_in_memory(address, size):
    with open("/proc/self/smaps") as file:
        lines = iter(file)
        for line in lines:
            start, _, end = line.split()[0].partition("-")
            if end and int(start, 16) <= address < int(end, 16):
                return 1024 * next(int(row.split()[1]) for row in lines if row.startswith("Rss:"))
    raise AssertionError("the mapping was not found")


def test_what_is_written_is_read_back(tmp_path):
    recordings = [np.arange(5), np.arange(100, 103), np.array([-32768, 32767])]
    bank = NoiseBank.open(write(tmp_path / "noise", recordings))
    assert len(bank) == 3
    assert bank.samples.tolist() == np.concatenate(recordings).tolist()
    assert bank.segments.tolist() == [[0, 5], [5, 3], [8, 2]]
    assert sorted(path.name for path in bank.folder.iterdir()) == ["samples.npy", "segments.npy"]


def test_crop_lies_inside_one_recording_when_that_is_long_enough(tmp_path):
    bank = NoiseBank.open(write(tmp_path / "noise", [np.arange(0, 50), np.arange(1000, 1080)]))
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(400):
        crop = bank.crop(rng, 40)
        assert crop.dtype == np.int16
        assert (np.diff(crop) == 1).all()
        starts.add(int(crop[0]))
    assert starts == set(range(11)) | set(range(1000, 1041))  # every offset of both, both ends included


def test_short_recordings_are_concatenated_until_the_crop_is_full(tmp_path):
    bank = NoiseBank.open(write(tmp_path / "noise", [[1, 1, 1], [2, 2], [3]]))
    crop = bank.crop(np.random.default_rng(0), 1000)
    assert len(crop) == 1000
    assert set(crop.tolist()) == {1, 2, 3}


def test_crops_are_a_function_of_the_generator(tmp_path):
    bank = NoiseBank.open(write(tmp_path / "noise", [np.arange(500), np.arange(300)]))
    one, same, other = (bank.crop(np.random.default_rng([7, index]), 100) for index in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_rir_is_cut_to_the_longest_length_allowed(tmp_path):
    bank = RirBank.open(write(tmp_path / "rirs", [[1.0, 0.5, 0.25, 0.125]], np.float32))
    assert bank.draw(np.random.default_rng(0), 3).tolist() == [1.0, 0.5, 0.25]
    assert bank.draw(np.random.default_rng(0), 9).tolist() == [1.0, 0.5, 0.25, 0.125]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's account of mapped pages")
def test_a_crop_reads_few_pages_of_a_large_bank(tmp_path):
    with BankWriter(tmp_path / "noise", np.int16) as writer:
        for _ in range(16):
            writer.add(np.ones(2**20, np.int16))  # 32 MiB in all
    bank = NoiseBank.open(tmp_path / "noise")
    assert isinstance(bank.samples, np.memmap)
    bank.crop(np.random.default_rng(0), 16000)
    assert pages_in_memory(bank.samples.ctypes.data, bank.samples.nbytes) < 4 * 2**20


def test_a_pickled_bank_is_only_a_name(tmp_path):
    bank = NoiseBank.open(write(tmp_path / "noise", [np.arange(30000)]))
    packed = pickle.dumps(bank)
    assert len(packed) < 1000
    copy = pickle.loads(packed)
    assert isinstance(copy.samples, np.memmap)
    assert (copy.crop(np.random.default_rng(3), 50) == bank.crop(np.random.default_rng(3), 50)).all()


class Crops(Dataset):
    def __init__(self, bank):
        self.bank = bank

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.bank.crop(np.random.default_rng([0, index]), 64)


def test_loader_workers_read_the_same_crops(tmp_path):
    crops = Crops(NoiseBank.open(write(tmp_path / "noise", [np.arange(30000), np.arange(20)])))
    alone = np.stack([crops[index] for index in range(6)])
    (batch,) = DataLoader(crops, batch_size=6, num_workers=1)
    assert (batch.numpy() == alone).all()


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="source"), BankWriter(tmp_path / "noise", np.int16) as writer:
        writer.add(np.ones(4, np.int16))
        raise RuntimeError("source")
    assert list((tmp_path / "noise").iterdir()) == []


def test_an_empty_bank_is_not_written(tmp_path):
    with pytest.raises(UserError, match="nothing to put"):
        write(tmp_path / "noise", [])
    assert list((tmp_path / "noise").iterdir()) == []


@pytest.mark.parametrize("samples", [np.ones(3, np.float64), np.ones((2, 2), np.int16), np.ones(0, np.int16)])
def test_writer_refuses_other_types_and_shapes(tmp_path, samples):
    with pytest.raises(ValueError, match="frames"), BankWriter(tmp_path / "noise", np.int16) as writer:
        writer.add(samples)


def damage_with_text(folder):
    (folder / "samples.npy").write_text("not an array")


def damage_by_cutting(folder):
    data = (folder / "samples.npy").read_bytes()
    (folder / "samples.npy").write_bytes(data[: len(data) // 2])


def damage_by_emptying(folder):
    (folder / "segments.npy").write_bytes(b"")


def damage_by_removing(folder):
    (folder / "segments.npy").unlink()


def damage_the_type(folder):
    np.save(folder / "samples.npy", np.zeros(10, np.float32))


def damage_the_bounds(folder):
    np.save(folder / "segments.npy", np.array([[0, 5], [5, 6]]))


@pytest.mark.parametrize(
    "damage",
    [
        damage_with_text,
        damage_by_cutting,
        damage_by_emptying,
        damage_by_removing,
        damage_the_type,
        damage_the_bounds,
    ],
)
def test_a_damaged_bank_is_one_plain_sentence(tmp_path, damage):
    folder = write(tmp_path / "noise", [np.arange(10)])
    damage(folder)
    with pytest.raises(UserError, match="prepare the noise folder again") as error:
        NoiseBank.open(folder)
    assert "\n" not in str(error.value)


def test_absent_kinds_are_left_out(tmp_path):
    write(tmp_path / "babble", [[1, 2]])
    write(tmp_path / "noise", [[1, 2]])
    banks = open_banks(tmp_path)
    assert list(banks.noise) == ["noise", "babble"]
    assert banks.rirs is None
    write(tmp_path / "rirs", [[1.0]], np.float32)
    assert len(open_banks(tmp_path).rirs) == 1


def test_no_folder_means_no_banks_but_a_missing_or_empty_one_is_an_error(tmp_path):
    assert open_banks(None).noise == {}
    with pytest.raises(UserError, match="no such noise folder"):
        open_banks(tmp_path / "absent")
    with pytest.raises(UserError, match="holds none of"):
        open_banks(tmp_path)


def test_a_noise_folder_whose_rirs_are_in_rooms_is_refused(tmp_path):
    write(tmp_path / "noise", [[1, 2]])
    write(tmp_path / "rooms", [[1.0]], np.float32)
    with pytest.raises(UserError, match="rename `rooms` to `rirs`, or .* prepare the noise again") as error:
        open_banks(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "rooms").rename(tmp_path / "rirs")
    assert len(open_banks(tmp_path).rirs) == 1
