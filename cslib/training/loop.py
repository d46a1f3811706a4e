"""The one training loop: any objective, one process or many, stopped and continued anywhere."""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cslib import checkpoints
from cslib.config import UserError
from cslib.files import progress
from cslib.objectives.base import Losses, Objective
from cslib.training.distributed import (
    Processes,
    average_running_statistics,
    collect,
    mean,
    synchronise_batch_norms,
    wait,
)


@dataclass
class TrainingConfig:
    steps: int = 100_000  # optimiser steps; the schedules span them
    batch_size: int = 64  # items per step over all processes
    optimiser: str = "adam"  # adam | adam_amsgrad | adamw | sgd
    learning_rate: float = 1e-3  # peak
    final_rate: float = 0.01  # share of the peak that is left at the end of the cosine; 1 = constant
    warmup_steps: int = 0  # linear rise to the peak
    weight_decay: float = 1e-6  # on matrices only
    beta2: float = 0.999  # second moment of all but sgd; momentum is 0.9 for all
    clip_norm: float = 5.0  # global gradient norm; 0 = no clipping
    precision: str = "fp32"  # fp32 | bf16: what the networks compute in; losses stay in fp32
    compile: bool = False  # torch.compile the networks: pays on long GPU runs
    ema: float = 0.0  # decay per step of averaged weights to embed with; 0 = none
    average_last: int = 1  # embed with the mean of this many last checkpoints; 1 = the last weights
    checkpoint_every: int = 1000  # steps
    keep_every: int = 0  # steps between checkpoints whose encoder is kept, encoder-*.pt; 0 = none
    log_every: int = 20  # steps
    workers: int = 2  # loader processes per training process; 0 = read in the training process

    def __post_init__(self) -> None:
        optimisers = ("adam", "adam_amsgrad", "adamw", "sgd")
        for name, allowed in (("optimiser", optimisers), ("precision", ("fp32", "bf16"))):
            _require(getattr(self, name) in allowed, name, getattr(self, name), " or ".join(allowed))
        for name in ("steps", "batch_size", "average_last", "checkpoint_every", "log_every"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("learning_rate", "warmup_steps", "weight_decay", "clip_norm", "keep_every", "workers"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "0 or more")
        _require(0 <= self.ema < 1, "ema", self.ema, "0 or more and less than 1")
        _require(
            self.keep_every % self.checkpoint_every == 0,
            "keep_every",
            self.keep_every,
            f"a multiple of checkpoint_every, {self.checkpoint_every}",
        )


def _require(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise UserError(f"training.{name}: {value} will not do; give {wanted}")


class Trainer:
    """State of one run in `folder`: log.jsonl, tensorboard/, checkpoints/{step-*,final}.pt.

    identity  what the run is, config and inputs; one found in the folder is continued only if it is the same
    defaults  of the config's options. A run of earlier code, which did not have an option yet, counts as one with its
              default; what an option said then that has no effect on this run does not count
    """

    def __init__(
        self,
        objective: Objective,
        config: TrainingConfig,
        folder: Path,
        identity: dict[str, Any],
        processes: Processes,
        seed: int,
        defaults: dict[str, Any] | None = None,
    ) -> None:
        if config.batch_size % processes.count:
            raise UserError(f"training.batch_size {config.batch_size} cannot be shared by {processes.count} processes")
        self.objective, self.config, self.identity, self.processes = objective, config, identity, processes
        self.defaults = defaults or {}
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        torch.manual_seed(seed + processes.rank)  # dropout differs between processes, weights do not
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
        self.optimiser = _optimiser(objective, config)
        self.ema = (
            AveragedModel(
                objective.embedding_network(), multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True
            )
            if config.ema
            else None
        )
        self.step, self._stop = 0, False

    def run(self) -> None:
        """Train to the last step, from wherever the folder's last checkpoint stands."""
        if self._finished():
            print(f"{self.checkpoints / 'final.pt'} is there already, for the same config and data: nothing to train")
            return
        self._resume()
        before = signal.signal(signal.SIGTERM, self._stop_soon)  # what schedulers send before they kill
        try:
            self._train()
        except BaseException as error:
            # The traceback holds the loader, and its processes ignore SIGTERM: Python would wait for them for ever.
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
        self._finish()

    def _train(self) -> None:
        batches = self._batches()
        with _Log(self.folder, self.config, self.processes, self.step, self.objective.warning) as log:
            while self.step < self.config.steps:
                batch = log.timed_next(batches)
                losses, norm = self._train_step(batch)
                self.step += 1
                log.add(self.step, losses, norm, self.optimiser.param_groups[0]["lr"])
                stop = self._told_to_stop()
                if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps or stop:
                    self._save()
                if stop:
                    raise UserError(
                        f"stopped by a signal at step {self.step}, all of it saved; the same command goes on from here"
                    )

    def _train_step(self, batch: dict[str, Any]) -> tuple[Losses, Tensor]:
        objective, config = self.objective, self.config
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, config) * group.get("rate_scale", 1.0)
        objective.step = self.step
        device = self.processes.device
        batch = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            losses = self.module(batch)
        self.optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        norm = nn.utils.clip_grad_norm_(objective.parameters(), config.clip_norm or math.inf)
        # A finite loss can have a gradient that is not: one such step and every checkpoint after it is lost.
        if not math.isfinite((losses.total.detach() + norm).item()):
            raise UserError(self._non_finite(batch))
        self.optimiser.step()
        objective.after_step()
        if self.ema is not None:
            self.ema.update_parameters(objective.embedding_network())
        return losses, norm

    def _batches(self) -> Iterator[dict[str, Any]]:
        """This process's share of every global batch from the current step on; items go by number."""
        share = self.config.batch_size // self.processes.count
        first = [
            step * self.config.batch_size + self.processes.rank * share for step in range(self.step, self.config.steps)
        ]
        loader = DataLoader(
            self.objective.dataset,
            batch_sampler=_Ranges(first, share),
            num_workers=self.config.workers,
            pin_memory=self.processes.device.type == "cuda",
            worker_init_fn=_start_worker,
            prefetch_factor=4 if self.config.workers else None,
            # One of its own: taking a seed from the global one would change the dropout.
            generator=torch.Generator(),
        )
        return iter(loader)

    def _state(self) -> dict[str, Any]:
        generators = {"cpu": torch.get_rng_state()}
        if self.processes.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.processes.device)
        return {
            "step": self.step,
            "identity": self.identity,
            "model": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generators": collect(generators),
            "ema": self.ema.state_dict() if self.ema is not None else None,
        }

    def _save(self) -> None:
        for module in (self.objective, self.ema):
            if module is not None:
                average_running_statistics(module)
        state = self._state()
        if self.processes.first:
            checkpoints.save(checkpoints.numbered_path(self.checkpoints, self.step), state)
            saved = checkpoints.numbered(self.checkpoints)
            for old in set(saved) - {*self._regular()[-max(2, self.config.average_last) :], saved[-1]}:
                old.unlink()
        wait()
        if self.config.keep_every and self.step % self.config.keep_every == 0:
            self._keep()

    def _regular(self) -> list[Path]:
        """Checkpoints, oldest first, without those that a signal made: final weights do not depend on it."""
        steps = {path: checkpoints.step_of(path) for path in checkpoints.numbered(self.checkpoints)}
        return [
            path
            for path, step in steps.items()
            if step % self.config.checkpoint_every == 0 or step == self.config.steps
        ]

    def _resume(self) -> None:
        paths = checkpoints.numbered(self.checkpoints)
        if not paths:
            return
        state = checkpoints.load(paths[-1])
        if self._is_another(state["identity"]):
            return
        if len(state["generators"]) != self.processes.count:
            raise UserError(
                f"{paths[-1]}: made by {len(state['generators'])} processes, now there are "
                f"{self.processes.count}; continue with as many, or choose another --exp"
            )
        self.step = state["step"]
        self.objective.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        generators = state["generators"][self.processes.rank]
        torch.set_rng_state(generators["cpu"])
        if "cuda" in generators:
            torch.cuda.set_rng_state(generators["cuda"], self.processes.device)
        if self.processes.first:
            print(f"continuing from step {self.step} of {self.config.steps} ({paths[-1]})")

    def _finished(self) -> bool:
        final = self.checkpoints / "final.pt"
        if not final.exists():
            return False
        found = checkpoints.load(final)["identity"]
        wait()
        return not self._is_another(found)

    def _is_another(self, found: dict[str, Any]) -> bool:
        """Whether this is the identity of another run; its checkpoints are then set aside."""
        if "config" in found:
            found = {**found, "config": _as_now(found["config"], self.identity["config"], self.defaults)}
        if found == self.identity:
            return False
        self._set_aside(_difference(found, self.identity))
        return True

    def _set_aside(self, why: str) -> None:
        """Another run's checkpoints are kept, out of the way: they may have cost a week."""
        wait()
        if self.processes.first and self.checkpoints.exists():
            kept = self.folder / f"checkpoints.until-{time.strftime('%Y%m%d-%H%M%S')}"
            self.checkpoints.rename(kept)
            for name in ("log.jsonl", "tensorboard"):
                if (self.folder / name).exists():
                    (self.folder / name).rename(kept / name)
            print(f"{self.folder}: was trained otherwise before ({why}); its checkpoints are now in {kept}")
        wait()

    def _keep(self) -> None:
        """The encoder as it is now, as in final.pt: for learning curves, and as a worse network than the last one."""
        self._save_encoder(
            checkpoints.kept_path(self.checkpoints, self.step),
            lambda: checkpoints.encoder_state(
                self.ema.module if self.ema is not None else self.objective.embedding_network()
            ),
        )

    def _finish(self) -> None:
        self._save_encoder(self.checkpoints / "final.pt", self._final_encoder)

    def _save_encoder(self, path: Path, encoder: Callable[[], dict[str, Tensor]]) -> None:
        if self.processes.first:
            checkpoints.save(
                path,
                {"config": self.identity["config"], "identity": self.identity, "step": self.step, "encoder": encoder()},
            )
        wait()

    def _final_encoder(self) -> dict[str, Tensor]:
        if self.ema is not None:
            return checkpoints.encoder_state(self.ema.module)
        states = []
        for path in self._regular()[-self.config.average_last :]:
            self.objective.load_state_dict(checkpoints.load(path)["model"])
            states.append(checkpoints.encoder_state(self.objective.embedding_network()))
        return checkpoints.mean_state(states)

    def _stop_soon(self, *_: object) -> None:
        self._stop = True

    def _told_to_stop(self) -> bool:
        """Whether the signal has reached any process: all must leave after the same step."""
        if self.processes.count == 1:
            return self._stop
        return mean(torch.tensor(float(self._stop), device=self.processes.device)).item() > 0

    def _non_finite(self, batch: dict[str, Any]) -> str:
        names = " ".join(batch.get("ids", []))
        return (
            f"the loss or its gradient is not finite at step {self.step + 1}; "
            f"the batch held: {names[:2000]}; the last good checkpoint is kept; "
            "lower training.learning_rate or training.clip_norm, or use precision fp32"
        )


