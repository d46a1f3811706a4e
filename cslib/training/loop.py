"""The one training loop: any objective, one process or many, interrupted and continued at any step."""

from __future__ import annotations

import math
import signal
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cslib import checkpoints
from cslib.config import UserError
from cslib.devices import computes_in_bf16, deterministic_algorithms
from cslib.files import warn
from cslib.objectives.base import Losses, Objective
from cslib.training.batches import batches
from cslib.training.config import TrainingConfig
from cslib.training.distributed import (
    Processes,
    average_running_statistics,
    collect,
    mean,
    synchronise_batch_norms,
    wait,
)
from cslib.training.log import Log
from cslib.training.optimisers import learning_rate, make_optimiser
from cslib.training.run_folder import RunFolder


class Trainer:
    """One training: the objective, its optimiser, and the number of finished steps.

    Raises UserError when the batch cannot be shared equally by the processes, or is too small for batch norm.
    """

    def __init__(
        self, objective: Objective, config: TrainingConfig, folder: RunFolder, processes: Processes, seed: int
    ) -> None:
        if config.batch_size % processes.count:
            raise UserError(
                f"training.batch_size is {config.batch_size}; "
                f"it must be a multiple of the number of processes ({processes.count})"
            )
        self.objective, self.config, self.folder, self.processes = objective, config, folder, processes
        torch.manual_seed(seed + processes.rank)  # dropout differs between processes, initial weights do not
        objective.to(processes.device).train()
        synchronise_batch_norms(objective, processes)
        _require_two_for_batch_norm(objective, config.batch_size // processes.count)
        if config.compile:
            for network in objective.networks():
                network.compile()
        self.module: nn.Module = objective
        if processes.count > 1:
            self.module = nn.parallel.DistributedDataParallel(
                objective, broadcast_buffers=False, find_unused_parameters=True
            )
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and computes_in_bf16(processes.device))
        self.optimiser = make_optimiser(objective, config)
        self.ema: AveragedModel | None = None
        if config.ema:
            average = get_ema_multi_avg_fn(config.ema)
            self.ema = AveragedModel(objective.embedding_network(), multi_avg_fn=average, use_buffers=True)
        self.step, self._stop = 0, False

    def run(self) -> None:
        """Train to the last step, from the last checkpoint in the folder if there is one; then write final.pt."""
        state = self.folder.open()
        if state is not None and "encoder" in state:
            print(f"{self.folder.final} exists already, with the same config and data: nothing to train")
            return
        if state is not None:
            self._restore(state)
        before = signal.signal(signal.SIGTERM, self._stop_soon)  # schedulers send it some time before they kill
        try:
            with deterministic_algorithms(self.config.deterministic):
                self._train()
        except BaseException as error:
            # The traceback keeps the loader alive. Its workers ignore SIGTERM, so Python would wait for them forever.
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
        self._save_encoder(self.folder.final)

    def _train(self) -> None:
        config = self.config
        loader = batches(self.objective.dataset, config, self.processes, self.step)
        with Log(self.folder.path, config, self.processes, self.step, self.objective.warning) as log:
            while self.step < config.steps:
                batch = log.timed_next(loader)
                losses, norm = self._train_step(batch)
                self.step += 1
                log.add(self.step, losses, norm, self.optimiser.param_groups[0]["lr"])
                stop = self._must_stop()
                if self.step % config.checkpoint_every == 0 or self.step == config.steps or stop:
                    self._save()
                if stop:
                    raise UserError(
                        f"stopped by a signal after step {self.step}, which is saved; the same command continues"
                    )

    def _train_step(self, batch: dict[str, Any]) -> tuple[Losses, Tensor]:
        """One optimiser step; the losses and the norm of the gradient before clipping."""
        objective, config, device = self.objective, self.config, self.processes.device
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, config) * group.get("rate_scale", 1.0)
        objective.step = self.step
        batch = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            losses = self.module(batch)
        self.optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        norm = nn.utils.clip_grad_norm_(objective.parameters(), config.clip_norm or math.inf)
        # The gradient of a finite loss can be infinite; one such step would spoil every later checkpoint.
        if not math.isfinite((losses.total.detach() + norm).item()):
            raise UserError(self._non_finite(batch))
        self.optimiser.step()
        objective.after_step()
        if self.ema is not None:
            self.ema.update_parameters(objective.embedding_network())
        return losses, norm

    def _non_finite(self, batch: dict[str, Any]) -> str:
        names = " ".join(batch.get("ids", []))
        return (
            f"the loss or its gradient is not finite at step {self.step + 1}; "
            f"the batch held: {names[:2000]}; the last good checkpoint is kept; "
            "lower training.learning_rate or training.clip_norm, or use precision fp32"
        )

    def _save(self) -> None:
        for module in (self.objective, self.ema):
            if module is not None:
                average_running_statistics(module)
        self.folder.save(self.step, self._state(), self.config)
        if self.config.keep_every and self.step % self.config.keep_every == 0:
            self._save_encoder(checkpoints.kept_path(self.folder.checkpoints, self.step))

    def _state(self) -> dict[str, Any]:
        generators = {"cpu": torch.get_rng_state()}
        if self.processes.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.processes.device)
        return {
            "step": self.step,
            "model": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generators": collect(generators),
            "ema": self.ema.state_dict() if self.ema is not None else None,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Continue from a `_state`, with any number of processes: only the random numbers depend on it."""
        self.step = state["step"]
        self.objective.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        generators, processes = state["generators"], self.processes
        if processes.first:
            print(f"continuing after step {self.step} of {self.config.steps} in {self.folder.checkpoints}")
            if len(generators) != processes.count:
                warn(_other_count(len(generators), processes))
        if processes.rank < len(generators):
            torch.set_rng_state(generators[processes.rank]["cpu"])
            if processes.device.type == "cuda" and "cuda" in generators[processes.rank]:
                torch.cuda.set_rng_state(generators[processes.rank]["cuda"], processes.device)

    def _save_encoder(self, path: Path) -> None:
        """final.pt or encoder-<step>.pt: the weights to embed or enhance with."""
        if self.processes.first:
            final = path == self.folder.final
            self.folder.save_encoder(path, self.step, self._final_encoder() if final else self._encoder())
        wait()

    def _encoder(self) -> dict[str, Tensor]:
        return checkpoints.encoder_state(self.objective.embedding_network() if self.ema is None else self.ema.module)

    def _final_encoder(self) -> dict[str, Tensor]:
        if self.ema is not None:
            return self._encoder()
        states = []
        for path in self.folder.regular(self.config)[-self.config.average_last :]:
            self.objective.load_state_dict(checkpoints.load(path)["model"])
            states.append(self._encoder())
        return checkpoints.mean_state(states)

    def _stop_soon(self, *_: object) -> None:
        self._stop = True

    def _must_stop(self) -> bool:
        """Whether any process has received the signal: all must stop after the same step."""
        if self.processes.count == 1:
            return self._stop
        return mean(torch.tensor(float(self._stop), device=self.processes.device)).item() > 0


def _other_count(before: int, processes: Processes) -> str:
    synchronised = processes.device.type == "cuda" and min(before, processes.count) > 1
    return (
        f"the run was saved by {before} process{'es' if before > 1 else ''} and is continued by {processes.count}: "
        "batches and their order stay the same, but dropout draws other random numbers"
        + ("" if synchronised else ", and batch norm normalises over other shares of the batch")
    )


def _require_two_for_batch_norm(objective: Objective, share: int) -> None:
    """A single vector has no variance, and torch's message names no option. (BatchNorm2d averages over frames too.)"""
    if share < 2 and any(isinstance(module, nn.BatchNorm1d) for module in objective.modules()):
        raise UserError(
            "training.batch_size is too small: batch norm needs at least two items per process; "
            "raise it, or choose a network without batch norm"
        )
