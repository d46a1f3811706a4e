"""Folders of pairs, and clean speech mixed with noise: what becomes of each recording, and on which side."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.corpora.pair_preparation import Pair
from cslib.data.pairs import Condition, PairedUtterances, read_conditions
from cslib.data.utterances import Utterances
from local import prepare_noise
from local.prepare_pairs import Options, main, split
from utils import validate_data

TONES = np.arange(1, 7) * 500  # Hz, of six noises


def write(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)
    return path


def speech(number: int, seconds: float = 0.6, rate: int = 16_000) -> np.ndarray:
    """Bursts with digital silence between them and at the end."""
    samples = np.random.default_rng(number).standard_normal(int(seconds * rate) + number)
    return np.clip(0.05 * samples * (np.arange(len(samples)) % 2000 < 1200), -1, 1)


# Pairs as they are


def make_pairs(corpus: Path, names: list[str], rate: int = 16_000) -> None:
    for number, name in enumerate(names):
        clean = speech(number, rate=rate)
        write(corpus / "clean" / f"{name}.wav", clean, rate)
        write(corpus / "noisy" / f"{name}.flac", clean + 0.1 * speech(100 + number, rate=rate)[: len(clean)], rate)


@pytest.fixture
def tree(tmp_path) -> Options:
    """Five folders of two recordings to learn from, two recordings to test on."""
    make_pairs(tmp_path / "a", [f"s{s}/take {t}" for s in range(5) for t in range(2)])
    make_pairs(tmp_path / "b", ["one", "two"], rate=44_100)
    return Options(
        tmp_path / "a/clean",
        tmp_path / "a/noisy",
        test_clean_dir=tmp_path / "b/clean",
        test_noisy_dir=tmp_path / "b/noisy",
        data=tmp_path / "data",
        valid_share=0.2,
        nj=1,
    )


def ids(folder: Path) -> list[str]:
    return PairedUtterances.open(folder).ids()


def test_whole_folders_are_held_out_and_everything_else_is_kept(tree):
    main(tree)
    valid, train = ids(tree.data / "valid"), ids(tree.data / "train")
    assert len(valid) == 2 and len({name[:2] for name in valid}) == 1
    assert sorted(valid + train) == [f"s{s}-take_{t}" for s in range(5) for t in range(2)]
    assert ids(tree.data / "test") == ["one", "two"]
    assert read_conditions(tree.data / "test") == {"one": Condition(), "two": Condition()}
    for name in ("train", "valid", "test"):
        for side in ("clean", "noisy"):
            validate_data.main(validate_data.Options(tree.data / name / side, threads=1))
    assert len(list(tree.data.rglob("*.flac"))) == 4  # of 44.1 kHz; the others are used as they lie there
    noisy, clean = PairedUtterances.open(tree.data / "test").read(1) / 32768
    assert len(clean) == -(-soundfile.info(tree.test_clean_dir / "two.wav").frames * 160 // 441)
    assert np.corrcoef(noisy, clean)[0, 1] > 0.98


def test_single_recordings_are_held_out_where_there_are_few_folders():
    paths = [f"/x/{'ab'[n % 2]}/r{n:02d}.wav" for n in range(40)]
    pairs = [Pair(path[5:8], path, path) for path in paths]
    valid, train = split(pairs, Path("/x"), 0.1, seed=1)
    assert len(valid) == 4 and sorted(valid + train) == pairs and not set(valid) & set(train)
    assert split(pairs, Path("/x"), 0.1, seed=1) == (valid, train) != split(pairs, Path("/x"), 0.1, seed=2)
    assert [len(part) for part in split(pairs[:2], Path("/x"), 0.99, seed=1)] == [1, 1]
    with pytest.raises(UserError, match="one recording is too few"):
        split(pairs[:1], Path("/x"), 0.1, seed=1)


def test_a_rejected_recording_takes_its_partner_along_and_both_come_back_when_it_is_fixed(tree, capsys):
    silent = tree.test_noisy_dir / "two.flac"
    whole = silent.read_bytes()
    soundfile.write(silent, np.zeros_like(soundfile.read(silent)[0]), 44_100)
    main(tree)
    folder = tree.data / "test"
    assert ids(folder) == ["one"] and list(read_conditions(folder)) == ["one"]
    assert (folder / "noisy/rejected.tsv").read_text().splitlines()[1:] == [f"{silent}\tsilent"]
    assert (folder / "clean/rejected.tsv").read_text().splitlines()[1:] == [
        f"{tree.test_clean_dir / 'two.wav'}\tno partner: {silent} is rejected"
    ]
    assert "test: 1 pairs, 1 left out" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.gz")}
    main(tree)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.gz")}
    silent.write_bytes(whole)
    main(tree)
    assert ids(folder) == ["one", "two"]
    assert (folder / "clean/rejected.tsv").read_text() == "path\treason\n"


def lose(tree):
    (tree.noisy_dir / "s3/take 1.flac").unlink()


def cut(tree):
    path = tree.test_noisy_dir / "two.flac"
    soundfile.write(path, soundfile.read(path)[0][:-100], 44_100)


def double(tree):
    write(tree.clean_dir / "s0/take_1.flac", speech(0))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lose, r"clean/s3/take 1.wav: .*a/noisy has no recording of this name \(1 of 10 lack a partner\)"),
        (cut, r"b/noisy/two.flac: has 9,565 samples at 16 kHz and its clean partner .*two.wav 9,601; fix or remove"),
        (double, r"take_1.flac: .*take 1.wav has the same name, s0-take_1; rename or remove one of them"),
    ],
)
def test_folders_that_do_not_match_are_one_sentence_and_nothing_is_made(tree, damage, message):
    damage(tree)
    with pytest.raises(UserError, match=message):
        main(tree)
    assert not tree.data.exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"noisy_dir": None}, "--clean-dir needs one of --noisy-dir .* and --noise .* 0 are given"),
        ({"noise": Path("n")}, "--clean-dir needs one of --noisy-dir .* 2 are given"),
        (
            {"test_clean_dir": None},
            "--test-clean-dir needs one of --test-noisy-dir .* 1 are given without",
        ),
        ({"valid_share": 1.0}, "--valid-share is 1.0; it must be between 0 and 1"),
        ({"test_clean_dir": Path("none")}, "none: there is no such folder; check the path"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(tree, change, message):
    with pytest.raises(UserError, match=message):
        main(replace(tree, **change))
    with pytest.raises(UserError, match="lies in the corpus"):
        main(replace(tree, data=tree.clean_dir / "data"))
    assert not tree.data.exists()


# Clean speech and noise


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Options:
    root = tmp_path_factory.mktemp("mixed")
    for number in range(20):
        write(root / f"clean/c{number:02d}.wav", speech(number))
    for number in range(4):
        write(root / f"test/t{number}.wav", 18 * speech(50 + number, rate=48_000), 48_000)  # loud
    for hertz in TONES:
        write(root / f"noises/{hertz}.wav", 0.2 * np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000))
    prepare_noise.main(prepare_noise.Options(out=root / "data", noise_dir=root / "noises"))
    options = Options(
        root / "clean",
        noise=root / "data/noise",
        test_clean_dir=root / "test",
        noise_test=root / "data/noise_test",
        data=root / "data",
        valid_share=0.2,
        nj=1,
    )
    main(options)
    return options


def signals(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(clean, noise) of each pair."""
    utterances = PairedUtterances.open(folder)
    read = [utterances.read(row).astype(float) for row in range(len(utterances))]
    return {name: (clean, noisy - clean) for name, (noisy, clean) in zip(utterances.ids(), read, strict=True)}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.flac")}