class _Log:
    """Means since the last line: to log.jsonl, TensorBoard and the progress bar, by the first process.

    warning  of the objective, from those means; one that stays is shown once
    """

    def __init__(
        self,
        folder: Path,
        config: TrainingConfig,
        processes: Processes,
        start: int,
        warning: Callable[[dict[str, float]], str | None],
    ) -> None:
        self.folder, self.config, self.processes, self.start = folder, config, processes, start
        self.warning, self._warned = warning, False
        self._forget()

    def __enter__(self) -> _Log:
        if self.processes.first:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and needed by nobody else

            self.folder.mkdir(parents=True, exist_ok=True)
            _drop_lines_after(self.folder / "log.jsonl", self.start)
            self.file = open(self.folder / "log.jsonl", "a", encoding="utf-8")
            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start + 1)
            self.bar: tqdm = progress((), "training", total=self.config.steps)
            self.bar.update(self.start)
            self.bar.start_t = time.time()
        return self

    def __exit__(self, *_: object) -> None:
        if self.processes.first:
            self.bar.close()
            self.file.close()
            self.board.close()

    def timed_next(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
        began = time.perf_counter()
        batch = next(batches)
        self.data_seconds += time.perf_counter() - began
        return batch

    def add(self, step: int, losses: Losses, norm: Tensor, rate: float) -> None:
        values = {"loss": losses.total.detach(), **losses.parts, **losses.diagnostics, "gradient_norm": norm.detach()}
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + torch.as_tensor(value, dtype=torch.float32)
        self.count += 1
        if self.processes.first:
            self.bar.update()
        if step % self.config.log_every == 0 or step == self.config.steps:
            self._write(step, rate)
            self._forget()

    def _write(self, step: int, rate: float) -> None:
        sums = torch.stack([value.to(self.processes.device) for value in self.sums.values()])
        means = mean(sums / self.count)
        if not self.processes.first:
            return
        seconds = time.perf_counter() - self.began
        line = dict(zip(self.sums, means.tolist(), strict=True))
        self._warn(step, self.warning(line))
        line |= {
            "learning_rate": rate,
            "data_seconds": self.data_seconds / self.count,
            "compute_seconds": (seconds - self.data_seconds) / self.count,
            "items_per_second": self.count * self.config.batch_size / seconds,
            "memory_gb": _memory_gb(self.processes.device),
        }
        rounded = {name: float(f"{value:.6g}") for name, value in line.items()}
        self.file.write(json.dumps({"step": step, **rounded}) + "\n")
        self.file.flush()
        for name, value in line.items():
            self.board.add_scalar(name, value, step)
        self.bar.set_postfix_str(f"loss {line['loss']:.3f}, {line['items_per_second']:.0f} items/s", refresh=False)

    def _warn(self, step: int, told: str | None) -> None:
        if told and not self._warned:
            self.bar.write(f"WARNING at step {step}: {told}", file=sys.stderr)
        self._warned = bool(told)

    def _forget(self) -> None:
        self.sums: dict[str, Any] = {}
        self.count, self.data_seconds, self.began = 0, 0.0, time.perf_counter()


class _Ranges:
    """Batch sampler: runs of `size` consecutive item numbers."""

    def __init__(self, first: list[int], size: int) -> None:
        self.first, self.size = first, size

    def __iter__(self) -> Iterator[list[int]]:
        return (list(range(begin, begin + self.size)) for begin in self.first)

    def __len__(self) -> int:
        return len(self.first)


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Rate of the step after `step` done ones: linear warm-up to the peak, a cosine to its final share."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(1.0, done))) / 2
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * cosine)


