"""Trial lists: two formats, one table, and a plain sentence for every malformed line."""

import numpy as np
import pytest

from cslib.config import UserError
from cslib.data import trials as trials_module
from cslib.data.trials import read_trials, write_trials


def written(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode())
    return path


def test_kaldi_and_voxceleb_formats_give_the_same_trials(tmp_path):
    kaldi = read_trials(written(tmp_path, "id1-v-1 id1-w-2 target\nid1-v-1 id2-x-3 nontarget\n"))
    voxceleb = read_trials(written(tmp_path, "1 id1/v/1.wav id1/w/2.wav\n0 id1/v/1.wav id2/x/3.wav\n"))
    for trials in (kaldi, voxceleb):
        assert sorted(trials.ids) == ["id1-v-1", "id1-w-2", "id2-x-3"]
        assert trials.enrol == ["id1-v-1", "id1-v-1"]
        assert trials.test == ["id1-w-2", "id2-x-3"]
        assert trials.targets.tolist() == [True, False]


def test_ids_of_a_kaldi_list_are_kept_as_they_are(tmp_path):
    trials = read_trials(written(tmp_path, "1 a/b.wav nontarget\n"))
    assert trials.enrol + trials.test == ["1", "a/b.wav"]


def test_two_spellings_of_a_voxceleb_path_are_one_utterance(tmp_path):
    trials = read_trials(written(tmp_path, "1 id1/v/1.wav id1/v/2.wav\n0 id1/v/1.m4a id2/v/2.wav\n"))
    assert sorted(trials.ids) == ["id1-v-1", "id1-v-2", "id2-v-2"]
    assert trials.enrol == ["id1-v-1", "id1-v-1"]


def test_written_trials_are_read_back_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(trials_module, "CHUNK_BYTES", 100)
    rng = np.random.default_rng(0)
    enrol, test = ([f"u{number}" for number in rng.integers(50, size=300)] for _ in range(2))
    targets = rng.random(300) < 0.5
    path = tmp_path / "trials" / "x.txt"
    assert write_trials(path, enrol, test, targets) == 300
    trials = read_trials(path)
    assert (trials.enrol, trials.test) == (enrol, test)
    assert trials.targets.dtype == bool and (trials.targets == targets).all()
    assert sorted(trials.ids) == sorted({*enrol, *test}) and len(trials) == 300


def test_empty_lines_windows_line_ends_and_a_missing_last_newline_do_no_harm(tmp_path):
    trials = read_trials(written(tmp_path, "a b target\r\n\r\n\r\na\tc  nontarget"))
    assert trials.test == ["b", "c"]


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("a b target\na b\n", "line 2 has 2 words instead of 3; expected a line like `enrol test target|"),
        ("a b target\n\na b c nontarget\n", "line 3 has 4 words instead of 3"),
        ("a b\nc target d target\n", "line 1 has 2 words instead of 3"),
        ("a b target\nc d impostor\n", "line 2 has the label 'impostor'"),
        ("a b 0.5\n", "line 1 has the label '0.5'"),
        ("1 a b\n0 a c\n2 a d\n", "line 3 has the label '2'; expected a line like `1|0 enrol test`"),
        ("1 a b\na b target\n", "line 2 has the label 'a'"),
        ("\n\n", "is empty"),
        ("", "is empty"),
    ],
)
def test_a_malformed_list_is_one_sentence_with_file_and_line(tmp_path, monkeypatch, text, complaint):
    path = written(tmp_path, text)
    for chunk_bytes in (1, 1 << 18):
        monkeypatch.setattr(trials_module, "CHUNK_BYTES", chunk_bytes)
        with pytest.raises(UserError) as error:
            read_trials(path)
        assert str(error.value).startswith(f"{path}: {complaint}")


def test_an_absent_list_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="could not be read"):
        read_trials(tmp_path / "nothing.txt")


def test_utterances_that_embeddings_lack_are_named(tmp_path):
    trials = read_trials(written(tmp_path, "a b target\nc d nontarget\ne f target\n"))
    there = ["f", "e", "d", "c", "b", "a", "z"]
    assert [there[row] for row in trials.rows_in(there, "x.scp")] == trials.ids
    with pytest.raises(UserError, match=r"x.scp: lacks 2 of the 6 utterances .* \([ad], [ad]\)"):
        trials.rows_in(["b", "c", "e", "f"], "x.scp")
    with pytest.raises(UserError, match=r"lacks 5 of the 6 .* \(\w, \w, \w, \.\.\.\)"):
        trials.rows_in(["a"], "x.scp")
