"""From embeddings to pseudo-labels and back from their file; true speakers never matter."""

import sys

import numpy as np
import pytest
import soundfile

from cslib.config import UserError, parse
from cslib.data.embeddings import EmbeddingWriter
from cslib.data.labels import read_labels, read_table
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.files import read_json
from local import cluster_embeddings, diagnose_clusters

SPEAKERS, EACH = 12, 10
IDS = [f"u{index:03}" for index in range(SPEAKERS * EACH)]


@pytest.fixture
def folder(tmp_path):
    """Embeddings of twelve well separated speakers, and a speakers.tsv beside them."""
    rng, speaker = np.random.default_rng(0), np.repeat(np.arange(SPEAKERS), EACH)
    values = rng.standard_normal((SPEAKERS, 32))[speaker] + 0.7 * rng.standard_normal((len(IDS), 32))
    with EmbeddingWriter(tmp_path / "train") as writer:
        writer.add(IDS, values.astype(np.float32))
    lines = [f"{name}\ts{one}\n" for name, one in zip(IDS, speaker, strict=True)]
    (tmp_path / "speakers.tsv").write_text("utterance\tspeaker\n" + "".join(lines))
    return tmp_path


def cluster(folder, *more, out="pseudo_labels.tsv"):
    words = ["--embeddings", folder / "train.scp", "--out", folder / "round1" / out, *more]
    cluster_embeddings.main(parse(cluster_embeddings.Options, [*map(str, words)]))
    return folder / "round1" / out


def test_speakers_are_found_and_the_choice_is_written_down(folder, capsys):
    labels = cluster(folder)
    table, report = read_table(labels), read_json(folder / "round1" / "clusters.json")
    assert list(table) == IDS
    assert report["chosen"] in [row["clusters"] for row in report["table"]]
    assert report["clusters"] == len(set(table.values())) and report["config"]["choose"] == "silhouette"
    words = ["--labels", str(labels), "--speakers", str(folder / "speakers.tsv")]
    diagnose_clusters.main(parse(diagnose_clusters.Options, words))
    printed = capsys.readouterr().out.splitlines()[-1]
    assert "120 utterances" in printed and "12 speakers" in printed
    assert float(printed.rpartition(" ")[2]) > 0.95  # purity


@pytest.mark.parametrize(
    "candidates, told",
    [
        ("[12, 20, 40]", "the smallest candidate came out best"),
        ("[4, 8, 12]", "the largest candidate came out best"),
        ("[4, 12, 40]", None),
    ],
)
def test_best_number_at_an_edge_of_what_was_weighed_is_told(folder, capsys, candidates, told):
    cluster(folder, "--candidates", candidates, "--centroids", "60")
    warned = capsys.readouterr().err
    assert told in warned if told else "came out best" not in warned


def test_clustering_never_opens_the_speakers(folder):
    opened = []
    watching = True
    sys.addaudithook(lambda event, args: watching and event == "open" and opened.append(str(args[0])))
    cluster(folder, "--choose", "stability")
    watching = False
    assert any(name.endswith("train.scp") for name in opened)
    assert not any("speakers" in name for name in opened)


def test_agreement_with_the_round_before_tells_when_to_stop(folder):
    first = cluster(folder, out="before.tsv")
    cluster(folder, "--previous", str(first))
    agreement = read_json(folder / "round1" / "clusters.json")["agreement_with_previous"]
    assert agreement == {"nmi": pytest.approx(1), "ari": pytest.approx(1)}
    assert (folder / "round1" / "settled").exists()
    cluster(folder, "--previous", str(first), "--settled-nmi", "1.1")
    assert not (folder / "round1" / "settled").exists()


def test_rejected_utterances_and_those_not_in_the_file_have_no_label(folder):
    names = ["u000", "u001", "u002", "u999"]
    soundfile.write(folder / "a.wav", np.zeros(16000), 16000)
    write_set(folder / "set", [Entry(name, folder / "a.wav", 16000) for name in names])
    (folder / "labels.tsv").write_text("utterance\tlabel\nu002\t3\nu000\t1\nu001\t-1\n")
    labels = read_labels(folder / "labels.tsv", Utterances.open(folder / "set"))
    assert labels.tolist() == [0, -1, 1, -1] and labels.dtype == np.int64  # numbered without gaps


def test_speakers_cannot_be_taken_for_pseudo_labels(folder):
    with pytest.raises(UserError, match="first line"):
        read_table(folder / "speakers.tsv")


@pytest.mark.parametrize("line, told", [("u000\t2", "u000 has two labels"), ("u001", "line 3")])
def test_a_bad_line_of_labels_is_named(folder, line, told):
    (folder / "labels.tsv").write_text(f"utterance\tlabel\nu000\t1\n{line}\n")
    with pytest.raises(UserError, match=told):
        read_table(folder / "labels.tsv")


def test_labels_of_another_set_cannot_be_compared(folder):
    (folder / "others.tsv").write_text("utterance\tlabel\nelsewhere\t1\n")
    with pytest.raises(UserError, match="others.tsv: labels none of the utterances"):
        cluster(folder, "--previous", str(folder / "others.tsv"))


def system(folder, name, noise, seed):
    """Embeddings of the speakers of `folder` by a system of this name; smaller noise makes it a better one."""
    rng, speaker = np.random.default_rng(seed), np.repeat(np.arange(SPEAKERS), EACH)
    values = rng.standard_normal((SPEAKERS, 32))[speaker] + noise * rng.standard_normal((len(IDS), 32))
    with EmbeddingWriter(folder / name / "embeddings" / "train") as writer:
        writer.add(IDS, values.astype(np.float32))
    return folder / name / "embeddings" / "train.scp"


def compare(folder, last, *others, previous=None):
    words = ["--embeddings", last, "--others", ",".join(map(str, others)), "--compare", "--choose", "density"]
    words += ["--out", folder / "round" / "labels.tsv", *(["--previous", previous] if previous else [])]
    cluster_embeddings.main(parse(cluster_embeddings.Options, [*map(str, words)]))
    return read_json(folder / "round" / "clusters.json")["systems"]


def test_labels_come_from_the_system_that_clusters_best(folder, capsys):
    good, bad = system(folder, "floor", 0.5, seed=1), system(folder, "csc", 2.5, seed=2)
    rows = {row["system"]: row for row in compare(folder, bad, good)}
    assert rows["floor"]["quality"] == max(row["quality"] for row in rows.values()) and rows["floor"]["clusters"] == 12
    assert "floor" in next(
        line for line in capsys.readouterr().out.splitlines() if line.endswith("<") and "floor" in line
    )
    assert not (folder / "round" / "settled").exists()  # a poor start is no reason against rounds


def test_rounds_end_after_one_that_made_the_labels_worse(folder):
    before, worse = system(folder, "floor", 0.5, seed=1), system(folder, "round1", 2.5, seed=2)
    labels = cluster(folder)
    compare(folder, worse, before, previous=labels)
    assert "the best labels come from floor" in (folder / "round" / "settled").read_text()


def test_systems_of_other_utterances_cannot_be_compared(folder):
    one = system(folder, "floor", 0.5, seed=1)
    with EmbeddingWriter(folder / "csc" / "embeddings" / "train") as writer:
        writer.add(IDS[1:], np.ones((len(IDS) - 1, 4), np.float32))
    with pytest.raises(UserError, match="other utterances"):
        compare(folder, folder / "csc" / "embeddings" / "train.scp", one)
