"""Your own labelled recordings: a folder for each class, or a table."""

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.data.classes import ClassTable
from local.prepare_emotion_folder import Options, main
from utils import validate_data


def wav(path, seconds=0.5, rate=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, path.name))
    soundfile.write(path, 0.1 * np.random.default_rng(seed).uniform(-1, 1, int(seconds * rate)), rate)


def by_speaker(corpus, classes=("glad", "cross"), speakers="abc"):
    for name in classes:
        for speaker in speakers:
            for take in "12":
                wav(corpus / name / speaker / f"{take}.wav")
    return corpus


def prepared(data):
    validate_data.main(validate_data.Options(data / "all", threads=1))
    return ClassTable.read(data / "all/emotions.tsv")


def test_folders_of_classes_and_speakers(tmp_path, capsys):
    corpus = by_speaker(tmp_path / "corpus")
    wav(corpus / "cross/a/phone.flac", rate=8000)
    wav(corpus / "cross/a/click.wav", seconds=0.1)
    wav(corpus / "whose.wav")
    main(Options(corpus, data=tmp_path / "data", nj=1))
    table = prepared(tmp_path / "data")
    assert set(zip(table.labels, table.speakers, strict=True)) == {(c, s) for c in ("glad", "cross") for s in "abc"}
    assert len(table) == 13 and "cross-a-phone" in table.utterances and "cross-a-click" not in table.utterances
    folds = {speaker: set(table.folds[table.speakers == speaker].tolist()) for speaker in "abc"}
    assert sorted(map(tuple, folds.values())) == [("fold1",), ("fold2",), ("fold3",)]
    told = capsys.readouterr()
    assert "there are 3 folds, as many as speakers" in told.out
    assert (
        "1 recordings of " in told.err
        and "no folder named after a class and are left out; the first is whose.wav" in told.err
    )
    assert len(list((tmp_path / "data/all/audio").iterdir())) == 1  # the rest is used as it lies there


def test_without_speakers_every_recording_counts_as_one_with_a_warning(tmp_path, capsys):
    for name in ("glad", "cross"):
        for take in range(6):
            wav(tmp_path / "corpus" / name / f"{take}.wav")
    main(Options(tmp_path / "corpus", data=tmp_path / "data", folds=3, nj=1))
    table = prepared(tmp_path / "data")
    assert len(set(table.speakers)) == 12
    assert all(
        np.sum((table.folds == fold) & (table.labels == name)) == 2
        for fold in ("fold1", "fold2", "fold3")
        for name in ("glad", "cross")
    )
    assert "speakers are unknown, so each recording counts as one" in capsys.readouterr().err


def test_table_with_paths_from_its_folder_and_from_elsewhere(tmp_path):
    rows = ["path\tlabel\tspeaker"]
    for at, speaker in enumerate("abab"):
        wav(tmp_path / f"corpus/{at}.wav")
        rows.append(f"../corpus/{at}.wav\t{-1 if at < 2 else 1}\t{speaker}")
    wav(tmp_path / "other/phone.wav", rate=8000)
    rows.append(f"{tmp_path / 'other/phone.wav'}\t1\tc")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/recordings.tsv").write_text("\n".join(rows))
    main(Options(table=tmp_path / "lists/recordings.tsv", data=tmp_path / "data", nj=1))
    table = prepared(tmp_path / "data")
    assert table.utterances.tolist() == [*(f"corpus-{at}" for at in range(4)), "other-phone"]
    assert table.labels.tolist() == ["-1", "-1", "1", "1", "1"] and table.speakers.tolist() == list("ababc")
    # What had to be converted lies with the set, wherever it came from.
    assert [path.name for path in (tmp_path / "data/all/audio").iterdir()] == ["other-phone.flac"]


def test_another_speaker_of_the_same_recordings_is_written_everywhere(tmp_path):
    for name in ("x.wav", "y.wav"):
        wav(tmp_path / name)
    for speaker in "ab":
        (tmp_path / "table.tsv").write_text(f"path\tlabel\tspeaker\nx.wav\t1\t{speaker}\ny.wav\t0\tc\n")
        main(Options(table=tmp_path / "table.tsv", data=tmp_path / "data", nj=1))
        assert sorted(prepared(tmp_path / "data").speakers) == [speaker, "c"]
        rows = (tmp_path / "data/all/speakers.tsv").read_text().splitlines()[1:]
        assert sorted(row.split("\t")[1] for row in rows) == [speaker, "c"]


def test_table_with_a_file_in_the_new_set_is_refused_and_nothing_is_lost(tmp_path):
    recording = tmp_path / "data/all/audio/a.wav"
    wav(recording)
    wav(tmp_path / "b.wav")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for path in ("data/all/audio/a.wav", "link/all/audio/a.wav"):
        (tmp_path / "table.tsv").write_text(f"path\tlabel\tspeaker\nb.wav\tglad\ta\n{path}\tcross\tb\n")
        with pytest.raises(UserError, match="line 3 names .*a.wav, which lies in .*choose another --data"):
            main(Options(table=tmp_path / "table.tsv", data=tmp_path / "data", nj=1))
    assert recording.exists()


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("file\tlabel\tspeaker\n", "first line must name the columns path, label and speaker"),
        ("path\tlabel\tspeaker\n", "lists no recording"),
        ("path\tlabel\tspeaker\na.wav\tglad\t\n", "line 2 lacks its path, its label or its speaker"),
        ("path\tlabel\tspeaker\nb.wav\tglad\ta\n", "line 2 names b.wav, which is not there"),
        ("path\tlabel\tspeaker\na.wav\tglad\ta\n./a.wav\tglad\ta\n", "line 3 names ./a.wav, which comes twice"),
        ("path\tlabel\tspeaker\na.wav\tglad\ta\n", "all recordings are of one speaker; give at least two"),
    ],
)
def test_bad_table_is_one_sentence_and_nothing_is_made(tmp_path, text, sentence):
    wav(tmp_path / "a.wav")
    (tmp_path / "table.tsv").write_text(text)
    with pytest.raises(UserError, match=sentence):
        main(Options(table=tmp_path / "table.tsv", data=tmp_path / "data", nj=1))
    assert not (tmp_path / "data").exists()


def test_bad_folder_is_one_sentence_and_nothing_is_made(tmp_path):
    def refused(sentence, corpus, data=tmp_path / "data"):
        with pytest.raises(UserError, match=sentence):
            main(Options(corpus, data=data, nj=1))
        assert not (data / "all").exists()

    refused("there is no such folder", tmp_path / "nowhere")
    refused("give either --class-dir", None)
    wav(tmp_path / "loose/a.wav")
    refused("no recording .* in folders named after classes", tmp_path / "loose")
    by_speaker(tmp_path / "mixed")
    refused("lies in the corpus", tmp_path / "mixed", tmp_path / "mixed/data")
    wav(tmp_path / "mixed/glad/loose.wav")
    refused("glad/loose.wav: is in no speaker's folder, but others are", tmp_path / "mixed")
    by_speaker(tmp_path / "one", classes=["glad"])
    refused("all 6 utterances are of one class", tmp_path / "one")
    for path in by_speaker(tmp_path / "broken").rglob("*.wav"):
        path.write_bytes(b"no sound at all")
    refused("recordings cannot be read", tmp_path / "broken")
