"""Thresholds from clusters: which pairs are drawn, and what their scores say."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cslib.config import UserError
from cslib.evaluation import calibration
from cslib.evaluation.calibration import (
    calibrate,
    calibration_path,
    copy_calibration,
    draw_pairs,
    log_likelihood_ratio,
    read_calibration,
)
from cslib.evaluation.signs import Signs, distributions
from cslib.files import digest

LABELS = np.array([2, 0, -1, 0, 1, 2, 2, 3, -1, 0, 3, 0])  # cluster 1 has a single member


def clustered(clusters=20, each=10, size=16, spread=0.5, seed=0):
    """Embeddings [n, size] around a centre for each cluster, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(clusters), each)
    centres = rng.normal(size=(clusters, size))
    return (centres[labels] + rng.normal(0, spread, (len(labels), size))).astype(np.float32), labels


def test_pairs_are_within_and_across_clusters_and_never_of_one_recording():
    one, other = draw_pairs(LABELS, 2000, seed=1)
    assert one.shape == other.shape == (4000,) and (one != other).all()
    assert (LABELS[one] >= 0).all() and (LABELS[other] >= 0).all()
    same = LABELS[one] == LABELS[other]
    assert same[:2000].all() and not same[2000:].any()
    # All that can be drawn is drawn.
    pairs = {frozenset(pair) for pair in zip(one.tolist(), other.tolist(), strict=True)}
    possible = [(a, b) for a in range(12) for b in range(a) if LABELS[a] >= 0 <= LABELS[b]]
    assert pairs == {frozenset(pair) for pair in possible}


def test_every_recording_with_a_partner_counts_alike():
    labels = np.repeat([0, 1], [90, 10])
    one, _ = draw_pairs(labels, 20_000, seed=0)
    assert np.mean(labels[one[:20_000]] == 1) == pytest.approx(0.1, abs=0.01)  # of all pairs it would be 0.01


def test_drawing_is_repeatable():
    assert all(np.array_equal(a, b) for a, b in zip(draw_pairs(LABELS, 50, 3), draw_pairs(LABELS, 50, 3), strict=True))
    assert not np.array_equal(draw_pairs(LABELS, 50, 3)[0], draw_pairs(LABELS, 50, 4)[0])


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [-1, -1], [0, 0, -1]])
def test_without_pairs_of_both_kinds_there_is_no_calibration(labels):
    with pytest.raises(calibration.Uncalibrated, match="do not give both same-cluster and different-cluster pairs"):
        draw_pairs(np.array(labels), 10, 0)


def test_ratio_of_two_normal_distributions_is_the_known_line():
    rng, high, low, deviation = np.random.default_rng(0), 0.5, 0.1, 0.15
    slope, offset = log_likelihood_ratio(rng.normal(high, deviation, 200_000), rng.normal(low, deviation, 200_000))
    assert slope == pytest.approx((high - low) / deviation**2, rel=0.02)
    assert -offset / slope == pytest.approx((high + low) / 2, abs=0.002)


def test_thresholds_and_rates_are_those_of_all_pairs():
    embeddings, labels = clustered()
    found = calibrate(embeddings, labels, "abc", pairs=50_000, seed=0)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines, same = unit @ unit.T, labels[:, None] == labels
    within, across = cosines[same & ~np.eye(len(labels), dtype=bool)], cosines[~same]
    assert found.ratio(found.threshold) == pytest.approx(0, abs=1e-9) and found.slope > 0
    assert found.missed == pytest.approx(np.mean(within < found.threshold), abs=0.01)
    assert found.false_alarms == pytest.approx(np.mean(across >= found.threshold), abs=0.01)
    assert np.mean(across >= found.threshold_at_1_percent) == pytest.approx(0.01, abs=0.002)
    assert found.missed_at_1_percent == pytest.approx(np.mean(within < found.threshold_at_1_percent), abs=0.01)
    assert (found.pairs, found.recordings, found.clusters, found.checkpoint) == (50_000, 200, 20, "abc")


