"""From embeddings and a table of classes to answers, rows, results.json and a picture."""

import csv
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import f1_score

from cslib.config import UserError
from cslib.data.classes import ClassTable, Labelled
from cslib.data.embeddings import EmbeddingWriter
from local import classify_emotions, make_emotion_results
from local.classify_emotions import Options

CLASSES = ("angry", "happy", "sad")


def table_of(folds, path, per_speaker=6):
    rows = [
        Labelled(f"{fold}-{speaker}-{n}", CLASSES[n % 3], f"{fold}-{speaker}", fold)
        for fold in folds
        for speaker in range(3)
        for n in range(per_speaker)
    ]
    table = ClassTable.of(sorted(rows))
    table.write(path)
    return table


def write(out, table, quality, seed=0):
    """Embeddings that tell the classes apart by `quality`, in another order than the table's."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((len(table), 8))
    values[:, :3] += quality * (table.labels[:, None] == np.array(CLASSES))
    order = rng.permutation(len(table))
    with EmbeddingWriter(out) as writer:
        writer.add(table.utterances[order].tolist(), values[order].astype(np.float32))
    return f"{out}.scp"


@pytest.fixture
def made(tmp_path):
    """(table, options for a good system) of a cross-validation."""
    table = table_of(["fold1", "fold2", "fold3"], tmp_path / "emotions.tsv")
    scp = write(tmp_path / "good", table, 3.0)
    return table, Options(scp, tmp_path / "emotions.tsv", "dino", "mini", tmp_path / "exp/scores")


def answers(folder, system):
    with open(folder / f"{system}.tsv", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_answers_and_row_agree_with_each_other_and_with_scikit_learn(made):
    table, options = made
    classify_emotions.main(options)
    lines = answers(options.out, "dino")
    assert [line["utterance"] for line in lines] == table.utterances.tolist()
    assert [line["class"] for line in lines] == table.labels.tolist()
    found = json.loads((options.out / "dino.json").read_text())
    row = found["row"]
    assert {key: row[key] for key in ("system", "corpus", "folds", "utterances", "speakers", "classes")} == {
        "system": "dino",
        "corpus": "mini",
        "folds": 3,
        "utterances": 54,
        "speakers": 9,
        "classes": 3,
    }
    truth, predicted = table.labels, [line["answer"] for line in lines]
    for average in ("micro", "macro"):
        expected = 100 * f1_score(truth, predicted, average=average)
        low, high = row[f"{average}_f1_ci95"]
        assert row[f"{average}_f1"] == pytest.approx(expected) and low <= expected <= high
    assert row["micro_f1"] > 60 and np.array(found["confusion"]).sum() == 54
    assert set(found["strengths"]) == {"fold1", "fold2", "fold3"}


def test_only_the_test_part_of_a_published_split_is_classified(tmp_path):
    table = table_of(["train", "development", "test1"], tmp_path / "emotions.tsv")
    classify_emotions.main(
        Options(write(tmp_path / "e", table, 3.0), tmp_path / "emotions.tsv", "dino", "msp_podcast", tmp_path)
    )
    lines = answers(tmp_path, "dino")
    assert {line["fold"] for line in lines} == {"test1"} and len(lines) == 18
    assert json.loads((tmp_path / "dino.json").read_text())["row"]["folds"] == 1


def test_each_fold_can_have_its_own_embeddings(made, tmp_path):
    table, options = made
    for number, fold in enumerate(("fold1", "fold2", "fold3")):
        write(tmp_path / f"{fold}/all", table, 5.0 if fold == "fold2" else 0.0, seed=number)
    options.embeddings, options.system = str(tmp_path / "{fold}/all.scp"), "finetuned"
    classify_emotions.main(options)
    right = {
        fold: np.mean(
            [line["class"] == line["answer"] for line in answers(options.out, "finetuned") if line["fold"] == fold]
        )
        for fold in ("fold1", "fold2", "fold3")
    }
    assert right["fold2"] > 0.85 > max(right["fold1"], right["fold3"])


def test_strengths_of_another_system_are_used_fold_by_fold(made, tmp_path):
    table, options = made
    given = {"fold1": 1e-4, "fold2": 10.0, "fold3": 0.5}  # the last is none that would be chosen
    (tmp_path / "dino.json").write_text(json.dumps({"strengths": given}))
    options.system, options.strengths = "finetuned", tmp_path / "dino.json"
    classify_emotions.main(options)
    assert json.loads((options.out / "finetuned.json").read_text())["strengths"] == given
    (tmp_path / "dino.json").write_text(json.dumps({"strengths": {"fold1": 1.0, "fold3": 1.0}}))
    with pytest.raises(UserError, match="dino.json: has no strength for fold2"):
        classify_emotions.main(options)


def test_embeddings_of_another_set_or_of_several_streams_are_refused(made, tmp_path):
    table, options = made
    with EmbeddingWriter(tmp_path / "few") as writer:
        writer.add(table.utterances[:5].tolist(), np.zeros((5, 4)))
    options.embeddings = str(tmp_path / "few.scp")
    with pytest.raises(UserError, match=r"few.scp: lacks 49 of 54 utterances \(first: fold1-0-5\)"):
        classify_emotions.main(options)
    with EmbeddingWriter(tmp_path / "streams") as writer:
        writer.add(table.utterances.tolist(), np.zeros((54, 2, 4)))
    options.embeddings = str(tmp_path / "streams.scp")
    with pytest.raises(UserError, match="holds 2 embeddings of each utterance"):
        classify_emotions.main(options)
    assert not options.out.exists()


def test_class_of_one_fold_only_is_reported_and_training_folds_of_one_class_are_refused(tmp_path, capsys):
    rows = [
        Labelled(f"u{n:02d}", "rare" if n < 3 else CLASSES[n % 2], f"s{n // 6}", f"fold{n // 12}") for n in range(36)
    ]
    table = ClassTable.of(rows)
    table.write(tmp_path / "emotions.tsv")
    values = np.random.default_rng(0).standard_normal((36, 4))
    with EmbeddingWriter(tmp_path / "e") as writer:
        writer.add(table.utterances.tolist(), values)
    options = Options(str(tmp_path / "e.scp"), tmp_path / "emotions.tsv", "dino", "folder", tmp_path / "scores")
    classify_emotions.main(options)
    assert "fold0: no other fold holds rare" in capsys.readouterr().out

    ClassTable.of([row._replace(label="a" if row.fold == "fold0" else "b") for row in rows]).write(options.table)
    with pytest.raises(UserError, match="without fold0 all utterances are of one class"):
        classify_emotions.main(options)


def test_results_have_rows_gains_and_a_picture(made, tmp_path, capsys):
    table, options = made
    classify_emotions.main(options)
    options.embeddings, options.system = write(tmp_path / "poor", table, 0.5, seed=1), "floor"
    classify_emotions.main(options)
    options.system = "csc"  # which is no better and no worse
    classify_emotions.main(options)
    exp = tmp_path / "exp"
    (exp / "seconds.json").write_text('{"1": 2}')
    (exp / "commits.json").write_text('{"finetuned": "abc"}')
    asked = make_emotion_results.Options(
        exp, "mini", 3, seconds=exp / "seconds.json", commits=exp / "commits.json", systems="floor,dino,csc"
    )
    shutil.copy(exp / "scores/dino.json", exp / "scores/finetuned.json")  # of an earlier call
    shutil.copy(exp / "scores/dino.tsv", exp / "scores/finetuned.tsv")
    make_emotion_results.main(asked)
    results = json.loads((exp / "results.json").read_text())
    assert results["commits"] == {"finetuned": "abc"}
    assert {key: results[key] for key in ("recipe", "corpus", "method", "seed", "seconds")} == {
        "recipe": "emotion",
        "corpus": "mini",
        "method": "linear",
        "seed": 3,
        "seconds": {"1": 2},
    }
    assert [row["system"] for row in results["rows"]] == ["floor", "csc", "dino"]
    floor, _, dino = results["rows"]
    none, gain = results["over_floor"]
    assert (none["system"], none["micro_f1"], none["micro_f1_ci95"]) == ("csc", 0, [0, 0])  # of the same draws
    assert gain["system"] == "dino" and gain["uar"] == pytest.approx(dino["uar"] - floor["uar"])
    low, high = gain["micro_f1_ci95"]
    assert 0 < low < gain["micro_f1"] < high
    assert (exp / "confusion.png").read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "micro-F1 %" in printed and "dino over floor: micro_f1 +" in printed


def test_results_of_other_utterances_are_not_compared(made, tmp_path):
    table, options = made
    classify_emotions.main(options)
    options.system = "floor"
    classify_emotions.main(options)
    path = options.out / "floor.tsv"
    path.write_text(path.read_text().replace("fold1-1-5", "fold1-1-6"))
    with pytest.raises(UserError, match="dino and floor classified different utterances"):
        make_emotion_results.main(make_emotion_results.Options(tmp_path / "exp", "mini", 1))
    path.unlink()
    with pytest.raises(UserError, match="floor.tsv: not a table of answers"):
        make_emotion_results.main(make_emotion_results.Options(tmp_path / "exp", "mini", 1))
    with pytest.raises(UserError, match="has no scores"):
        make_emotion_results.main(make_emotion_results.Options(tmp_path / "nothing", "mini", 1))
