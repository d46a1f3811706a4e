"""IEMOCAP, CREMA-D and MSP-Podcast look-alikes in their published layouts: classes, merges and folds are counted."""

from collections import Counter

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.data.classes import ClassTable
from local import prepare_cremad, prepare_iemocap, prepare_msp_podcast
from utils import validate_data

RATE = 16_000


def wav(path, seconds=0.4, seed=0, silent=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE)).clip(-3, 3)
    soundfile.write(path, 0 * samples if silent else samples, RATE)


def counts(table):
    return Counter(zip(table.folds.tolist(), table.labels.tolist(), strict=True))


def speakers(table):
    """Speakers of each fold; none may be in two."""
    found = {fold: set(table.speakers[table.folds == fold].tolist()) for fold in set(table.folds.tolist())}
    assert sum(map(len, found.values())) == len(set(table.speakers.tolist()))
    return found


def check(data):
    """The set is a valid one, its manifests name no speaker, and its table has the same utterances."""
    validate_data.main(validate_data.Options(data / "all", threads=1, full=True))
    table = ClassTable.read(data / "all/emotions.tsv")
    rows = [line.split("\t") for line in (data / "all/speakers.tsv").read_text().splitlines()[1:]]
    assert [row[:2] for row in rows] == np.stack([table.utterances, table.speakers], axis=1).tolist()
    return table


TURNS = ["ang", "hap", "exc", "exc", "neu", "sad", "fru", "xxx", "sur"]


def make_iemocap(corpus, sessions=range(1, 6)):
    """In each session a dialogue of the woman's and one of the man's, in which both speak: nine turns each."""
    for number in sessions:
        session = corpus / f"Session{number}"
        for wearer in "FM":
            dialogue = f"Ses0{number}{wearer}_impro01"
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
            for sex in "FM":
                for at, code in enumerate(TURNS):
                    turn = f"{dialogue}_{sex}{at:03d}"
                    lines += [
                        f"[{at}.2901 - {at}.8]\t{turn}\t{code}\t[2.5000, 2.5000, 2.5000]",
                        "C-E2:\tNeutral;\t()",
                        "",
                    ]
                    wav(session / f"sentences/wav/{dialogue}/{turn}.wav", seed=at)
            folder = session / "dialog/EmoEvaluation"
            (folder / "Categorical").mkdir(parents=True, exist_ok=True)
            (folder / f"{dialogue}.txt").write_text("\n".join(lines))
            (folder / f"._{dialogue}.txt").write_bytes(b"\0\5\26\7" + b"\xff" * 40)
            (folder / "Categorical" / f"{dialogue}_e1_cat.txt").write_text(lines[2].replace("ang", "sad"))
    return corpus


@pytest.fixture(scope="module")
def iemocap(tmp_path_factory):
    return make_iemocap(tmp_path_factory.mktemp("iemocap"))


@pytest.mark.parametrize("merge, happy", [(True, 12), (False, 4)])
def test_iemocap_has_four_classes_and_a_fold_for_each_session(iemocap, tmp_path, capsys, merge, happy):
    prepare_iemocap.main(prepare_iemocap.Options(iemocap, tmp_path, merge_excited=merge, nj=1))
    table = check(tmp_path)
    assert counts(table) == {
        (f"session{number}", name): {"happy": happy}.get(name, 4)
        for number in range(1, 6)
        for name in ("angry", "happy", "neutral", "sad")
    }
    assert speakers(table) == {f"session{number}": {f"Ses0{number}F", f"Ses0{number}M"} for number in range(1, 6)}
    # Who speaks is told by the letter of the turn, not by that of the dialogue: Ses01F_impro01_M000 is Ses01M.
    assert all(
        speaker == utterance[:5] + utterance.rpartition("_")[2][0]
        for utterance, speaker in zip(table.utterances, table.speakers, strict=True)
    )
    assert [split.fold for split in table.splits()] == [f"session{number}" for number in range(1, 6)]
    published = 5531 if merge else 4490
    assert (
        f"IEMOCAP has {len(table)} of the {published:,} published utterances here (20 of 1,103 angry, "
        in capsys.readouterr().err
    )


def test_published_counts_of_iemocap_add_up():
    assert sum(prepare_iemocap.PUBLISHED.values()) == 5531
    assert sum(prepare_cremad.PUBLISHED.values()) == 4899  # and a silent one


def test_iemocap_again_touches_nothing_and_lost_recordings_are_an_error(iemocap, tmp_path, capsys):
    options = prepare_iemocap.Options(iemocap, tmp_path, nj=1)
    prepare_iemocap.main(options)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.[tg][sz]*")}
    assert len(before) > 4
    capsys.readouterr()
    prepare_iemocap.main(options)
    assert "complete already, nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.[tg][sz]*")}

    lost = make_iemocap(tmp_path / "lost")
    for path in lost.glob("Session1/sentences/wav/Ses01F_impro01/*.wav"):
        path.unlink()
    with pytest.raises(UserError, match="12 of 120 recordings cannot be read"):
        prepare_iemocap.main(prepare_iemocap.Options(lost, tmp_path / "new", nj=1))


def test_iemocap_without_a_session_is_refused_before_anything_is_made(tmp_path):
    make_iemocap(tmp_path / "four", sessions=range(1, 5))
    for corpus in (tmp_path / "four", tmp_path / "four/Session1", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="there are no turns in dialog/EmoEvaluation; give the folder IEMOCAP_full"):
            prepare_iemocap.main(prepare_iemocap.Options(corpus, tmp_path / "data", nj=1))
    assert not (tmp_path / "data").exists()


