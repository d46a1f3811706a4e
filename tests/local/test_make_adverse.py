from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.data.banks import BankWriter, open_banks
from cslib.data.manifests import Entry, write_set
from cslib.data.trials import read_trials, write_trials
from cslib.data.utterances import Utterances
from local import make_adverse
from local.make_adverse import Options, degrade, draw_condition

SPEAKERS = [f"s{number % 4}" for number in range(24)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    entries = []
    for number, speaker in enumerate(SPEAKERS):
        path = folder / "test" / "audio" / f"u{number:02d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = 0.2 * rng.standard_normal(int(rng.integers(8000, 16000)))
        soundfile.write(path, samples, 16000, "PCM_16")
        entries.append(Entry(path.stem, path, len(samples), speaker, "f", f"{speaker}-1"))
    write_set(folder / "test", entries)
    write_trials(folder / "test" / "trials" / "clean.txt", ["u00", "u01"], ["u04", "u02"], [True, False])
    with BankWriter(folder / "noise_test" / "noise", np.int16) as writer:
        writer.add(rng.integers(-9000, 9000, 20000).astype(np.int16))
    with BankWriter(folder / "noise_test" / "rirs", np.float32) as writer:
        for _ in range(5):
            tail = 0.1 * rng.standard_normal(799) * np.exp(-np.arange(799) / 200)
            writer.add(np.concatenate([[1.0], tail]).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def options(corpus) -> Options:
    return Options(corpus / "test", corpus / "noise_test", corpus / "test_adverse", nj=1)


@pytest.fixture(scope="module")
def adverse(options) -> Path:
    make_adverse.main(options)
    return options.out


def read_conditions(folder: Path) -> list[dict[str, str]]:
    header, *rows = (line.split("\t") for line in (folder / "conditions.tsv").read_text().splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "audio").iterdir()}


def test_ids_lengths_labels_and_trials_are_those_of_the_clean_set(corpus, adverse):
    clean, ours = Utterances.open(corpus / "test"), Utterances.open(adverse)
    assert ours.ids() == clean.ids() and (ours.num_samples == clean.num_samples).all()
    assert (adverse / "speakers.tsv").read_text() == (corpus / "test" / "speakers.tsv").read_text()
    trials = read_trials(adverse / "trials" / "adverse.txt")
    assert (trials.enrol, trials.test) == (["u00", "u01"], ["u04", "u02"])
    assert list(trials.targets) == [True, False]


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(np.sum(one.astype(float) ** 2) / np.sum(other.astype(float) ** 2))


def test_measured_ratios_are_those_of_conditions_tsv(corpus, options, adverse):
    utterances, banks = Utterances.open(corpus / "test"), open_banks(options.noise)
    for row, told in enumerate(read_conditions(adverse)):
        condition = draw_condition(options.seed, row, SPEAKERS, banks)
        recording, parts = degrade(condition, utterances, banks)
        np.testing.assert_array_equal(Utterances.open(adverse).read(row), recording)
        np.testing.assert_allclose(parts.sum(axis=0) * 32768, recording, atol=1.0)
        assert decibels(parts[0], parts[1]) == pytest.approx(float(told["snr"]), abs=0.02)
        assert 0 <= float(told["snr"]) <= 15
        if len(parts) == 3:
            assert decibels(parts[0], parts[2]) == pytest.approx(float(told["sir"]), abs=0.02)
            assert 5 <= float(told["sir"]) <= 15
        else:
            assert told["interferer"] == told["sir"] == "-"


def test_interferers_are_other_speakers_in_about_half_of_the_recordings(options, adverse):
    speaker = dict(zip((f"u{number:02d}" for number in range(24)), SPEAKERS, strict=True))
    rows = read_conditions(adverse)
    disturbed = [row for row in rows if row["interferer"] != "-"]
    assert all(speaker[row["interferer"]] != speaker[row["utterance"]] for row in disturbed)
    banks = open_banks(options.noise)
    many = [draw_condition(0, row % 24, SPEAKERS, banks) for row in range(24)]
    many += [draw_condition(seed, 0, SPEAKERS, banks) for seed in range(400)]
    assert np.mean([condition.interferer is not None for condition in many]) == pytest.approx(0.5, abs=0.08)
    assert len({condition.rir for condition in many}) == 5


def test_nothing_clips(adverse):
    utterances = Utterances.open(adverse)
    peaks = [np.abs(utterances.read(row).astype(int)).max() for row in range(len(utterances))]
    assert max(peaks) <= 0.98 * 32768 + 1


def test_number_of_processes_does_not_matter(options, adverse, tmp_path):
    make_adverse.main(replace(options, out=tmp_path, nj=2))
    assert bytes_of(tmp_path) == bytes_of(adverse)
    assert (tmp_path / "conditions.tsv").read_text() == (adverse / "conditions.tsv").read_text()


def test_interrupted_run_makes_only_what_is_missing(options, adverse, tmp_path):
    make_adverse.main(replace(options, out=tmp_path))
    (tmp_path / "trials" / "adverse.txt").unlink()
    (tmp_path / "audio" / "u03.flac").unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "audio").iterdir()}
    make_adverse.main(replace(options, out=tmp_path))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert bytes_of(tmp_path) == bytes_of(adverse)


def test_second_run_does_nothing_and_another_seed_is_refused(options, adverse, capsys):
    make_adverse.main(options)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="made with other options"):
        make_adverse.main(replace(options, seed=1))


def test_only_the_recordings_of_the_list_and_each_as_in_the_whole_set(options, adverse, tmp_path):
    make_adverse.main(replace(options, out=tmp_path, only_trials=True))
    assert Utterances.open(tmp_path).ids() == ["u00", "u01", "u02", "u04"]
    whole = bytes_of(adverse)
    assert all(whole[name] == content for name, content in bytes_of(tmp_path).items())
    assert len((tmp_path / "speakers.tsv").read_text().splitlines()) == 5


def test_missing_list_or_speakers_is_one_sentence(options, corpus, tmp_path):
    with pytest.raises(UserError, match="other.txt"):
        make_adverse.main(replace(options, out=tmp_path / "a", trials="other"))
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="speakers.tsv: has one speaker only"):
        (tmp_path / "speakers.tsv").write_text("utterance\tspeaker\nu0\ts\nu1\ts\n")
        make_adverse.read_people(tmp_path, ["u0", "u1"])
    with pytest.raises(UserError, match="lacks 1 utterances"):
        make_adverse.read_people(tmp_path, ["u0", "u2"])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"id\tname\nu0\ts\n", b"utterance\tspeaker\nu0\n"])
def test_damaged_speakers_are_one_sentence(tmp_path, content):
    (tmp_path / "speakers.tsv").write_bytes(content)
    with pytest.raises(UserError, match="speakers.tsv: damaged, .* prepare the set again"):
        make_adverse.read_people(tmp_path, ["u0"])
