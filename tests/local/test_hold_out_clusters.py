"""A development set of clusters in place of speakers."""

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.data.labels import write_labels
from cslib.data.manifests import Entry, write_set
from cslib.data.trials import read_trials
from cslib.data.utterances import Utterances
from local.hold_out_clusters import Options, main
from utils import validate_data


@pytest.fixture
def options(tmp_path):
    """Six clusters of 4 recordings, one of 20, and 3 recordings without a cluster; some are parts of a file."""
    path = tmp_path / "long.wav"
    soundfile.write(path, np.random.default_rng(0).integers(-9000, 9000, 50_000).astype(np.int16), 16000)
    labels = [n // 4 for n in range(24)] + [6] * 20 + [-1] * 3
    ids = [f"u{n:02d}" for n in range(len(labels))]
    entries = [
        Entry(name, path, 50_000 if n % 2 else 20_000, start=0 if n % 2 else 16_000, of_samples=50_000)
        for n, name in enumerate(ids)
    ]
    write_set(tmp_path / "set", entries)
    write_labels(tmp_path / "labels.tsv", ids, labels)
    return Options(tmp_path / "set", tmp_path / "labels.tsv", tmp_path / "dev", clusters=3, recordings=4)


def test_no_recording_of_a_held_out_cluster_is_trained_on(options, capsys):
    main(options)
    train, test = (Utterances.open(options.out / name) for name in ("train", "test"))
    rows = [line.split("\t") for line in (options.out / "test/speakers.tsv").read_text().splitlines()[1:]]
    assert [name for name, _ in rows] == test.ids() and not set(train.ids()) & set(test.ids())
    clusters = {cluster for _, cluster in rows}
    assert len(clusters) == 3 and "c6" not in clusters  # the largest one may join speakers
    assert len(test) == 12 and len(train) == 47 - 12 and not (options.out / "train/speakers.tsv").exists()
    trials = read_trials(options.out / "test/trials/clean.txt")
    assert len(trials) == 66 and trials.targets.sum() == 3 * 6
    whole = Utterances.open(options.data)
    for row, name in enumerate(test.ids()):
        np.testing.assert_array_equal(test.read(row), whole.read(whole.ids().index(name)))
    for name in ("train", "test"):
        validate_data.main(validate_data.Options(options.out / name, full=True))
    main(options)
    assert [line.split("\t") for line in (options.out / "test/speakers.tsv").read_text().splitlines()[1:]] == rows


def test_too_few_clusters_of_the_right_size_are_refused(options):
    options.clusters = 7
    with pytest.raises(UserError, match="6 clusters have 4 to 8 recordings, and 7 are to be held out"):
        main(options)
