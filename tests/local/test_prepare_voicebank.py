"""VoiceBank-DEMAND look-alikes, a few recordings in the published layout."""

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.data.pairs import Condition, PairedUtterances, read_conditions
from local.prepare_voicebank import TRAIN_SETS, Options, main
from utils import validate_data

RATE = 48_000
SPEAKERS = ("p226", "p227", "p228", "p287")


def write_pair(corpus, name, part, seconds=0.3, rate=RATE):
    """A tone of 1 kHz with one of 12 kHz, which 16 kHz cannot hold; and the same with noise."""
    rng = np.random.default_rng(int(name[1:4]) * 1000 + int(name[-3:]))
    time = np.arange(round(seconds * rate) + int(name[-1])) / rate
    clean = 0.1 * np.sin(2 * np.pi * 1000 * time) + (0.1 * np.sin(2 * np.pi * 12000 * time) if rate > 24_000 else 0)
    for side, samples in (("clean", clean), ("noisy", clean + 0.02 * rng.standard_normal(len(clean)))):
        folder = corpus / f"{side}_{part}_wav"
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{name}.wav", samples, rate)


def make_corpus(corpus, part="trainset_28spk", speakers=SPEAKERS, rate=RATE):
    names = [f"{speaker}_{n:03d}" for speaker in speakers for n in (1, 2)]
    for name in names:
        write_pair(corpus, name, part, rate=rate)
    (corpus / f"log_{part}.txt").write_text("".join(f"{name} cafeteria 5\n" for name in names))
    for name in ("p232_001", "p257_003"):
        write_pair(corpus, name, "testset", rate=rate)
    (corpus / "logfiles").mkdir()
    (corpus / "logfiles/log_testset.txt").write_text("p232_001 bus 2.5\np257_003 living 17.5\n")
    return corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("voicebank"))


@pytest.fixture(scope="module")
def data(corpus):
    folder = corpus / "data"
    main(Options(corpus, data=folder, nj=1))
    return folder


def ids(folder):
    return PairedUtterances.open(folder).ids()


def times(folder):
    return {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "journal.jsonl"
    }


def strongest(samples):
    return np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * 16000 / len(samples)


def test_two_speakers_are_held_out_and_the_test_set_is_whole(data):
    assert ids(data / "train") == ["p227_001", "p227_002", "p228_001", "p228_002"]
    assert ids(data / "valid") == ["p226_001", "p226_002", "p287_001", "p287_002"]
    assert ids(data / "test") == ["p232_001", "p257_003"]
    for name in ("train", "valid", "test"):
        for side in ("clean", "noisy"):
            validate_data.main(validate_data.Options(data / name / side, threads=1))  # no speaker in the manifests
            rows = (data / name / side / "speakers.tsv").read_text().splitlines()
            assert rows[1:] == [f"{utterance}\t{utterance[:4]}" for utterance in ids(data / name)]


def test_ratios_and_noises_are_those_of_the_published_logs(data):
    assert read_conditions(data / "test") == {"p232_001": Condition(2.5, "bus"), "p257_003": Condition(17.5, "living")}
    assert set(read_conditions(data / "train").values()) == {Condition(5.0, "cafeteria")}