def test_counts_of_the_mixed_sets(mixed):
    assert [len(ids(mixed.data / name)) for name in ("train", "valid", "test")] == [16, 4, 4]
    assert not set(ids(mixed.data / "train")) & set(ids(mixed.data / "valid"))
    for name in ("train", "valid", "test"):
        for side in ("clean", "noisy"):
            validate_data.main(validate_data.Options(mixed.data / name / side, threads=1))


def test_measured_ratios_are_those_asked_for_and_all_are_equally_frequent(mixed):
    for name, grid in (("train", [0, 5, 10, 15]), ("valid", [0, 5, 10, 15]), ("test", [2.5, 7.5, 12.5, 17.5])):
        conditions = read_conditions(mixed.data / name)
        for utterance, (clean, noise) in signals(mixed.data / name).items():
            ratio = 10 * np.log10(np.sum(clean**2) / np.sum(noise**2))
            assert ratio == pytest.approx(conditions[utterance].snr, abs=0.1)
            assert conditions[utterance].noise == "noise"
        found = sorted(condition.snr for condition in conditions.values())
        assert found == sorted(grid * (len(found) // 4))


def test_no_noise_of_the_training_is_in_the_test(mixed):
    heard = {
        name: {
            round(np.abs(np.fft.rfft(noise)).argmax() * 16_000 / len(noise) / 500)
            for _, noise in signals(mixed.data / name).values()
        }
        for name in ("train", "valid", "test")
    }
    assert len(heard["train"]) > 1 and heard["valid"] <= {1, 2, 3, 4, 5, 6}
    assert not (heard["train"] | heard["valid"]) & heard["test"]


def test_clean_speech_is_what_was_given_without_its_digital_silence(mixed):
    given = Utterances.open(mixed.data / "train/speech")
    for row, (clean, _) in enumerate(signals(mixed.data / "train").values()):
        speech = given.read(row)
        assert np.abs(clean - speech).max() <= 6 and np.std(clean - speech) == pytest.approx(1.0, abs=0.1)
        assert not any((block == 0).all() for block in clean[: len(clean) // 80 * 80].reshape(-1, 80))


def test_loud_speech_is_turned_down_on_both_sides_and_never_clips(mixed):
    given = Utterances.open(mixed.data / "test/speech")
    for row, (clean, noise) in enumerate(signals(mixed.data / "test").values()):
        assert np.abs(clean + noise).max() <= 0.98 * 32767 + 1
        gain = np.dot(clean, given.read(row)) / np.dot(given.read(row).astype(float), given.read(row))
        assert gain < 0.99 and np.corrcoef(clean, given.read(row))[0, 1] > 0.9999


def test_number_of_processes_does_not_matter_and_the_seed_does(mixed, tmp_path):
    main(replace(mixed, data=tmp_path / "same", nj=2))
    assert files(tmp_path / "same") == files_of_sets(mixed.data)
    assert (tmp_path / "same/train/pairs.tsv").read_text() == (mixed.data / "train/pairs.tsv").read_text()
    main(replace(mixed, data=tmp_path / "other", seed=1, test_clean_dir=None, noise_test=None))
    same, other = files_of_sets(mixed.data), files(tmp_path / "other")
    noisy = [name for name in same.keys() & other.keys() if "/noisy/" in name]
    assert noisy and all(same[name] != other[name] for name in noisy)


def files_of_sets(data: Path) -> dict[str, bytes]:
    return {
        f"{name}/{path}": content for name in ("train", "valid", "test") for path, content in files(data / name).items()
    }


def test_an_interrupted_run_mixes_only_what_is_missing_and_a_whole_one_nothing(mixed, capsys):
    before = files_of_sets(mixed.data)
    times = {path: path.stat().st_mtime_ns for path in mixed.data.rglob("*/audio/*.flac")}
    gone = mixed.data / "train/noisy/audio" / f"{ids(mixed.data / 'train')[3]}.flac"
    gone.unlink()
    (mixed.data / "train/pairs.tsv").unlink()
    main(mixed)
    assert files_of_sets(mixed.data) == before
    made = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert made == {gone, mixed.data / "train/clean/audio" / gone.name}
    capsys.readouterr()
    main(mixed)
    assert capsys.readouterr().out.count("made before, nothing to do") == 3


def test_training_set_may_stay_clean_and_be_mixed_later(mixed, tmp_path):
    later = replace(mixed, data=tmp_path / "data", mix_train=False)
    main(later)
    assert files(tmp_path / "data/train").keys() == files(mixed.data / "train").keys() - {
        f"{side}/audio/{name}.flac" for side in ("clean", "noisy") for name in ids(mixed.data / "train")
    }
    assert ids(tmp_path / "data/valid") == ids(mixed.data / "valid")
    assert Utterances.open(tmp_path / "data/train/speech").ids() == ids(mixed.data / "train")
    main(replace(later, mix_train=True))
    assert files(tmp_path / "data") == files_of_sets(mixed.data)
    with pytest.raises(UserError, match="--mix-train false needs --noise"):
        main(replace(later, noisy_dir=mixed.clean_dir, noise=None))


def test_clean_speech_is_not_taken_for_noisy(mixed, tmp_path):
    with pytest.raises(UserError, match="is given as clean and as noisy folder"):
        main(replace(mixed, data=tmp_path, noise=None, noisy_dir=mixed.clean_dir))
    assert not any(tmp_path.iterdir())


def test_other_options_or_other_noise_in_the_same_folder_are_refused(mixed, tmp_path):
    with pytest.raises(UserError, match="was made with another seed"):
        main(replace(mixed, seed=5))
    with pytest.raises(UserError, match="--noise-test: .* is the training noise, too"):
        main(replace(mixed, data=tmp_path, noise_test=mixed.noise))
    with pytest.raises(UserError, match="there is no such noise folder"):
        main(replace(mixed, data=tmp_path, noise=tmp_path / "none"))
    assert not any(tmp_path.iterdir())
