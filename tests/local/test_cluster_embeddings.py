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
