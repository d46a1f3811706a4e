"""Options of CSC that cannot work are refused in one sentence."""

import pytest

from cslib.config import UserError
from tests.objectives.csc.tiny_csc import LABELS, objective


@pytest.mark.parametrize(
    "values, message",
    [
        ({"identity": "word"}, "objective.identity is word; it must be utterance or cluster or speaker"),
        ({"bank": "lifo"}, "objective.bank is lifo; it must be swap or batch or fifo"),
        ({"global_vector": "median"}, "objective.global_vector is median; it must be"),
        ({"permutation": "loudness"}, "objective.permutation is loudness; it must be"),
        ({"identity": "cluster"}, "give the file of labels with --labels"),
        ({"labels": LABELS, "identity": "utterance"}, "leave --labels out"),
        ({"labels": LABELS, "bank": "swap"}, "needs bank: fifo"),
        ({"labels": LABELS, "bank": "batch"}, "needs bank: fifo"),
        ({"alpha": 0.0}, "objective.alpha is 0.0; it must be more than 0"),
        ({"alpha": 51.0}, "objective.alpha is 51.0; it must be more than 0 and at most 50"),
        ({"bank": "swap", "cell": 1}, "objective.cell is 1; it must be at least 2, the speakers of a mixture"),
        ({"bank": "swap", "steps": 6}, "training.steps is 6; it must be at least 7: the first 6 only fill the bank"),
        ({"bank": "batch", "entries": 1}, "objective.entries is 1; it must be at least 2"),
        (
            {"bank": "batch", "entries": 3},
            "objective.entries is 3; it must be at least 2 and divide training.batch_size 4",
        ),
        (
            {"bank": "batch", "permutation": "contrast"},
            "permutation is contrast; it must be separation when bank is batch",
        ),
        ({"streams": 3, "mixtures": {"streams": 2}}, "objective.mixtures.streams is 2; it must be network.streams, 3"),
        ({"bank": "swap", "cell": 6, "passes": 1}, "objective.passes is 1; it must be at least 2"),
        ({"mixtures": {"streams": 25}, "streams": 25}, "24 identities are too few"),
    ],
)
def test_invalid_option_is_refused_in_one_sentence(corpus, values, message):
    with pytest.raises(UserError) as error:
        objective(corpus, **values)
    assert message in str(error.value) and "\n" not in str(error.value)
