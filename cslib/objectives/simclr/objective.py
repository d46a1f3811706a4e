"""SimCLR on utterances: each crop finds the other crop of its utterance among all crops of the batch (Chen et al. 2020,
arXiv 2002.05709; for speakers Zhang, Zou and Wang, ICASSP 2021; Lepage and Dehak, Interspeech 2022, arXiv 2207.05506).

Both crops are augmented independently, so that noise and room do not identify a pair. All other crops of the batch are
negatives, also those of the same speaker: with many speakers there are few of them. With `positives: cluster`, other
utterances of the cluster stay negatives.

What is minimised is in loss.py, what methods on pairs of crops share in cslib/objectives/siamese.py. Shapes: B
utterances in this process, D size of a point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from cslib.config import require
from cslib.objectives.base import Losses, Task, gather_with_gradient
from cslib.objectives.crops import augmented, embed_each
from cslib.objectives.siamese import Siamese, SiameseConfig, project_each
from cslib.objectives.simclr.loss import nt_xent_loss


@dataclass
class Config(SiameseConfig):
    temperature: float = 0.03  # of the cosines; lower weighs the most similar negatives more


def build(config: Config, task: Task) -> SimClr:
    return SimClr(config, task)


class SimClr(Siamese):
    """Minimises NT-Xent of the points of both crops.

    It keeps nothing between steps. Whether it is well shows in the loss, which starts near ln(2N - 1) for N utterances
    and falls, in retrieval and in `embedding_diagnostics`.

    The negatives are those of the global batch: every process computes the loss of all points, to which its own
    contribute with gradient. Averaged over processes, the gradient is exactly that of one process with the whole batch,
    through negatives too (except that on CPUs each process has its own batch statistics).

    Raises UserError where `Siamese` does, for a temperature that is not positive, and for a batch larger than the set.
    """

    config: Config

    def __init__(self, config: Config, task: Task) -> None:
        require(0 < config.temperature < math.inf, "objective.temperature", config.temperature, "more than 0")
        super().__init__(config, task)
        most = len(self.views.rows)
        wanted = f"at most {most:,}, the utterances to learn from: another crop of the same one would be a negative"
        require(task.batch_size <= most, "training.batch_size", task.batch_size, wanted)
        self.guess = math.log(2 * task.batch_size - 1)

    def forward(self, batch: dict[str, Tensor]) -> Losses:
        embeddings = embed_each(self.encoder, augmented(batch, "global"))
        points = F.normalize(project_each(self.projector, embeddings), dim=-1)  # [B, 2, D]
        first, second = gather_with_gradient(points).unbind(1)
        loss = nt_xent_loss(first, second, self.config.temperature)
        positive = (points[:, 0] * points[:, 1]).sum(-1).mean().detach()
        return Losses(loss, {}, self.progress(embeddings) | {"positive_cosine": positive})

    def warning(self, means: dict[str, float]) -> str | None:
        """All embeddings the same, or a loss that does not leave the level of a guess."""
        remedy = "lower training.learning_rate, or raise training.batch_size for more negatives"
        if self.settled() and means["loss"] > 0.99 * self.guess:
            return (
                f"the loss is {means['loss']:.2f}, and guessing the pairs gives {self.guess:.2f}: lower "
                "training.learning_rate, change objective.temperature, or augment less"
            )
        return self.collapse(means, remedy)
