"""A small CCR on pairs of noise, for the tests of its parts."""

import json

import pytest
import torch
from torch.utils.data import default_collate

from cslib.config import to_dict
from cslib.data.banks import open_banks
from cslib.datasets.augmentation import AugmentConfig
from cslib.datasets.pairs import PairConfig
from cslib.evaluation.validation import ValidationConfig
from cslib.feature_spaces.base import FeatureSpace, FeatureSpaceConfig
from cslib.models import mask_gru, resnet
from cslib.objectives.base import Task
from cslib.objectives.ccr.objective import Ccr, Config, build
from cslib.objectives.ccr.regulariser import (
    ContrastiveRegulariser,
    RegulariserConfig,
)
from cslib.training.config import TrainingConfig
from cslib.training.distributed import Processes
from cslib.training.loop import Trainer
from cslib.training.run_folder import RunFolder

LOGMEL = FeatureSpaceConfig("logmel", groups=2)


BATCH, SAMPLES = 3, 4000


class Network(mask_gru.Config):
    name = "mask_gru"


class Encoder(resnet.Config):
    name = "resnet"


class Plain(torch.nn.Module):
    """The audio itself, and half of its differences: distances can then be reckoned by hand."""

    groups = 2

    def forward(self, audio):
        return [audio, audio.diff(dim=-1) / 2]


def noise(*shape, seed=1):
    return 0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def signals(negatives=2):
    """Clean, noisy, negatives of less and less noise, and an estimate between them."""
    clean, disturbance = noise(BATCH, SAMPLES), noise(BATCH, SAMPLES, seed=2)
    others = [clean + disturbance * 0.5 / (k + 1) + 0.2 * noise(BATCH, SAMPLES, seed=10 + k) for k in range(negatives)]
    enhanced = clean + 0.4 * disturbance + 0.1 * noise(BATCH, SAMPLES, seed=3)
    return enhanced, clean, clean + disturbance, others


def regulariser(mode, negatives=2, beaten=0, **values):
    made = ContrastiveRegulariser(RegulariserConfig(mode, **values), FeatureSpace(Plain()), negatives)
    made.curriculum.qualities.copy_(torch.arange(1.0, negatives + 1))
    made.curriculum.update(beaten + 0.5)
    return made


def config_of(
    data, mode="ccr", every=2, measure="si_sdr", negatives=("poor", "good"), warmup_steps=0, delay_steps=0, **values
):
    return Config(
        [data / name for name in negatives],
        PairConfig(0.25),
        RegulariserConfig(
            mode, warmup_steps=warmup_steps, delay_steps=delay_steps, measure_every=2, feature_space=LOGMEL, **values
        ),
        ValidationConfig(data / "valid", measure, 4, every),
    )


def task_of(data, config, steps=6):
    return Task(
        Ccr.open_data(data / "train", config), open_banks(None), AugmentConfig(), 3, 0, steps, Network(hidden=4)
    )


def objective(data, mode="ccr", **values):
    torch.manual_seed(0)
    config = config_of(data, mode, **values)
    return build(config, task_of(data, config))


def batch_of(made, start=0):
    return default_collate([made.dataset[index] for index in range(start, start + 3)])


def trained(data, exp, config, monkeypatch=None, stop=None, task=None):
    """A run of six steps; killed before step `stop` if that is given. The objective as it then is."""
    torch.manual_seed(0)
    made = build(config, task or task_of(data, config))
    network = {"name": "mask_gru", **to_dict(Network(hidden=4))}
    loop = TrainingConfig(steps=6, batch_size=3, checkpoint_every=1, log_every=1, workers=0)
    alone = Processes(0, 1, torch.device("cpu"))
    trainer = Trainer(made, loop, RunFolder(exp, {"config": {"network": network}}, alone), alone, 0)
    if stop:
        step = trainer._train_step

        def interrupting(batch):
            if trainer.step == stop:
                raise KeyboardInterrupt
            return step(batch)

        monkeypatch.setattr(trainer, "_train_step", interrupting)
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
    else:
        trainer.run()
    return made


def logged(exp):
    timing = ("data_seconds", "compute_seconds", "items_per_second", "memory_gb")
    lines = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timing} for line in lines]


def mixed_objective(data, mixing, mode="ccr", negatives=("early", "late"), banks="noise"):
    torch.manual_seed(0)
    return build(*mixed_config_and_task(data, mixing, mode, negatives, banks))


def mixed_config_and_task(data, mixing, mode="ccr", negatives=("early", "late"), banks="noise"):
    config = config_of(data, mode, negatives=())
    config.negatives = [mixing / name / "checkpoints/final.pt" for name in negatives]
    task = task_of(data, config)
    task.utterances, task.banks = task.utterances.clean, open_banks(banks and mixing / banks)
    return config, task
