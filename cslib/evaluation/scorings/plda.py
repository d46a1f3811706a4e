"""Log-likelihood ratio of a PLDA model, trained on pseudo-labels of the training set."""

from __future__ import annotations

import numpy as np

from cslib.config import UserError, require
from cslib.data.labels import read_table
from cslib.evaluation.plda import fit_plda
from cslib.evaluation.scorings.base import Background, Scorer

NEEDS = ("cohort", "labels")


def build(background: Background) -> Scorer:
    """Train on the whole cohort and its pseudo-labels.

    Raises UserError for labels that do not fit, and for a table of true speakers, which has no column `label`.
    """
    embeddings, size = background.embeddings, background.config.plda_size
    if embeddings.ndim != 2:
        raise UserError(
            f"{background.cohort}: plda needs one embedding per utterance, and this file has {embeddings.shape[1]}; "
            "leave plda out of --scoring"
        )
    require(size >= 1, "--plda-size", size, "at least 1")
    plda = fit_plda(embeddings, labels := read_labels(background), size)
    if len(plda.between) < size:
        print(
            f"plda: the speaker subspace has {len(plda.between):,} dimensions instead of {size:,}; "
            f"{len(np.unique(labels[labels >= 0])):,} clusters of embeddings of size {len(plda.mean):,} support no more"
        )

    def scores(embeddings: np.ndarray, enrol: np.ndarray, test: np.ndarray) -> np.ndarray:
        return plda.scores(embeddings, enrol, test, background.device)

    return scores


def read_labels(background: Background) -> np.ndarray:
    """int [c]: the cluster of each training utterance, -1 = none."""
    assert background.labels is not None  # see NEEDS
    table = read_table(background.labels, "label")
    names = np.array([table.get(name, "-1") for name in background.ids])
    if (names == "-1").all():
        raise UserError(
            f"{background.labels}: has a label for none of the {len(names):,} utterances of {background.cohort}; "
            "give the pseudo-labels of the same set"
        )
    return np.where(names == "-1", -1, np.unique(names, return_inverse=True)[1])
