"""From embeddings to score files and rows of results.json."""

import json
from pathlib import Path

import numpy as np
import pytest

from cslib.config import UserError, parse
from cslib.data.embeddings import EmbeddingWriter
from cslib.data.trials import read_trials, write_trials
from cslib.evaluation import scorings
from cslib.evaluation.error_rates import equal_error_rate
from cslib.evaluation.score_files import read_scores
from local import compute_metrics, score_trials

SPEAKERS, PER_SPEAKER, SIZE = 8, 5, 16


@pytest.fixture
def folder(tmp_path):
    """A test set of 40 utterances with embeddings near their speaker's, and a training set of 60."""
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(SPEAKERS), PER_SPEAKER)
    ids = [f"s{one}-{number}" for number, one in enumerate(speaker)]
    shared = 2 * rng.standard_normal(SIZE)  # what mean subtraction is for
    voices = rng.standard_normal((SPEAKERS, SIZE))
    write_embeddings(tmp_path / "test", ids, shared + voices[speaker] + rng.standard_normal((len(ids), SIZE)))
    strangers = shared + rng.standard_normal((60, SIZE))
    write_embeddings(tmp_path / "train", [f"t{number}" for number in range(60)], strangers)
    lines = [f"{name}\t{name.split('-')[0]}\n" for name in ids]
    (tmp_path / "speakers.tsv").write_text("utterance\tspeaker\n" + "".join(lines))
    enrol, test = (side.ravel() for side in np.meshgrid(np.arange(len(ids)), np.arange(len(ids))))
    enrol, test = enrol[enrol < test], test[enrol < test]
    write_trials(
        tmp_path / "clean.txt", [ids[e] for e in enrol], [ids[t] for t in test], speaker[enrol] == speaker[test]
    )
    return tmp_path


def write_embeddings(path, ids, values):
    with EmbeddingWriter(path) as writer:
        writer.add(ids, np.asarray(values, dtype=np.float32))


def options(folder, *more):
    return parse(
        score_trials.Options,
        [
            "--embeddings",
            f"{folder}/test.scp",
            "--trials",
            f"{folder}/clean.txt",
            "--system",
            "csc",
            "--speakers",
            f"{folder}/speakers.tsv",
            "--cohort",
            f"{folder}/train.scp",
            "--out",
            f"{folder}/scores",
            "--device",
            "cpu",
            "--top-k",
            "20",
            *more,
        ],
    )


def row(folder, scoring):
    return json.loads((folder / "scores" / f"csc_clean_{scoring}.json").read_text())["row"]


def test_every_scoring_gives_a_score_file_and_a_row(folder, capsys):
    score_trials.main(options(folder))
    trials = read_trials(folder / "clean.txt")
    for scoring in ("cosine", "mean", "asnorm"):
        found = row(folder, scoring)
        scores = read_scores(folder / "scores" / f"csc_clean_{scoring}.txt", trials)
        assert found["eer"] == equal_error_rate(scores, trials.targets)
        assert found["eer_ci95"][0] <= found["eer"] <= found["eer_ci95"][1]
        assert (found["targets"], found["nontargets"]) == (80, 700)
        assert list(found) == [
            "system",
            "trials",
            "scoring",
            "eer",
            "eer_ci95",
            "min_dcf_0.01",
            "targets",
            "nontargets",
        ]
    assert row(folder, "mean")["eer"] < row(folder, "cosine")["eer"]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_compute_metrics_agrees_with_the_row(folder, capsys):
    score_trials.main(options(folder, "--scoring", "asnorm"))
    capsys.readouterr()
    scores = folder / "scores" / "csc_clean_asnorm.txt"
    compute_metrics.main(compute_metrics.Options(folder / "clean.txt", scores))
    printed = json.loads(capsys.readouterr().out)
    assert printed == {key: row(folder, "asnorm")[key] for key in printed}


def test_streams_are_scored_by_the_most_alike_pair(folder):
    trials = read_trials(folder / "clean.txt")
    streams = np.random.default_rng(1).standard_normal((len(trials.ids), 2, SIZE))
    write_embeddings(folder / "streams", trials.ids, streams)
    score_trials.main(
        options(
            folder, "--scoring", "cosine", "--embeddings", f"{folder}/streams.scp", "--cohort", f"{folder}/streams.scp"
        )
    )
    scores = read_scores(folder / "scores" / "csc_clean_cosine.txt", trials)
    streams /= np.linalg.norm(streams, axis=2, keepdims=True)
    one, other = streams[trials.enrol_index[7]], streams[trials.test_index[7]]
    assert scores[7] == pytest.approx((one @ other.T).max(), abs=1e-6)


def test_cosine_needs_no_cohort_and_the_rest_does(folder):
    without = options(folder, "--scoring", "cosine")
    without.cohort = None
    score_trials.main(without)
    without.scoring = "cosine,mean"
    with pytest.raises(UserError, match="mean needs --cohort"):
        score_trials.main(without)


def label(folder, name, of_row, column="label"):
    """A table with a label for every cohort utterance."""
    path = folder / name
    path.write_text(f"utterance\t{column}\n" + "".join(f"t{row}\t{of_row(row)}\n" for row in range(60)))
    return path


