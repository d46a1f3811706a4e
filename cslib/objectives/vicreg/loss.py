"""The three terms of VICReg (Bardes, Ponce and LeCun 2022, arXiv 2105.04906, section 4.1).

Variance and covariance of one crop's points are in cslib/objectives/covariance.py, which DINO uses as well.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cslib.objectives.covariance import variance_and_covariance_losses


def vicreg_terms(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """The terms of points [N, D] of the first and of the second crop of N >= 2 utterances, scalars without weights:

    invariance  mean squared difference of the two crops, over utterances and dimensions. (Equation 5 sums over
                dimensions; the authors' code has the mean, for which their weights are.)
    variance    shortfall of the standard deviations below 1, first crop + second crop (equations 1, 2 and 6)
    covariance  squared covariances of different dimensions / D, first crop + second crop (equations 3, 4 and 6)
    """
    variances, covariances = zip(*map(variance_and_covariance_losses, (first, second)), strict=True)
    return {
        "invariance": F.mse_loss(first, second),
        "variance": variances[0] + variances[1],
        "covariance": covariances[0] + covariances[1],
    }
