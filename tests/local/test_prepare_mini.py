import gzip
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.data.manifests import Entry
from cslib.data.trials import read_trials
from cslib.data.utterances import Utterances
from local import prepare_mini
from local.prepare_mini import Options, draw_trials

TINY = Options(train_speakers=3, train_sessions=2, train_utterances=2, test_speakers=3, test_sessions=2,
               test_utterances=1, nontargets_per_target=2)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("mini")
    prepare_mini.main(replace(TINY, out=out))
    return out


def read_speakers(folder: Path) -> list[dict[str, str]]:
    header, *rows = (line.split("\t") for line in (folder / "speakers.tsv").read_text().splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_counts_lengths_and_format(corpus):
    for name, count in (("train", 12), ("test", 6)):
        utterances = Utterances.open(corpus / name)
        assert len(utterances) == count
        seconds = utterances.num_samples / 16000
        assert seconds.min() >= 3 and seconds.max() <= 6
        for file in (corpus / name / "audio").iterdir():
            info = soundfile.info(file)
            assert (info.samplerate, info.channels, info.format, info.subtype) == (16000, 1, "FLAC", "PCM_16")


def test_speech_is_audible_and_does_not_clip(corpus):
    utterances = Utterances.open(corpus / "train")
    for row in range(len(utterances)):
        samples = utterances.read(row) / 32768
        assert -40 < 20 * np.log10(np.sqrt(np.mean(samples**2))) < -12
        assert np.abs(samples).max() < 0.99


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(corpus, tmp_path):
    # Run as a script, the way people do, where the other runs as a function.
    sizes = [f"--{name}={getattr(TINY, name)}" for name in vars(TINY) if name not in ("out", "nj")]
    command = [sys.executable, "local/prepare_mini.py", "--out", str(tmp_path), "--nj", "1", *sizes]
    root = Path(prepare_mini.__file__).parents[1]
    subprocess.run(command, check=True, cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True)
    files = [path for path in corpus.rglob("*") if path.suffix in (".flac", ".tsv", ".txt")]
    assert len(files) > 18
    assert all(path.read_bytes() == (tmp_path / path.relative_to(corpus)).read_bytes() for path in files)


def test_another_seed_gives_other_speech(corpus, tmp_path):
    prepare_mini.main(replace(TINY, out=tmp_path, seed=1, train_speakers=1, test_speakers=2))
    ours = {path.read_bytes() for path in corpus.rglob("*.flac")}
    assert not ours & {path.read_bytes() for path in tmp_path.rglob("*.flac")}


def test_manifests_name_no_speaker(corpus):
    for path in (corpus / "train").glob("*.jsonl.gz"):
        text = gzip.decompress(path.read_bytes()).decode()
        assert '"speaker"' not in text and "train-speaker" not in text


def test_ids_are_opaque(corpus):
    rows = read_speakers(corpus / "train")
    assert [row["utterance"] for row in rows] == [f"train-{n:06d}" for n in range(12)]
    speakers = [row["speaker"] for row in rows]
    assert speakers != sorted(speakers)
    neighbours_agree = np.mean([one == other for one, other in zip(speakers, speakers[1:], strict=False)])
    assert neighbours_agree < 0.6  # 1.0 but for the borders if order told; 0.27 by chance


def test_both_sexes_and_all_sessions_are_there(corpus):
    rows = read_speakers(corpus / "test")
    assert {row["sex"] for row in rows} == {"f", "m"}
    assert len({row["session"] for row in rows}) == 6


def test_training_and_test_speakers_differ(corpus):
    train, test = ({row["speaker"] for row in read_speakers(corpus / name)} for name in ("train", "test"))
    assert len(train) == len(test) == 3 and not train & test


def test_trials_on_disk_name_test_utterances(corpus):
    trials = read_trials(corpus / "test" / "trials" / "clean.txt")
    assert set(trials.ids) <= set(Utterances.open(corpus / "test").ids())
    assert trials.targets.sum() == 3


def test_a_second_run_does_nothing(corpus, capsys):
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    prepare_mini.main(replace(TINY, out=corpus))
    assert "nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}


def test_other_options_in_the_same_folder_are_refused(corpus):
    with pytest.raises(UserError, match="other options"):
        prepare_mini.main(replace(TINY, out=corpus, seed=7))


def test_one_session_is_refused_because_targets_cross_sessions(tmp_path):
    with pytest.raises(UserError, match="--test-sessions is 1; it must be at least 2"):
        prepare_mini.main(replace(TINY, out=tmp_path, test_sessions=1))


def test_trials_of_the_full_size():
    entries = [
        Entry(f"test-{number:06d}", "", 1, f"s{speaker}", "fm"[speaker % 2], f"s{speaker}-{session}")
        for number, (speaker, session, _) in enumerate(np.ndindex(20, 3, 4))
    ]
    enrol, test, targets = draw_trials(entries, 10, seed=0)
    of = {entry.id: entry for entry in entries}
    pairs = [(of[one], of[other]) for one, other in zip(enrol, test, strict=True)]
    same_speaker = np.array([one.speaker == other.speaker for one, other in pairs])
    same_session = np.array([one.session == other.session for one, other in pairs])
    same_sex = np.array([one.sex == other.sex for one, other in pairs])
    assert len(set(zip(enrol, test, strict=True))) == len(pairs)
    np.testing.assert_array_equal(same_speaker, targets)
    assert targets.sum() == 960 and (~targets).sum() == 9600  # 960: all pairs across sessions
    assert not same_session.any()
    assert same_sex[~targets].mean() == pytest.approx(2 / 3)
    again = draw_trials(entries, 10, seed=0)
    assert (enrol, test) == again[:2]