def test_recordings_are_resampled_to_16_khz_with_both_sides_in_step(corpus, data):
    for row, name in enumerate(ids(data / "train")):
        noisy, clean = PairedUtterances.open(data / "train").read(row) / 32768
        path = corpus / "clean_trainset_28spk_wav" / f"{name}.wav"
        assert len(clean) == -(-soundfile.info(path).frames // 3)
        assert strongest(clean) == pytest.approx(1000, abs=16000 / len(clean))
        inner = clean[200:-200]  # away from the edges only the lower tone is left
        assert np.sqrt(np.mean(inner**2)) == pytest.approx(0.1 / np.sqrt(2), rel=0.01)
        assert np.corrcoef(inner, noisy[200:-200])[0, 1] > 0.95
        assert soundfile.info(data / f"train/noisy/audio/{name}.flac").subtype == "PCM_16"
    assert len(list(corpus.rglob("*.wav"))) == 20  # the source stays


def test_other_counts_than_published_are_reported(tmp_path, capsys):
    main(Options(make_corpus(tmp_path, rate=16_000), data=tmp_path / "data", nj=1))
    told = capsys.readouterr()
    assert "trainset_28spk has 8 pairs of 4 speakers here, instead of the published 11,572 of 28" in told.err
    assert "testset has 2 pairs of 2 speakers here, instead of the published 824 of 2" in told.err
    for name, expected in (("train", "10,802"), ("valid", "770"), ("test", "824")):
        assert f"{name}: {len(ids(tmp_path / 'data' / name))} pairs instead of the published {expected}" in told.err
    assert "valid: holds out p226 and p287" in told.out
    assert not list((tmp_path / "data").rglob("*.flac"))  # at 16 kHz they are used as they lie there


def test_of_the_larger_training_set_two_others_are_held_out(tmp_path):
    make_corpus(tmp_path, "trainset_56spk", ("p234", "p237", "p241"), rate=16_000)
    main(Options(tmp_path, train_set="56spk", data=tmp_path / "data", nj=1))
    assert {name[:4] for name in ids(tmp_path / "data/valid")} == {"p234", "p237"}
    assert {name[:4] for name in ids(tmp_path / "data/train")} == {"p241"}
    assert TRAIN_SETS["56spk"].pairs == 23_075
    with pytest.raises(UserError, match="--train-set is 84spk; it must be 28spk or 56spk"):
        main(Options(tmp_path, train_set="84spk", data=tmp_path / "data", nj=1))


def test_a_second_run_touches_nothing_and_a_killed_one_continues(corpus, data, capsys):
    before = times(data)
    main(Options(corpus, data=data, nj=2))
    assert "complete already, nothing to do" in capsys.readouterr().out
    assert times(data) == before
    lost = data / "valid/noisy/audio/p226_002.flac"  # as if it had been killed before this one was made
    for path in (lost, data / "valid/pairs.tsv", *(data / "valid/noisy").glob("*.*")):
        path.unlink()
    main(Options(corpus, data=data, nj=1))
    after = times(data)
    assert after.keys() == before.keys()
    assert {path for path in after if path.suffix == ".flac" and after[path] != before[path]} == {lost}
    assert ids(data / "valid") == ["p226_001", "p226_002", "p287_001", "p287_002"]


def test_another_corpus_in_the_same_folder_is_refused(corpus, data, tmp_path):
    make_corpus(tmp_path, rate=16_000)
    with pytest.raises(UserError, match="was made with another corpus"):
        main(Options(tmp_path, data=data, nj=1))


def test_logs_that_are_missing_leave_the_conditions_unknown(tmp_path, capsys):
    make_corpus(tmp_path, rate=16_000)
    (tmp_path / "log_trainset_28spk.txt").unlink()
    main(Options(tmp_path, data=tmp_path / "data", nj=1))
    assert set(read_conditions(tmp_path / "data/train").values()) == {Condition()}
    assert "no log_trainset_28spk.txt, so SNRs and noises are unknown" in capsys.readouterr().err


def lose_a_partner(corpus):
    (corpus / "noisy_trainset_28spk_wav/p228_002.wav").unlink()


def cut_a_partner(corpus):
    path = corpus / "noisy_testset_wav/p257_003.wav"
    soundfile.write(path, soundfile.read(path)[0][:-500], 16_000)


def add_a_stranger(corpus):
    for side in ("clean", "noisy"):
        soundfile.write(corpus / f"{side}_testset_wav/hello.wav", np.ones(3000) / 10, 16_000)


def lose_a_folder(corpus):
    (corpus / "clean_testset_wav").rename(corpus / "clean_testset")


def lose_the_held_out(corpus):
    for path in corpus.glob("*_trainset_28spk_wav/p2[28][67]_*.wav"):
        if path.name[:4] in ("p226", "p287"):
            path.unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            lose_a_partner,
            r"clean_trainset_28spk_wav/p228_002.wav: .*noisy_trainset_28spk_wav has no recording of this "
            r"name \(1 of 8 lack a partner\)",
        ),
        (add_a_stranger, r"noisy_testset_wav/hello.wav: is not named like p226_001.wav"),
        (lose_a_folder, r"clean_testset_wav: there is no such folder; unpack clean_testset_wav.zip there, from https"),
        (cut_a_partner, r"noisy_testset_wav/p257_003.wav: has 4,303 samples at 16 kHz and its clean partner .* 4,803"),
        (lose_the_held_out, r"trainset_28spk: must hold recordings of p226 or p287"),
    ],
)
def test_another_layout_than_published_is_refused_in_a_sentence_before_anything_is_made(tmp_path, damage, message):
    damage(make_corpus(tmp_path, rate=16_000))
    with pytest.raises(UserError, match=message):
        main(Options(tmp_path, data=tmp_path / "data", nj=1))
    assert not (tmp_path / "data").exists()
