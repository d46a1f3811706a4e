"""Labels of utterances: in the order of the set, numbered without gaps; -1 for none."""

import numpy as np
import pytest

from cslib.config import UserError
from cslib.data.labels import read_column, read_labels, write_labels
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances


@pytest.fixture
def utterances(tmp_path):
    write_set(tmp_path / "set", [Entry(name, f"/{name}.wav", 1) for name in "abcde"])
    return Utterances.open(tmp_path / "set")


def write(tmp_path, text):
    (tmp_path / "labels.tsv").write_text(text, encoding="utf-8")
    return tmp_path / "labels.tsv"


def test_labels_follow_the_set_and_are_numbered_without_gaps(tmp_path, utterances):
    path = write(tmp_path, "utterance\tlabel\nd\t70\na\t5\nz\t9\nb\t70\nc\t-1\n")
    labels = read_labels(path, utterances)
    assert labels.dtype == np.int64
    assert labels[1] == labels[3] and sorted({labels[0], labels[1]}) == [0, 1]  # 9 is of another set
    assert labels[2] == labels[4] == -1


def test_written_labels_read_back(tmp_path, utterances):
    write_labels(tmp_path / "labels.tsv", list("abcde"), np.array([2, 0, -1, 1, 2]))
    assert read_labels(tmp_path / "labels.tsv", utterances).tolist() == [2, 0, -1, 1, 2]
    assert (tmp_path / "labels.tsv").read_text().startswith("utterance\tlabel\na\t2\n")


def test_speakers_with_more_columns_serve_as_labels_where_asked_for(tmp_path, utterances):
    path = write(tmp_path, 'utterance\tspeaker\tsex\na\tzoë\tf\nb\t"ann\tf\nc\tzoë\tf\nd\t-\tf\ne\tann\tf\n')
    labels = read_labels(path, utterances, "speaker")
    assert labels[0] == labels[2] and len(set(labels)) == 4
    assert list(read_column(path, "speaker"))[1] == ("b", '"ann')
    with pytest.raises(UserError, match="does not name the columns utterance and label"):
        read_labels(path, utterances)  # never by mistake


def test_unequal_numbers_of_utterances_and_labels_write_nothing(tmp_path):
    with pytest.raises(ValueError):
        write_labels(tmp_path / "labels.tsv", ["a", "b"], np.array([1]))
    assert not (tmp_path / "labels.tsv").exists()


@pytest.mark.parametrize(
    "text, told",
    [
        ("utterance\tlabel\na\t1\nb 2\n", "line 3 is not `utterance<TAB>label`"),
        ("utterance\tlabel\nx\t1\n", "none of the 5 utterances to train on has a label"),
        ("utterance\tlabel\na\t-1\n", "none of the 5 utterances"),
        ("utterance\tlabel\na\t1\na\t2\n", "a has two labels, 1 and 2"),
        ("", "does not name the columns utterance and label"),
        ("a\t1\nb\t2\n", "does not name the columns utterance and label"),
    ],
)
def test_bad_labels_are_one_sentence(tmp_path, utterances, text, told):
    with pytest.raises(UserError, match=f"labels.tsv: .*{told}"):
        read_labels(write(tmp_path, text), utterances)


def test_missing_labels_are_one_sentence(tmp_path, utterances):
    with pytest.raises(UserError, match="none.tsv: there is no such file of labels"):
        read_labels(tmp_path / "none.tsv", utterances)


def test_labels_that_are_not_text_are_one_sentence(tmp_path, utterances):
    (tmp_path / "labels.tsv").write_bytes(b"utterance\tlabel\na\t\xff\xfe\n")
    with pytest.raises(UserError, match="labels.tsv: not a text file in UTF-8"):
        read_labels(tmp_path / "labels.tsv", utterances)
