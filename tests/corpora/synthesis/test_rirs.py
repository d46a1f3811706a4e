import numpy as np
import pytest

from cslib.corpora.synthesis.rirs import align_rir, draw_rir


def decay_time(response: np.ndarray) -> float:
    """Reverberation time in seconds: slope of Schroeder's backward integral between -5 and -25 dB."""
    energy = np.cumsum(response[::-1].astype(float) ** 2)[::-1]
    level = 10 * np.log10(energy / energy[0])
    first, last = np.argmax(level < -5), np.argmax(level < -25)
    return 60 / 20 * (last - first) / 16000


def test_main_tap_comes_first_and_is_one():
    response = np.array([0.0, 0.1, 0.0, -0.5, 0.2, 0.1])
    np.testing.assert_allclose(align_rir(response), [1.0, -0.4, -0.2])


def test_inaudible_tail_is_cut():
    response = np.concatenate([[1.0], 0.1 * np.ones(10), np.full(1000, 1e-6)])
    assert len(align_rir(response)) == 11


def test_at_most_one_second_is_kept():
    assert len(align_rir(np.ones(50000))) == 16000


@pytest.mark.parametrize("response", [[], [0.0, 0.0], [1.0, np.nan]])
def test_what_is_no_response_is_refused(response):
    with pytest.raises(ValueError, match="room impulse response"):
        align_rir(np.array(response))


@pytest.mark.parametrize("rt60", [0.2, 0.4, 0.7])
def test_drawn_rirs_decay_as_asked(rt60):
    measured = [decay_time(draw_rir(np.random.default_rng(seed), rt60)) for seed in range(12)]
    assert np.median(measured) == pytest.approx(rt60, rel=0.35)


def test_drawn_rirs_are_aligned_finite_and_reproducible():
    for seed in range(20):
        rir = draw_rir(np.random.default_rng(seed), 0.3)
        assert rir.dtype == np.float32 and rir[0] == 1 and np.abs(rir).max() == 1
        np.testing.assert_array_equal(rir, draw_rir(np.random.default_rng(seed), 0.3))
