import numpy as np

from cslib.corpora.synthesis.sentences import draw_sentence


def test_sentences_have_the_wanted_number_of_words():
    rng = np.random.default_rng(0)
    assert all(9 <= len(draw_sentence(rng, 9, 16).split()) <= 16 for _ in range(200))


def test_sentences_hardly_ever_repeat():
    rng = np.random.default_rng(0)
    assert len({draw_sentence(rng, 11, 18) for _ in range(500)}) > 495