def test_streams_are_compared_by_the_most_alike():
    embeddings, labels = clustered()
    silent = np.zeros_like(embeddings)
    one, two = (calibrate(values, labels, "", 5000, 0) for values in (embeddings, np.stack([embeddings, silent], 1)))
    assert one.threshold_at_1_percent == pytest.approx(two.threshold_at_1_percent, abs=0.05)


def test_clusters_that_say_nothing_are_told():
    embeddings, labels = clustered(spread=0.1)
    with pytest.raises(calibration.Uncalibrated, match="do not score higher than different-cluster pairs"):
        log_likelihood_ratio(np.full(10, 0.1), np.full(10, 0.3))
    with pytest.raises(ValueError, match="not finite"):
        calibrate(np.full_like(embeddings, np.nan), labels, "", 100, 0)


def test_clusters_that_do_not_overlap_give_a_finite_threshold_between_them():
    slope, offset = log_likelihood_ratio(np.full(1000, 0.8), np.full(1000, 0.2))
    assert np.isfinite(slope) and -offset / slope == pytest.approx(0.5, abs=0.01)


def test_written_calibration_is_read_back_for_its_checkpoint_alone(tmp_path):
    embeddings, labels = clustered()
    found, path = calibrate(embeddings, labels, "abc", 1000, 0), tmp_path / "calibration.json"
    found.write(path)
    assert read_calibration(path, "abc") == found
    with pytest.raises(UserError, match="made for another checkpoint"):
        read_calibration(path, "abd")
    replace(found, seed=1).write(path)
    assert read_calibration(path, "abc") != found
    path.write_text('{"threshold": 1}')
    with pytest.raises(UserError, match="not a calibration"):
        read_calibration(path, "abc")


def test_signs_of_the_recordings_are_kept_and_earlier_files_without_them_are_read(tmp_path):
    embeddings, labels = clustered()
    found, path = calibrate(embeddings, labels, "abc", 1000, 0), tmp_path / "calibration.json"
    known = distributions([Signs(3.0, 8000.0, 40.0, 0.6)] * 30)
    replace(found, signs=known).write(path)
    assert read_calibration(path, "abc").signs == known
    values = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in values.items() if name != "signs"}))
    assert read_calibration(path, "abc").signs is None
    for damaged in (3, {}, known | {"snr": [1, 2]}, known | {"levels": [0, 1]}, known | {"halves": ["a"] * 5}):
        path.write_text(json.dumps(values | {"signs": damaged}))
        with pytest.raises(UserError, match="not a calibration"):
            read_calibration(path, "abc")


def test_it_lies_in_the_run_of_the_checkpoint_or_beside_a_copy(tmp_path):
    assert calibration_path(tmp_path / "run/checkpoints/final.pt") == tmp_path / "run/calibration.json"
    assert calibration_path(tmp_path / "elsewhere/final.pt") == tmp_path / "elsewhere/calibration.json"
    assert calibration_path(tmp_path / "run/best.pt") == tmp_path / "run/best.calibration.json"
    assert calibration_path(tmp_path / "models/speaker.pt") == tmp_path / "models/speaker.calibration.json"


def test_a_copied_network_takes_its_calibration_along(tmp_path):
    embeddings, labels = clustered()
    source, copied = tmp_path / "run/checkpoints/final.pt", tmp_path / "run/best.pt"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"weights")
    copied.write_bytes(b"the same weights")
    assert copy_calibration(source, copied) is None
    found = calibrate(embeddings, labels, digest(source), 1000, 0)
    found.write(tmp_path / "run/calibration.json")
    path = copy_calibration(source, copied)
    assert path == tmp_path / "run/best.calibration.json"
    assert read_calibration(path, digest(copied)) == replace(found, checkpoint=digest(copied))
    (tmp_path / "run/calibration.json").write_text('{"uncalibrated": "too few"}')
    with pytest.raises(calibration.Uncalibrated, match="too few"):
        read_calibration(copy_calibration(source, copied), digest(copied))
    (tmp_path / "run/calibration.json").unlink()
    assert copy_calibration(source, copied) is None and not path.exists()  # that of the copy before
    replace(found, checkpoint="0" * 12).write(tmp_path / "run/calibration.json")
    with pytest.raises(UserError, match="made for another checkpoint"):
        copy_calibration(source, copied)
