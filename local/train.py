"""Train any objective on any data folder.

    python local/train.py --config egs/voxceleb/conf/mini/csc.yaml --data data/mini/train \\
        --noise data/mini/noise --exp exp/mini_csc
    torchrun --nproc-per-node 4 local/train.py ...        # the same on four GPUs

The same command continues an interrupted run. Any option of the config can be set on the command line too:
--training.steps 100 --objective.alpha 5. With --config, --help lists them all.
"""

from __future__ import annotations

from typing import Any

from cslib.config import run
from cslib.training import distributed
from cslib.training.build import build
from cslib.training.loop import Trainer
from cslib.training.options import config_of, defaults_of, options_of_command
from cslib.training.run_folder import RunFolder


def main(options: Any) -> None:
    processes = distributed.start(options.device)
    objective, identity = build(options)
    folder = RunFolder(options.exp, identity, processes, config_of(options), defaults_of(options))
    trainer = Trainer(objective, options.training, folder, processes, options.seed)
    if processes.first:
        parameters = sum(p.numel() for p in objective.parameters()) / 1e6
        print(
            f"{identity['inputs']['count']:,} utterances, {parameters:.2f} M parameters, "
            f"{options.training.steps:,} steps of {options.training.batch_size} on {processes.device} "
            f"in {'bfloat16' if trainer.bf16 else 'float32'}"
        )
    trainer.run()
    distributed.stop()


if __name__ == "__main__":
    run(main, options_of_command)
