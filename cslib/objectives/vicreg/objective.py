"""VICReg on utterances: both crops have the same point, and points fill their space (Bardes et al. 2022, arXiv
2105.04906; for speakers Lepage and Dehak, Interspeech 2022, arXiv 2207.05506).

There are no negatives and no teacher. Three terms of the points of a batch: invariance pulls both crops of an utterance
together; variance keeps every dimension from shrinking, which prevents collapse to one point; covariance keeps
dimensions from repeating each other, which prevents collapse to a few directions.

What is minimised is in loss.py, what methods on pairs of crops share in cslib/objectives/siamese.py. Shapes: B
utterances in this process, D size of a point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from cslib.config import require
from cslib.objectives.base import Losses, Task, gather_with_gradient
from cslib.objectives.crops import augmented, embed_each
from cslib.objectives.siamese import Siamese, SiameseConfig, project_each
from cslib.objectives.vicreg.loss import vicreg_terms

TERMS = ("invariance", "variance", "covariance")


@dataclass
class Config(SiameseConfig):
    projector: list[int] = field(default_factory=lambda: [2048, 2048, 512])  # widths of its layers (the expander)
    invariance_weight: float = 1.0  # lambda
    variance_weight: float = 1.0  # mu; raise it when `variance` stays near 2, the collapse to one point
    covariance_weight: float = 0.1  # nu; raise it when effective_rank stays small


def build(config: Config, task: Task) -> VicReg:
    return VicReg(config, task)


class VicReg(Siamese):
    """Minimises the weighted sum of invariance, variance and covariance.

    It keeps nothing between steps. Whether it is well shows in variance (2: one point for all crops; 0: every dimension
    in use), effective_rank, retrieval and the other values of `embedding_diagnostics`.

    Variances and covariances are those of the global batch, as in the authors' code. Averaged over processes, the
    gradient is exactly that of one process with the whole batch (except that on CPUs each process has its own batch
    statistics).

    Raises UserError where `Siamese` does, and for a negative weight.
    """

    config: Config

    def __init__(self, config: Config, task: Task) -> None:
        for term in TERMS:
            weight = getattr(config, f"{term}_weight")
            require(0 <= weight < math.inf, f"objective.{term}_weight", weight, "at least 0")
        super().__init__(config, task)

    def forward(self, batch: dict[str, Tensor]) -> Losses:
        embeddings = embed_each(self.encoder, augmented(batch, "global"))
        points = gather_with_gradient(project_each(self.projector, embeddings))
        terms = vicreg_terms(*points.unbind(1))
        weighted = [getattr(self.config, f"{term}_weight") * terms[term] for term in TERMS]
        parts = {term: value.detach() for term, value in terms.items()}
        return Losses(weighted[0] + weighted[1] + weighted[2], parts, self.progress(embeddings))

    def warning(self, means: dict[str, float]) -> str | None:
        """One point for all crops, or points on a line."""
        if self.settled() and means["variance"] > 1.8:
            return (
                f"variance is {means['variance']:.2f}, and one point for all crops gives 2: raise "
                "objective.variance_weight, or lower training.learning_rate"
            )
        if self.settled() and means["effective_rank"] < 1.5:
            return (
                f"the embeddings vary along one direction only (effective_rank {means['effective_rank']:.1f}): raise "
                "objective.covariance_weight or training.batch_size"
            )
        return self.collapse(means, "raise objective.variance_weight, or lower training.learning_rate")
