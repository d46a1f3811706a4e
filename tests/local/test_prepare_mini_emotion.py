"""The mini emotion corpus: styles that overlap, speakers in one fold each, always the same bytes."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cslib.config import UserError
from cslib.data.classes import ClassTable
from cslib.data.utterances import Utterances
from local import prepare_mini_emotion
from local.prepare_mini_emotion import DEVIATIONS, STYLES, Options, main, speak_in_styles

TINY = Options(speakers=3, sessions=1, folds=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("styled")
    main(replace(TINY, out=out))
    return out


def test_every_speaker_speaks_in_every_style_and_is_in_one_fold(made):
    table = ClassTable.read(made / "all/emotions.tsv")
    assert Counter(table.labels.tolist()) == dict.fromkeys(STYLES, 3)
    assert Counter(zip(table.speakers, table.folds, strict=True)) == {
        (f"styled-speaker-{n:03d}", f"fold{n + 1}"): 4 for n in range(3)
    }
    assert table.utterances.tolist() == [f"styled-{n:06d}" for n in range(12)]
    utterances = Utterances.open(made / "all")
    assert utterances.ids() == table.utterances.tolist()
    assert utterances.num_samples.min() >= 3 * 16_000 and utterances.num_samples.max() <= 6 * 16_000
    rows = [line.split("\t") for line in (made / "all/speakers.tsv").read_text().splitlines()[1:]]
    assert {(row[1], row[2]) for row in rows} == {
        ("styled-speaker-000", "f"),
        ("styled-speaker-001", "m"),
        ("styled-speaker-002", "f"),
    }


def test_neither_name_nor_order_reveals_the_style(made):
    labels = ClassTable.read(made / "all/emotions.tsv").labels.tolist()
    assert labels != sorted(labels) and labels != list(STYLES) * 3


def test_styles_overlap_and_the_channel_changes_the_level_more(monkeypatch, tmp_path):
    """What is asked of the synthesiser for forty speakers, and the levels that come out."""
    asked, levels = [], []

    class Listener:
        sample_rate = 16_000

        def __init__(self, voices, folder):
            pass

        def say(self, name, text, rate, pitch, pitch_range):
            asked.append((rate, pitch, pitch_range))
            return np.random.default_rng(len(asked)).integers(-9000, 9000, 4 * 16_000).astype(np.int16)

    def keep(path, speech):
        levels.append(20 * np.log10(np.sqrt(np.mean((speech / 32768) ** 2))))
        return path

    monkeypatch.setattr(prepare_mini_emotion, "Synthesiser", Listener)
    monkeypatch.setattr(prepare_mini_emotion, "write_speech", keep)
    monkeypatch.setattr(prepare_mini_emotion, "draw_channel", quick_channel)
    for number in range(40):
        speak_in_styles(prepare_mini_emotion.Speaker("s", "m", (0, 3, number), tmp_path, [list("abcd")]))
    values = np.column_stack([asked, levels]).reshape(40, 4, 4)  # [speaker, style, rate ... level]
    between = values.mean(0).std(0)
    within = values.std(0).mean(0)
    assert (between[:3] > 0.5 * within[:3]).all()  # there is something to learn
    assert between[3] < 0.6 * within[3]  # and the level alone does not tell it
    for column, name in enumerate(("rate", "pitch", "pitch_range")):  # no threshold parts two styles cleanly
        ends = np.sort(values[..., column], axis=0)[[1, -2]]
        order = np.argsort(values[..., column].mean(0))
        assert all(ends[1, low] > ends[0, high] for low, high in zip(order, order[1:], strict=False)), name
    assert np.allclose(within[:3], DEVIATIONS[:3], rtol=0.3)


def quick_channel(rng):
    from cslib.corpora.synthesis.channels import Channel

    return Channel(np.ones(1), np.ones(1), rng.uniform(-32, -18), rng.uniform(-36, -12), 3.0)


def test_the_same_seed_gives_the_same_bytes_and_a_second_run_does_nothing(made, tmp_path, capsys):
    main(replace(TINY, out=tmp_path, nj=1))
    paths = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.suffix in (".flac", ".tsv")]
    assert len(paths) == 12 + 3
    assert all((tmp_path / path).read_bytes() == (made / path).read_bytes() for path in paths)
    capsys.readouterr()
    main(replace(TINY, out=made))
    assert "made before, nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="was made with another speakers"):
        main(replace(TINY, out=made, speakers=5))


def test_another_number_of_folds_divides_the_speakers_again_and_synthesises_nothing(tmp_path, capsys):
    main(replace(TINY, out=tmp_path, nj=1))
    old = ClassTable.read(tmp_path / "all/emotions.tsv")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "all").rglob("*.[fj]*")}
    assert len(before) > 12
    main(replace(TINY, out=tmp_path, folds=2))
    new = ClassTable.read(tmp_path / "all/emotions.tsv")
    assert "divided into 2 folds now" in capsys.readouterr().out
    assert set(new.folds) == {"fold1", "fold2"} and new.labels.tolist() == old.labels.tolist()
    assert before == {path: path.stat().st_mtime_ns for path in before}
    main(replace(TINY, out=tmp_path))
    assert ClassTable.read(tmp_path / "all/emotions.tsv").folds.tolist() == old.folds.tolist()


@pytest.mark.parametrize("wrong", [{"sessions": 0}, {"folds": 1}, {"speakers": 2}])
def test_impossible_sizes_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match=r"--(sessions|folds) is \d; it must be at least"):
        main(replace(TINY, out=tmp_path / "new", **wrong))
    assert not (tmp_path / "new").exists()
