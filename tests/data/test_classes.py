"""Tables of classes: no speaker is in two folds, and nothing is chosen on the test fold."""

import numpy as np
import pytest

from cslib.config import UserError
from cslib.corpora.class_preparation import compare_counts
from cslib.data.classes import ClassTable, Labelled, assign_folds


def rows(folds, per_speaker=4, speakers=2):
    """Utterances of `speakers` speakers in each of the folds, of two classes in turn."""
    return [
        Labelled(f"{fold}-{speaker}-{n}", "ab"[n % 2], f"{fold}-{speaker}", fold)
        for fold in folds
        for speaker in range(speakers)
        for n in range(per_speaker)
    ]


CROSS_VALIDATION = ClassTable.of(rows(["fold1", "fold2", "fold3"]))
PUBLISHED = ClassTable.of(rows(["train", "development", "test1"]))
TABLES = {
    "cross-validation": CROSS_VALIDATION,
    "published": PUBLISHED,
    "two folds": ClassTable.of(rows(["fold1", "fold2"], speakers=6)),
    "without development": ClassTable.of(rows(["train", "test1"], speakers=3)),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_training_speakers_are_in_no_test_or_check_fold(table):
    tested = []
    for split in table.splits():
        assert set(table.folds[split.test]) == {split.fold}
        assert not set(table.speakers[split.train]) & set(table.speakers[split.test])
        assert split.inner
        for fit, check in split.inner:
            assert len(fit) and len(check)
            assert not set(table.speakers[fit]) & set(table.speakers[check])
            assert not {*fit, *check} & set(split.test)
            assert set(fit) <= set(split.train)
        tested += split.test.tolist()
    assert len(tested) == len(set(tested))


def test_cross_validation_tests_every_utterance_once_and_checks_on_each_training_fold():
    splits = list(CROSS_VALIDATION.splits())
    assert [split.fold for split in splits] == ["fold1", "fold2", "fold3"]
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(len(CROSS_VALIDATION)))
    for split in splits:
        assert sorted(np.concatenate([check for _, check in split.inner])) == split.train.tolist()
        assert len(split.inner) == 2


def test_published_split_checks_on_development_and_never_trains_on_it():
    (split,) = PUBLISHED.splits()
    assert set(PUBLISHED.folds[split.train]) == {"train"}
    ((fit, check),) = split.inner
    assert set(PUBLISHED.folds[fit]) == {"train"} and set(PUBLISHED.folds[check]) == {"development"}


def test_speaker_in_two_folds_is_refused():
    with pytest.raises(UserError, match="speaker fold1-0 is in the folds fold1 and fold2"):
        ClassTable.of([*rows(["fold1", "fold2"]), Labelled("u", "a", "fold1-0", "fold2")])


@pytest.mark.parametrize(
    "bad, sentence",
    [
        ([Labelled("u", "a", "s", "fold1"), Labelled("v", "a", "t", "fold2")], "2 utterances are of one class"),
        (rows(["fold1"]), "there is no fold to test on"),
        (rows(["train", "development"]), "there is no fold to test on"),
    ],
)
def test_table_without_two_classes_or_folds_is_refused(bad, sentence):
    with pytest.raises(UserError, match=sentence):
        ClassTable.of(bad)


def test_training_fold_of_one_speaker_is_refused():
    table = ClassTable.of(rows(["fold1", "fold2"], speakers=1))
    with pytest.raises(UserError, match="fold fold2 has one speaker only"):
        list(table.splits())


def test_table_reads_back_and_is_left_alone_when_it_says_the_same(tmp_path):
    path = tmp_path / "emotions.tsv"
    CROSS_VALIDATION.write(path)
    assert path.read_text().splitlines()[:2] == ["utterance\tclass\tspeaker\tfold", "fold1-0-0\ta\tfold1-0\tfold1"]
    back = ClassTable.read(path)
    for name in ("utterances", "labels", "speakers", "folds"):
        assert np.array_equal(getattr(back, name), getattr(CROSS_VALIDATION, name))
    before = path.stat().st_ino
    CROSS_VALIDATION.write(path)
    assert path.stat().st_ino == before
    PUBLISHED.write(path)
    assert path.stat().st_ino != before


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("utterance\tclass\tspeaker\nu\ta\ts\n", "does not name the columns utterance and fold"),
        ("utterance\tclass\tspeaker\tfold\nu\ta\ts\n", "line 2 is not"),
        ("utterance\tclass\tspeaker\tfold\nu\ta\ts\tfold1\nu\tb\tt\tfold2\n", "u comes twice"),
        (
            "utterance\tclass\tspeaker\tfold\nu\ta\ts\tfold1\nv\tb\ts\tfold2\n",
            "emotions.tsv: speaker s is in the folds",
        ),
    ],
)
def test_damaged_table_is_one_sentence(tmp_path, text, sentence):
    (tmp_path / "emotions.tsv").write_text(text)
    with pytest.raises(UserError, match=sentence):
        ClassTable.read(tmp_path / "emotions.tsv")


def test_folds_are_of_similar_size_and_always_the_same():
    speakers = [f"s{number}" for number in range(7) for _ in range(10 * (number + 1))]
    fold_of = assign_folds(speakers, 3)
    assert fold_of == assign_folds(reversed(speakers), 3)
    assert set(fold_of.values()) == {"fold1", "fold2", "fold3"}
    sizes = np.unique([fold_of[speaker] for speaker in speakers], return_counts=True)[1]
    assert sizes.max() - sizes.min() <= 20  # of 280; the largest speaker has 70
    for count in (1, 8):
        with pytest.raises(UserError, match=f"folds is {count}; it must be at least 2 and at most .* speakers, 7"):
            assign_folds(speakers, count)
    with pytest.raises(UserError, match="all recordings are of one speaker"):
        assign_folds(["a", "a"], 2)


def test_counts_name_every_class_and_fold():
    lines = [line.split() for line in CROSS_VALIDATION.counts().splitlines()]
    assert lines == [
        ["class", "fold1", "fold2", "fold3", "all"],
        ["a", "4", "4", "4", "12"],
        ["b", "4", "4", "4", "12"],
        ["(speakers)", "2", "2", "2", "6"],
    ]


def test_other_counts_than_published_are_reported(capsys):
    compare_counts("Corpus", CROSS_VALIDATION, {"a": 12, "b": 12})
    assert "as many of each class as published" in capsys.readouterr().out
    compare_counts("Corpus", CROSS_VALIDATION, {"a": 12, "b": 13})
    assert "has 24 of the 25 published utterances here (12 of 12 a, 12 of 13 b)" in capsys.readouterr().err