def _require_two_for_batch_norm(objective: Objective, share: int) -> None:
    """Over a single vector there is no variance, and torch's message names no option. (2-d norms have frames.)"""
    if share < 2 and any(isinstance(module, nn.BatchNorm1d) for module in objective.modules()):
        raise UserError(
            "training.batch_size: one item per process is too few for the batch norm of this network; "
            "give two or more per process, or a network without one"
        )


def _optimiser(objective: Objective, config: TrainingConfig) -> torch.optim.Optimizer:
    groups = objective.parameter_groups()
    common = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, **common)
    if config.optimiser == "adamw":
        return torch.optim.AdamW(groups, betas=(0.9, config.beta2), **common)
    return torch.optim.Adam(groups, betas=(0.9, config.beta2), amsgrad=config.optimiser == "adam_amsgrad", **common)


def _as_now(found: dict[str, Any], now: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A config that was found, with the options of `now` that it lacks at their defaults, and without those that `now`
    leaves out, though there still are such options: they have no effect.
    """
    whole = {name: value for name, value in found.items() if name in now or name not in defaults}
    for name, value in now.items():
        inner = defaults.get(name, {})
        if isinstance(value, dict) and isinstance(inner, dict) and isinstance(found.get(name, {}), dict):
            whole[name] = _as_now(found.get(name, {}), value, inner)
        elif name not in found and name in defaults:
            whole[name] = inner
    return whole


def _difference(old: Any, new: Any, name: str = "") -> str:
    """The first place in which two nested dictionaries differ, for people."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    return f"{name}: {old} then, {new} now"


def _drop_lines_after(path: Path, step: int) -> None:
    """Lines that a killed run wrote after the checkpoint it continues from would stand there twice."""
    if path.exists():
        kept = [
            line
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
            if line.endswith("\n") and json.loads(line)["step"] <= step
        ]
        path.write_text("".join(kept), encoding="utf-8")


def _memory_gb(device: torch.device) -> float:
    """Peak so far: of the GPU's memory, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it goes to all of a job; the training ends them