def test_plda_learns_from_the_labels_of_the_cohort(folder, capsys):
    centres = 3 * np.random.default_rng(2).standard_normal((12, SIZE))
    noise = np.random.default_rng(3).standard_normal((60, SIZE))
    write_embeddings(folder / "train", [f"t{row}" for row in range(60)], centres[np.arange(60) % 12] + noise)
    labels = label(folder, "labels.tsv", lambda row: row % 12 if row < 55 else -1)
    score_trials.main(options(folder, "--scoring", "cosine,plda", "--labels", str(labels), "--plda-size", "30"))
    scores = read_scores(folder / "scores" / "csc_clean_plda.txt", read_trials(folder / "clean.txt"))
    assert row(folder, "plda")["eer"] == equal_error_rate(scores, read_trials(folder / "clean.txt").targets) < 30
    assert row(folder, "plda")["scoring"] == "plda"
    assert "plda: the speaker subspace has 11 dimensions instead of 30; 12 clusters" in capsys.readouterr().out
    (folder / "scores" / "csc_clean_plda.txt").unlink()
    score_trials.main(options(folder, "--scoring", "plda", "--labels", str(labels), "--plda-size", "5"))
    assert "dimensions" not in capsys.readouterr().out


def test_plda_never_takes_a_table_of_speakers(folder):
    speakers = label(folder, "train_speakers.tsv", lambda row: f"s{row % 12}", column="speaker")
    with pytest.raises(UserError, match="does not name the columns utterance and label"):
        score_trials.main(options(folder, "--scoring", "plda", "--labels", str(speakers)))


def test_plda_without_fit_labels_is_refused_in_a_sentence(folder):
    plda = ("--scoring", "plda", "--labels")
    with pytest.raises(UserError, match="plda needs --labels"):
        score_trials.main(options(folder, "--scoring", "plda"))
    (folder / "others.tsv").write_text("utterance\tlabel\nelsewhere\t1\nt3\t-1\n")
    with pytest.raises(UserError, match="a label for none of the 60 utterances"):
        score_trials.main(options(folder, *plda, f"{folder}/others.tsv"))
    labels = label(folder, "labels.tsv", lambda row: row % 12)
    with pytest.raises(UserError, match="--plda-size is 0; it must be at least 1"):
        score_trials.main(options(folder, *plda, str(labels), "--plda-size", "0"))
    write_embeddings(folder / "streams", [f"t{row}" for row in range(60)], np.ones((60, 2, SIZE)))
    write_embeddings(folder / "test", read_trials(folder / "clean.txt").ids, np.ones((40, 2, SIZE)))
    with pytest.raises(UserError, match="one embedding per utterance, and this file has 2"):
        score_trials.main(options(folder, *plda, str(labels), "--cohort", f"{folder}/streams.scp"))
    assert not (folder / "scores").exists()


def test_a_smaller_cohort_is_drawn_the_same_way_for_the_same_seed(folder):
    drawn = []
    for seed in (1, 1, 2):
        score_trials.main(options(folder, "--scoring", "asnorm", "--cohort-size", "25", "--seed", str(seed)))
        drawn.append((folder / "scores" / "csc_clean_asnorm.txt").read_text())
    assert drawn[0] == drawn[1] != drawn[2]


def test_an_unknown_utterance_is_named(folder):
    with open(folder / "clean.txt", "a") as file:
        file.write("s0-0 ghost nontarget\n")
    with open(folder / "speakers.tsv", "a") as file:
        file.write("ghost\ts0\n")
    with pytest.raises(UserError, match=r"test.scp: lacks 1 of the 41 utterances .*ghost"):
        score_trials.main(options(folder))


def test_an_utterance_without_a_speaker_is_named(folder):
    (folder / "speakers.tsv").write_text("utterance\tspeaker\ns0-0\ts0\n")
    with pytest.raises(UserError, match=r"speakers.tsv: names no speaker for 39 of 40 utterances"):
        score_trials.main(options(folder))


@pytest.mark.parametrize(
    "change, complaint",
    [
        (("--scoring", "guess"), "must be some of cosine,mean,asnorm,plda"),
        (("--speakers", "nowhere.tsv"), "nowhere.tsv: could not be read"),
        (("--cohort-size", "1"), "at least two cohort utterances"),
    ],
)
def test_bad_options_are_one_sentence(folder, change, complaint):
    with pytest.raises(UserError, match=complaint):
        score_trials.main(options(folder, *change))


def test_trials_of_one_class_and_another_networks_cohort_are_refused(folder):
    write_embeddings(folder / "wide", ["a", "b"], np.ones((2, SIZE + 1)))
    with pytest.raises(UserError, match=r"wide.scp: has embeddings of shape \[17\]"):
        score_trials.main(options(folder, "--cohort", f"{folder}/wide.scp"))
    (folder / "clean.txt").write_text("s0-0 s0-1 target\ns1-5 s1-6 target\n")
    with pytest.raises(UserError, match="need target and non-target trials"):
        score_trials.main(options(folder))
    assert not (folder / "scores").exists()


def test_a_scoring_is_one_file_found_by_its_name(folder):
    """Negative Euclidean distance, as somebody may add it."""
    added = Path(scorings.__file__).parent / "added_by_a_test.py"
    added.write_text(
        "import numpy as np\n\nNEEDS = ()\n\n\n"
        "def build(background):\n"
        "    return lambda rows, enrol, test: -np.linalg.norm(rows[enrol] - rows[test], axis=1).astype(np.float32)\n"
    )
    try:
        assert scorings.scoring_names() == ["cosine", "mean", "asnorm", "plda", "added_by_a_test"]
        score_trials.main(options(folder, "--scoring", "added_by_a_test"))
    finally:
        added.unlink()
    assert row(folder, "added_by_a_test")["scoring"] == "added_by_a_test"
    assert scorings.scoring_names() == list(scorings.ORDER)
