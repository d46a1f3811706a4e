from pathlib import Path

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.data.banks import open_banks
from cslib.data.manifests import Entry, write_set
from local import prepare_noise
from local.prepare_noise import Options, find_rirs, read_pieces, read_rirs, room_of, split

SMALL = {"synthetic_noises": 6, "synthetic_music": 4, "synthetic_rooms": 8, "babble": 3}


def write_audio(path: Path, samples: np.ndarray, rate: int = 16000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


def tone(hertz: float, seconds: float, rate: int = 16000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def write_train(folder: Path, hertz=(300, 400, 500, 600)) -> None:
    paths = [write_audio(folder / "audio" / f"u{i}.flac", tone(f, 3)) for i, f in enumerate(hertz)]
    write_set(folder, [Entry(path.stem, path, 48000) for path in paths])


def recordings(bank) -> set[bytes]:
    return {bank.samples[start : start + length].tobytes() for start, length in bank.segments}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    write_train(out / "train")
    prepare_noise.main(Options(out=out, synthetic=True, **SMALL))
    return out


def test_synthetic_banks_are_readable(synthetic):
    banks = open_banks(synthetic / "noise")
    assert {kind: len(bank) for kind, bank in banks.noise.items()} == {"noise": 6, "music": 4, "babble": 3}
    assert len(banks.rirs) == 8
    assert (banks.noise["noise"].segments[:, 1] == 160000).all()


def test_synthetic_rirs_are_aligned(synthetic):
    rirs = open_banks(synthetic / "noise").rirs
    for start, length in rirs.segments:
        response = rirs.samples[start : start + length]
        assert response[0] == 1 == np.abs(response).max() and length <= 16000


def test_training_and_test_noise_have_nothing_in_common(synthetic):
    train, test = open_banks(synthetic / "noise"), open_banks(synthetic / "noise_test")
    assert set(test.noise) == {"noise", "music"}  # babble would be of training speakers
    for kind, bank in test.noise.items():
        assert len(recordings(bank)) == len(bank) and not recordings(bank) & recordings(train.noise[kind])
    assert not recordings(test.rirs) & recordings(train.rirs)


def test_synthetic_noise_follows_from_the_seed(synthetic, tmp_path):
    write_train(tmp_path / "train")
    prepare_noise.main(Options(out=tmp_path, synthetic=True, **SMALL))
    for file in synthetic.rglob("noise*/*/*.npy"):
        assert file.read_bytes() == (tmp_path / file.relative_to(synthetic)).read_bytes()


def test_babble_is_of_training_speech(synthetic):
    babble = open_banks(synthetic / "noise").noise["babble"]
    for start, length in babble.segments:
        power = np.abs(np.fft.rfft(babble.samples[start : start + length].astype(float))) ** 2
        hertz = np.fft.rfftfreq(length, 1 / 16000)
        spoken = np.abs(hertz[:, None] - [300, 400, 500, 600]).min(axis=1) < 5
        assert power[spoken].sum() > 0.95 * power.sum()


def test_second_run_does_nothing_and_other_options_are_refused(synthetic, capsys):
    prepare_noise.main(Options(out=synthetic, synthetic=True, **SMALL))
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="other options"):
        prepare_noise.main(Options(out=synthetic, synthetic=True, seed=1, **SMALL))


def test_folders_of_any_format_are_split_and_the_rest_is_synthetic(tmp_path):
    for number in range(6):
        write_audio(tmp_path / "noises" / f"n{number}.wav", tone(200 + 100 * number, 2, 8000), 8000)
        response = np.zeros((900, 2))
        response[300, 0], response[400, 0], response[0, 1] = 0.5, 0.25, 0.9  # the second channel is not used
        response[300 + number + 1, 0] = 0.1
        write_audio(tmp_path / "rirs" / f"r{number}.flac", response)
    out = tmp_path / "corpus"
    folders = {"noise_dir": tmp_path / "noises", "rir_dir": tmp_path / "rirs"}
    prepare_noise.main(Options(out=out, synthetic=True, **folders, **SMALL))
    train, test = open_banks(out / "noise"), open_banks(out / "noise_test")
    assert (len(train.noise["noise"]), len(test.noise["noise"])) == (4, 2)
    # Six RIRs are few: synthetic ones follow, so that adverse recordings differ in their RIR.
    assert (len(train.rirs), len(test.rirs)) == (4 + 8, 2 + 4)
    assert not recordings(train.rirs) & recordings(test.rirs)
    assert not recordings(train.noise["noise"]) & recordings(test.noise["noise"])
    assert train.noise["noise"].segments[:, 1] == pytest.approx(32000)
    assert len(train.noise["music"]) == 4
    start, length = train.rirs.segments[0]
    response = train.rirs.samples[start : start + length]
    assert response[0] == 1 and response[100] == pytest.approx(0.5, abs=1e-3) and length == 101


def test_too_few_files_are_shared_and_that_is_reported(tmp_path, capsys):
    files = [tmp_path / "a.wav", tmp_path / "b.wav"]
    assert split(files, 1 / 3, seed=0, kind="rirs") == (files, files)
    assert "rirs: 2 recordings are too few" in capsys.readouterr().out


def test_split_is_disjoint_complete_and_keeps_groups_together():
    files = [Path(f"g{group}/{number}.wav") for group in range(10) for number in range(3)]
    train, test = split(files, 1 / 10, seed=0, kind="rirs", group=lambda path: path.parent.name)
    assert sorted(train + test) == sorted(files)
    assert len({path.parent for path in test}) == 1 and len(test) == 3


def test_long_recordings_become_pieces_equal_to_the_whole(tmp_path):
    long = write_audio(tmp_path / "long.wav", np.stack([tone(440, 65)] * 2, axis=1))
    pieces = list(read_pieces([long]))
    assert [len(piece) for piece in pieces] == [480000, 480000, 80000]
    whole, _ = soundfile.read(long, dtype="int16")
    np.testing.assert_array_equal(np.concatenate(pieces), whole[:, 0])


def test_short_end_is_dropped_but_a_short_recording_is_kept(tmp_path):
    long = write_audio(tmp_path / "long.wav", tone(440, 30.5))
    short = write_audio(tmp_path / "short.wav", tone(440, 0.5))
    assert [len(piece) for piece in read_pieces([long, short])] == [480000, 8000]


def test_bad_files_are_left_out_with_a_line(tmp_path, capsys):
    good = write_audio(tmp_path / "good.wav", tone(440, 1))
    bad = tmp_path / "bad.wav"
    bad.write_text("this is not audio")
    assert len(list(read_pieces([bad, good]))) == 1
    silent = write_audio(tmp_path / "silent.wav", np.zeros(1000))
    assert len(list(read_rirs([bad, silent, good]))) == 1
    told = capsys.readouterr().out
    assert told.count("bad.wav: left out") == 2 and "silent.wav: left out" in told


def write_openslr(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("noise/free-sound", "music/fma", "speech/librivox"):
        for number in range(10):
            write_audio(folder / "musan" / kind / f"x-{number:04d}.wav", rng.uniform(-0.5, 0.5, 16000))
    response = np.exp(-np.arange(800) / 100) * rng.standard_normal(800) * 0.1
    rirs = folder / "RIRS_NOISES"
    for size in ("smallroom", "mediumroom"):
        for room in range(5):
            for place in range(4):
                name = f"{size}/Room{room:03d}/Room{room:03d}-{place:05d}.wav"
                write_audio(rirs / "simulated_rirs" / name, rng.permutation(response))
    for name in ("RVB2014_type1_rir_room1_1", "RVB2014_type1_rir_room1_2", "RVB2014_type1_noise_room1_1"):
        real = rirs / "real_rirs_isotropic_noises" / f"{name}.wav"
        write_audio(real, np.stack([rng.permutation(response)] * 8, axis=1))


def test_musan_and_openslr_rirs(tmp_path):
    write_openslr(tmp_path)
    out = tmp_path / "corpus"
    options = Options(out=out, musan=tmp_path / "musan", rirs=tmp_path / "RIRS_NOISES", babble=2)
    prepare_noise.main(options)
    train, test = open_banks(out / "noise"), open_banks(out / "noise_test")
    assert {kind: len(bank) for kind, bank in train.noise.items()} == {"noise": 9, "music": 9, "babble": 2}
    assert {kind: len(bank) for kind, bank in test.noise.items()} == {"noise": 1, "music": 1, "babble": 1}
    # Two real ones beside 20 small and 20 medium ones come ten times each.
    assert len(train.rirs) + len(test.rirs) == 60 and len(test.rirs) == 4


def test_positions_in_one_room_stay_together(tmp_path):
    write_openslr(tmp_path)
    files = find_rirs(tmp_path / "RIRS_NOISES")
    assert not any("noise_" in path.name for path in files)
    train, test = split(files, 0.3, 0, "rirs", room_of)
    assert not {room_of(path) for path in train} & {room_of(path) for path in test}
    one, other = (Path(f"real/RVB2014_type1_rir_room1_{number}.wav") for number in (1, 2))
    assert room_of(one) == room_of(other)


@pytest.mark.parametrize(
    "sources, complaint",
    [({}, "no source of noise is given"), ({"noise_dir": Path("nowhere")}, "nowhere: there is no audio file")],
)
def test_missing_sources_are_one_sentence(tmp_path, sources, complaint):
    with pytest.raises(UserError, match=complaint):
        prepare_noise.main(Options(out=tmp_path, **sources))
    assert not list(tmp_path.iterdir())
