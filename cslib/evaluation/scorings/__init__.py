"""Scorings of trials: from the embeddings of two utterances to one number, higher for the same speaker.

To add one, write cslib/evaluation/scorings/<name>.py with

    NEEDS = ("cohort",)    # what it learns from: (), ("cohort",) or ("cohort", "labels")

    def build(background: Background) -> Scorer: ...

and pass `--scoring <name>` to local/score_trials.py; no other file changes, unless the scoring has options: these are
fields of `ScoringConfig`. See base.py for what a Background and a Scorer are.
"""

from __future__ import annotations

from cslib.config import known_names

ORDER = ("cosine", "mean", "asnorm", "plda")  # in tables; others follow by name


def scoring_names() -> list[str]:
    """All scorings that `--scoring` accepts, in the order of the tables."""
    return sorted(known_names("evaluation.scorings"), key=place)


def place(name: str) -> tuple[int, str]:
    """Sort key of a scoring in tables; unknown names, of files since removed, come last."""
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)
