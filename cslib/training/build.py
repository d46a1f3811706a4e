"""From options to the objective that is trained, with its data."""

from __future__ import annotations

from typing import Any

import torch

from cslib import checkpoints
from cslib.config import find
from cslib.data.banks import open_banks
from cslib.data.labels import read_labels
from cslib.objectives.base import Objective, Task, objective_named
from cslib.training.identity import identity_of


def build(options: Any) -> tuple[Objective, dict[str, Any]]:
    """The objective with its networks and data, and the identity of the training.

    options  of the class that `options_of_command` makes
    Raises UserError when an input is missing or does not fit the objective.
    """
    module = find("objectives", options.objective.name)
    kind = objective_named(options.objective.name)
    utterances = kind.open_data(options.data, options.objective)
    # True speakers are read only if the objective's config says that the training is supervised.
    column = kind.label_column(options.objective)
    labels = read_labels(options.labels, utterances, column) if options.labels else None
    torch.manual_seed(options.seed)
    banks = open_banks(options.noise)
    task = Task(
        utterances=utterances,
        banks=banks,
        augment=options.augment,
        batch_size=options.training.batch_size,
        seed=options.seed,
        steps=options.training.steps,
        network=options.network,
        labels=labels,
    )
    objective = module.build(options.objective, task)
    if options.start_from:
        checkpoints.start_from(options.start_from, objective.embedding_network())
    identity = identity_of(options, utterances, banks, labels)
    identity["inputs"] |= objective.digests()
    return objective, identity
