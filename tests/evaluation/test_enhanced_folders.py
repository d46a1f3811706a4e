import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.evaluation import enhanced_folders as folders_module
from cslib.evaluation.enhanced_folders import Scores, pair_folders, score_folders
from cslib.evaluation.speech_quality import MEASURES, measure
from tests.evaluation.speech import RATE, needs_pesq, noisy, pcm, talk

pytestmark = needs_pesq


def write(path, samples, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")


@pytest.fixture
def folders(tmp_path):
    """Two good pairs, one of them in a subfolder and of different endings."""
    for name, ending, seed in (("a", ".wav", 0), ("s/b.1", ".flac", 1)):
        clean = pcm(talk(seed))
        write(tmp_path / "clean" / f"{name}.wav", clean)
        write(tmp_path / "enhanced" / f"{name}{ending}", pcm(noisy(clean / 32768)))
    return tmp_path / "clean", tmp_path / "enhanced"


def test_pairs_go_by_name_whatever_folder_and_ending(folders):
    (folders[1] / "notes.txt").write_text("x")
    (folders[1] / "._a.wav").write_text("x")
    pairs = pair_folders(*folders)
    assert [pair.name for pair in pairs] == ["a", "s/b.1"]
    assert pairs[1].clean.name == "b.1.wav" and pairs[1].enhanced.name == "b.1.flac"


def test_values_are_those_of_the_samples_and_processes_do_not_matter(folders):
    scores = score_folders(*folders)
    read = [soundfile.read(path, dtype="int16")[0] for path in (folders[0] / "a.wav", folders[1] / "a.wav")]
    assert dict(zip(MEASURES, scores.values[0], strict=True)) == measure(*read)[0]
    again = score_folders(*folders, nj=2)
    assert again.names == scores.names == ["a", "s/b.1"] and again.reasons == ["", ""]
    np.testing.assert_array_equal(again.values, scores.values)


def test_file_that_fails_is_listed_and_counts_in_no_mean(folders, tmp_path):
    whole = score_folders(*folders)
    write(folders[0] / "c.wav", pcm(talk(2)))
    write(folders[1] / "c.wav", np.zeros(2 * RATE, np.int16))
    scores = score_folders(*folders)
    assert scores.failures() == [("c", "the enhanced recording is silent")]
    assert scores.means() == whole.means() and scores.intervals() == whole.intervals()
    scores.write(tmp_path / "table.tsv")
    header, *rows = [line.split("\t") for line in (tmp_path / "table.tsv").read_text().splitlines()]
    assert header == ["file", *MEASURES, "reason"] and [row[0] for row in rows] == ["a", "c", "s/b.1"]
    assert rows[1] == ["c", *["-"] * len(MEASURES), "the enhanced recording is silent"]
    assert float(rows[0][1]) == pytest.approx(scores.values[0, 0], abs=1e-6) and rows[0][-1] == "-"


def test_pesq_that_fails_leaves_the_other_measures_in_the_table(folders):
    speech = np.concatenate([talk(3, 10.5), np.zeros(round(10.5 * RATE))])  # two pieces for PESQ, one of them silent
    write(folders[0] / "long.wav", pcm(speech))
    write(folders[1] / "long.wav", pcm(noisy(speech)))
    scores = score_folders(*folders)
    row = dict(zip(MEASURES, scores.values[scores.names.index("long")], strict=True))
    assert np.isnan([row["pesq"], row["covl"]]).all() and np.isfinite([row["stoi"], row["ssnr"], row["si_sdr"]]).all()
    assert [name for name, _ in scores.failures()] == ["long"]


def test_only_failures_is_an_error(tmp_path):
    for folder, samples in (("clean", talk()), ("enhanced", np.zeros(2 * RATE))):
        write(tmp_path / folder / "a.wav", samples)
    with pytest.raises(UserError, match=r"all 1 recordings lack .* a \(the enhanced recording is silent\)"):
        score_folders(tmp_path / "clean", tmp_path / "enhanced").means()


def scores_of(values):
    values = np.repeat(np.asarray(values, float)[:, None], len(MEASURES), axis=1)
    return Scores([str(number) for number in range(len(values))], values, [""] * len(values))


def test_interval_is_that_of_the_mean():
    scores = scores_of(np.random.default_rng(0).normal(3, 0.5, 400))
    low, high = scores.intervals()["pesq"]
    assert scores.means()["pesq"] - low == pytest.approx(1.96 * 0.5 / 20, rel=0.15)
    assert high - scores.means()["pesq"] == pytest.approx(1.96 * 0.5 / 20, rel=0.15)
    assert scores.intervals() == scores.intervals() != scores.intervals(seed=1)


def test_the_bootstrap_draws_the_same_however_much_it_holds_at_once(monkeypatch):
    values = np.random.default_rng(0).normal(size=(30, 2))
    whole = folders_module.resampled_means(values, 50)
    np.testing.assert_array_equal(whole, values[np.random.default_rng(0).integers(30, size=(50, 30))].mean(axis=1))
    monkeypatch.setattr(folders_module, "HELD", 7 * values.size)
    np.testing.assert_array_equal(folders_module.resampled_means(values, 50), whole)


def test_interval_of_equal_values_is_a_point():
    assert scores_of([2.5, 2.5, 2.5]).intervals()["stoi"] == pytest.approx((2.5, 2.5))


def spoil(folders, case):
    clean, enhanced = folders
    if case == "no folder":
        return clean, enhanced / "x"
    if case == "empty":
        (clean / "x").mkdir()
        return clean / "x", enhanced
    if case == "not enhanced":
        write(clean / "c.wav", talk(2))
    if case == "not clean":
        write(enhanced / "c.wav", talk(2))
    if case == "two of a name":
        write(enhanced / "a.flac", talk(2))
    if case == "rate":
        write(enhanced / "a.wav", talk(2), 48000)
    if case == "stereo":
        write(clean / "a.wav", np.stack([talk(2)] * 2, 1))
    if case == "length":
        write(enhanced / "a.wav", talk(2)[:-100])
    if case == "not audio":
        (enhanced / "a.wav").write_bytes(b"RIFF" + b"x" * 100)
    if case == "nan":
        soundfile.write(enhanced / "a.wav", np.full(2 * RATE, np.nan), RATE, subtype="FLOAT")
    return folders


@pytest.mark.parametrize(
    "case, message",
    [
        ("no folder", "no such folder"),
        ("empty", "has no audio file"),
        ("not enhanced", "no enhanced version of 1 of the 3 recordings in .*, e.g. c;"),
        ("not clean", "no clean version of 1 of the 3 recordings in .*, e.g. c;"),
        ("two of a name", "has the same name as .* remove one"),
        ("rate", "48000 Hz with 1 channels, expected 16000 Hz mono"),
        ("stereo", "16000 Hz with 2 channels"),
        ("length", "has 31,900 samples, and the clean recording .* 32,000;"),
        ("not audio", "a.wav: cannot be read"),
        ("nan", "the enhanced recording has samples that are not finite"),
    ],
)
def test_folders_that_do_not_fit_are_one_sentence(folders, case, message):
    with pytest.raises(UserError, match=message) as error:
        score_folders(*spoil(folders, case))
    assert "\n" not in str(error.value)
