"""Speech enhancement with a curricular contrastive regulariser in a feature space (Xu et al., ICASSP 2024).

A network learns to output the clean speech. A regulariser pulls its output to the clean speech, and pushes it from the
noisy speech and from the outputs of worse networks, in the feature space of a frozen encoder. A curriculum gives more
weight to negatives that the network is already better than. Feature space and negatives are used in training only.

The paper's equations were not available: this is a reconstruction. Certain are the ratio's anchor, positive and
negatives, a feature space of a self-supervised model, a curriculum of the weights, and no cost at inference. Inferred
are distance, weights and their schedule (see regulariser.py, loss.py). Shapes: B items, T samples, K negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cslib.checkpoints import content_digest, load_enhancer
from cslib.config import UserError, find
from cslib.data.pairs import SIDES, PairedUtterances
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import to_float
from cslib.datasets.mixed_pairs import MixedPairs
from cslib.datasets.pairs import PairConfig, Pairs
from cslib.evaluation.validation import Validation, ValidationConfig
from cslib.feature_spaces.base import open_feature_space
from cslib.models.base import EnhancementNetwork
from cslib.models.layers.levels import at_level_of_first
from cslib.objectives.base import Losses, Objective, Task
from cslib.objectives.ccr.loss import reconstruction_loss
from cslib.objectives.ccr.regulariser import ContrastiveRegulariser, RegulariserConfig, gradient_norm


@dataclass
class Config:
    # K folders with <set>/<id>.wav enhanced by networks trained without a regulariser; or K final.pt of such networks
    negatives: list[Path] = field(default_factory=list)
    pairs: PairConfig = field(default_factory=PairConfig)  # crops
    regulariser: RegulariserConfig = field(default_factory=RegulariserConfig)  # added to the native loss
    validation: ValidationConfig = field(default_factory=ValidationConfig)  # the quality that the curriculum follows

    @property
    def negative_networks(self) -> list[Path]:
        """The negatives that are networks, if the mode needs any."""
        return [path for path in self.negatives if self.regulariser.needs_negatives and Path(path).is_file()]

    @property
    def enhanced_folders(self) -> list[Path]:
        """The negatives that are folders of recordings, if the mode needs any."""
        return [path for path in self.negatives if self.regulariser.needs_negatives and not Path(path).is_file()]


def _open_pairs(folder: Path, config: Config) -> PairedUtterances:
    return PairedUtterances.open(folder, [Path(negative) / Path(folder).name for negative in config.enhanced_folders])


def build(config: Config, task: Task) -> Ccr:
    return Ccr(config, task)


class Ccr(Objective):
    """Minimises  native loss + lambda(t) * regulariser  over the enhancement network.

    It keeps the curriculum: qualities of the negatives, and the best of the network. Whether it is well shows in
    quality (PESQ, or dB of SI-SDR) beside best_quality and quality_<k> of the negatives, in ratio_<group> of the
    regulariser, and in native_gradient beside regulariser_gradient: the regulariser should not dominate.

    Raises UserError for data without two sides and without noise, for negatives that are missing or do not fit the
    mode, and for a network that enhances nothing.
    """

    regulariser: ContrastiveRegulariser | None
    validation: Validation | None
    rated: Tensor  # bool scalar: the noisy speech and the negatives have been measured
    quality: Tensor  # scalar, of the network when it was last measured
    gradient_norms: Tensor  # [2], of native loss and regulariser when they were last measured

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__()
        _check(config, task)
        self.config = config
        self.dataset = (
            Pairs(task.utterances, config.pairs, task.seed)
            if isinstance(task.utterances, PairedUtterances)
            else MixedPairs(task.utterances, task.banks.noise, config.pairs, task.seed)
        )
        self.network = find("models", task.network.name).build(task.network)
        if not isinstance(self.network, EnhancementNetwork):
            raise UserError(
                f"network.name is {task.network.name}, which enhances nothing; give crn, mask_gru or tf_conformer"
            )
        self.regulariser = None
        if config.regulariser.mode != "none":
            self.regulariser = ContrastiveRegulariser(
                config.regulariser,
                open_feature_space(config.regulariser.feature_space),
                len(config.negative_networks) or len(config.enhanced_folders),
            )
        self.negatives = NegativeNetworks(config.negative_networks)
        self.validation = None
        if config.validation.pairs:
            self.validation = Validation(_open_pairs(config.validation.pairs, config), config.validation)
        self.register_buffer("rated", torch.tensor(False))
        self.register_buffer("quality", torch.tensor(0.0))
        self.register_buffer("gradient_norms", torch.zeros(2))

    @classmethod
    def open_data(cls, folder: Path, config: Config) -> PairedUtterances | Utterances:
        """The pairs of a set with clean/ and noisy/, with those of the negatives' folders if the mode needs them.

        The recordings of a set without these two folders: clean speech, to be mixed with noise.
        """
        if not any((Path(folder) / side).is_dir() for side in SIDES):
            return Utterances.open(folder)
        return _open_pairs(folder, config)

    def embedding_network(self) -> nn.Module:
        return self.network

    def digests(self) -> dict[str, Any]:
        """Of the checkpoint of the feature space, the validation set and the networks among the negatives."""
        checkpoint = self.config.regulariser.feature_space.checkpoint if self.regulariser else None
        networks = [content_digest(path) for path in self.config.negative_networks]
        found: dict[str, Any] = {
            "feature_space": content_digest(checkpoint) if checkpoint else None,
            "validation": self.validation.pairs.digest() if self.validation else None,
        }
        return found | ({"negatives": networks} if networks else {})

    def forward(self, batch: dict[str, Tensor]) -> Losses:
        if self.validation and not self.rated:
            self._rate()
        signals = torch.cat([batch["noisy"][:, None], batch["clean"][:, None], batch["negatives"]], dim=1)
        noisy, clean, *negatives = at_level_of_first(to_float(signals)).unbind(1)
        enhanced = self.network(noisy).float()
        native, parts = reconstruction_loss(enhanced, clean)
        diagnostics = self._measured()
        if self.regulariser is None:
            return Losses(native, parts, diagnostics)
        measure = self.training and self.step % self.config.regulariser.measure_every == 0
        if self.regulariser.hears_negatives(measure):
            negatives += self.negatives(noisy)
        weight = self.weight()
        warming = weight < self.config.regulariser.weight
        value, signs = self.regulariser(enhanced, clean, noisy, negatives, measure, warming)
        if measure:
            self.gradient_norms.copy_(torch.stack([gradient_norm(loss, enhanced) for loss in (native, weight * value)]))
        ours, its = self.gradient_norms.clone()
        diagnostics |= signs | {
            "regulariser_weight": torch.tensor(weight),
            "native_gradient": ours,
            "regulariser_gradient": its,
        }
        return Losses(native + weight * value, parts | {"regulariser": weight * value.detach()}, diagnostics)

    @torch.no_grad()
    def after_step(self) -> None:
        """Measure the network every validation.every steps, and update the curriculum."""
        validation = self.validation
        if validation and (self.step + 1) % self.config.validation.every == 0:
            self._on_first_process(self.quality, lambda: validation.of_network(self.network, self.quality.device))
            if self.regulariser is not None:
                self.regulariser.curriculum.update(self.quality)

    def weight(self) -> float:
        """lambda(t): 0 for delay_steps, a linear rise over warmup_steps, constant after that."""
        config = self.config.regulariser
        risen = (self.step + 1 - config.delay_steps) / max(1, config.warmup_steps)
        return config.weight * min(1.0, max(0.0, risen))

    @torch.no_grad()
    def _rate(self) -> None:
        """Measure the noisy speech, where the network starts, and the negatives, once per training."""
        curriculum = self.regulariser.curriculum if self.regulariser else None
        found = self.quality.new_zeros(1 + (len(curriculum.qualities) if curriculum else 0))
        self._on_first_process(found, self._qualities)
        self.quality.copy_(found[0])
        if curriculum is not None:
            curriculum.qualities.copy_(found[1:])
        self.rated.fill_(True)

    def _qualities(self) -> list[float]:
        """Qualities [1 + K] of the noisy speech and of the negatives, measured as those of the network."""
        assert self.validation is not None
        device = self.quality.device
        with torch.autocast(device.type, enabled=False):
            networks = [self.validation.of_network(network, device) for network in self.negatives.on(device)]
        return [*self.validation.of_recordings(), *networks]

    @staticmethod
    def _on_first_process(result: Tensor, measure: Callable[[], float | list[float]]) -> None:
        """Set `result`, in all processes, to what `measure` returns in the first one."""
        many = torch.distributed.is_initialized()
        if not many or torch.distributed.get_rank() == 0:
            result.copy_(torch.as_tensor(measure()))
        if many:
            torch.distributed.broadcast(result, 0)

    def _measured(self) -> dict[str, Tensor]:
        """Qualities to log: of the network when last measured, the best so far, of each negative."""
        if not self.validation:
            return {}
        diagnostics = {"quality": self.quality.clone()}
        if self.regulariser is not None:
            curriculum = self.regulariser.curriculum
            diagnostics["best_quality"] = torch.where(curriculum.best.isinf(), self.quality, curriculum.best)
            diagnostics |= {f"quality_{k + 1}": quality for k, quality in enumerate(curriculum.qualities.clone())}
        return diagnostics


class NegativeNetworks:
    """Frozen networks that enhance each batch. Not an nn.Module: checkpoints of the objective do not contain them.

    Raises UserError when a file is not a checkpoint of an enhancement network.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.networks = [load_enhancer(Path(path)).requires_grad_(False) for path in paths]

    def on(self, device: torch.device) -> list[nn.Module]:
        """The networks, moved to the device."""
        return [network.to(device) for network in self.networks]

    @torch.no_grad()
    def __call__(self, noisy: Tensor) -> list[Tensor]:
        """Noisy speech [B, T] -> K enhanced versions, [B, T] each."""
        return [network(noisy).float() for network in self.on(noisy.device)]