@pytest.fixture(scope="module")
def cremad(tmp_path_factory):
    """Eleven actors, each with one recording of every emotion."""
    corpus = tmp_path_factory.mktemp("cremad")
    for actor in range(1001, 1012):
        for at, code in enumerate(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")):
            wav(corpus / f"AudioWAV/{actor}_DFA_{code}_{'X' if actor == 1002 else 'XX'}.wav", seed=at)
    wav(corpus / "AudioWAV/1011_MTI_SAD_XX.wav", silent=True)
    return corpus


@pytest.mark.parametrize("folds", [5, 3])
def test_cremad_has_four_classes_and_actors_in_folds_by_their_number(cremad, tmp_path, capsys, folds):
    prepare_cremad.main(prepare_cremad.Options(cremad, tmp_path, folds=folds, nj=1))
    table = check(tmp_path)
    expected = {
        f"fold{fold + 1}": {str(actor) for actor in range(1001, 1012) if (actor - 1001) % folds == fold}
        for fold in range(folds)
    }
    assert speakers(table) == expected
    assert counts(table) == {
        (fold, name): len(actors) for fold, actors in expected.items() for name in ("angry", "happy", "neutral", "sad")
    }
    told = capsys.readouterr()
    assert "1 silent rejected" in told.out and "CREMA-D has 44 of the 4,899" in told.err
    assert "1011_MTI_SAD_XX.wav\tsilent" in (tmp_path / "all/rejected.tsv").read_text()


def test_what_is_not_cremad_is_refused_before_anything_is_made(tmp_path):
    options = prepare_cremad.Options(tmp_path, tmp_path / "data", nj=1)
    with pytest.raises(UserError, match="AudioWAV: there are no recordings; give the folder that holds AudioWAV"):
        prepare_cremad.main(options)
    wav(tmp_path / "AudioWAV/hello.wav")
    with pytest.raises(UserError, match="hello.wav: is not named like 1001_DFA_ANG_XX.wav"):
        prepare_cremad.main(options)
    options.folds = 1
    with pytest.raises(UserError, match="--folds is 1; it must be at least 2"):
        prepare_cremad.main(options)
    assert not (tmp_path / "data").exists()


PARTS = {"Train": ["1", "2", "Unknown"], "Development": ["3"], "Test1": ["4", "5", "Unknown"], "Test2": ["6"]}


def make_msp(corpus, name="labels_consensus.csv", development="Development", more=(), audio="Audios"):
    """Every speaker of a part with one recording of each of the ten emotions."""
    lines = ["FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"]
    speech = [
        (part, speaker, code) for part, speakers in PARTS.items() for speaker in speakers for code in "AHNSDUFCOX"
    ]
    for number, (part, speaker, code) in enumerate([*speech, *more]):
        file = f"MSP-PODCAST_{number:04d}.wav"
        wav(corpus / audio / file, seed=number)
        sex = {"Unknown": "Unknown"}.get(speaker, ("Female", "Male")[len(speaker) % 2])
        lines.append(f"{file},{code},3.5,4,4,{speaker},{sex},{development if part == 'Development' else part}")
    (corpus / "Labels").mkdir()
    (corpus / "Labels" / name).write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return corpus


@pytest.mark.parametrize("names", [{}, {"name": "labels_concensus.csv", "development": "Validation", "audio": "Audio"}])
def test_msp_podcast_has_five_classes_and_the_published_split(tmp_path, names):
    prepare_msp_podcast.main(prepare_msp_podcast.Options(make_msp(tmp_path / "msp", **names), tmp_path / "data", nj=1))
    table = check(tmp_path / "data")
    assert counts(table) == {
        (part, name): count
        for part, count in (("train", 3), ("development", 1), ("test1", 3))
        for name in ("angry", "disgust", "happy", "neutral", "sad")
    }
    found = speakers(table)
    assert {"1", "2"} < found["train"] and found["development"] == {"3"} and {"4", "5"} < found["test1"]
    assert len(found["train"]) == len(found["test1"]) == 2 + 5  # whose speaker is unknown is like nobody else
    (split,) = table.splits()
    assert split.fold == "test1" and set(table.folds[split.train]) == {"train"}


def test_speakers_of_two_parts_of_msp_podcast_stay_in_the_one_that_is_held_out(tmp_path, capsys):
    more = [("Train", "4", "A"), ("Train", "3", "A"), ("Development", "5", "H")]
    prepare_msp_podcast.main(
        prepare_msp_podcast.Options(make_msp(tmp_path / "msp", more=more), tmp_path / "data", nj=1)
    )
    found = speakers(check(tmp_path / "data"))
    assert not {"3", "4"} & found["train"] and found["development"] == {"3"} and {"4", "5"} < found["test1"]
    assert "speakers are also in a held-out part: 1 of development and 2 of train" in capsys.readouterr().err


def test_what_is_not_msp_podcast_is_refused_before_anything_is_made(tmp_path):
    options = prepare_msp_podcast.Options(tmp_path, tmp_path / "data", nj=1)
    with pytest.raises(UserError, match="there is neither Audios nor Audio in it"):
        prepare_msp_podcast.main(options)
    (tmp_path / "Audios").mkdir()
    with pytest.raises(UserError, match="there is no labels_consensus.csv"):
        prepare_msp_podcast.main(options)
    (tmp_path / "Labels").mkdir()
    labels = tmp_path / "Labels/labels_consensus.csv"
    labels.write_text("FileName,EmoClass\n")
    with pytest.raises(UserError, match="there is no column SpkrID, Gender, Split_Set in its first line"):
        prepare_msp_podcast.main(options)
    labels.write_text("FileName,EmoClass,SpkrID,Gender,Split_Set\na.wav,A,1,Male,Train\n")
    with pytest.raises(UserError, match="Train, Development and Test1 must hold .* they hold 1, 0 and 0"):
        prepare_msp_podcast.main(options)
    assert not (tmp_path / "data").exists()
