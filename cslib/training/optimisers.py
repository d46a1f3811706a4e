"""Optimisers and the learning-rate schedule."""

from __future__ import annotations

import math

from torch.optim import SGD, Adam, AdamW, Optimizer

from cslib.objectives.base import Objective
from cslib.training.config import TrainingConfig


def make_optimiser(objective: Objective, config: TrainingConfig) -> Optimizer:
    """The optimiser of the config for the objective's parameter groups."""
    groups, rate, decay = objective.parameter_groups(), config.learning_rate, config.weight_decay
    if config.optimiser == "sgd":
        return SGD(groups, lr=rate, weight_decay=decay, momentum=0.9, nesterov=True)
    betas = (0.9, config.beta2)
    if config.optimiser == "adamw":
        return AdamW(groups, lr=rate, weight_decay=decay, betas=betas)
    return Adam(groups, lr=rate, weight_decay=decay, betas=betas, amsgrad=config.optimiser == "adam_amsgrad")


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Learning rate of the step that follows `step` finished ones: linear warm-up, then a half cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(1.0, done))) / 2
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * cosine)