def _check(config: Config, task: Task) -> None:
    regulariser, paired = config.regulariser, isinstance(task.utterances, PairedUtterances)
    absent = [path for path in config.negatives if regulariser.needs_negatives and not Path(path).exists()]
    if absent:
        raise UserError(f"objective.negatives: {absent[0]}: not found; check the path, or train that network first")
    if not paired and not task.banks.noise:
        raise UserError(
            "objective ccr needs pairs of clean and noisy speech: give a set with clean/ and noisy/, or clean speech "
            "and --noise to mix it with (RIRs alone are not enough)"
        )
    if paired and task.banks.noise:
        raise UserError(
            "--noise: the pairs of this set are mixed already; leave --noise out, or give clean speech alone"
        )
    if not paired and config.enhanced_folders:
        raise UserError(
            "objective.negatives: these are folders of recordings, but noisy speech is mixed anew for every crop; give "
            "the final.pt of the networks instead"
        )
    if config.negative_networks and config.enhanced_folders:
        raise UserError("objective.negatives: some are folders and some are files; give only one kind")
    if regulariser.needs_negatives and not config.negatives:
        raise UserError(
            f"objective.negatives is empty, but regulariser.mode {regulariser.mode} needs recordings enhanced by "
            "networks trained without a regulariser, or the final.pt of such networks; give one or more, or mode: cr"
        )
    if regulariser.needs_negatives and regulariser.gamma and not config.validation.pairs:
        raise UserError(
            "objective.validation.pairs is not given, but the curriculum follows the quality on a validation set; give "
            "one, or regulariser.gamma: 0"
        )
