"""The folder of a run: its config, its checkpoints, and whose they are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from cslib import checkpoints
from cslib.config import UserError
from cslib.files import write_lines
from cslib.provenance import commit
from cslib.training.config import TrainingConfig
from cslib.training.distributed import Processes, wait
from cslib.training.identity import as_now, difference
from cslib.training.options import unknown_option


class RunFolder:
    """config.yaml, log.jsonl, tensorboard/ and checkpoints/{step-*,encoder-*,final}.pt of one run.

    identity  of the run: {"config", "inputs"}; only checkpoints with the same identity are continued
    config    all options, for config.yaml; None: no such file is written
    defaults  of the config's options. A run of earlier code, which lacked an option, counts as a run with its default
    """

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        processes: Processes,
        config: dict[str, Any] | None = None,
        defaults: dict[str, Any] | None = None,
    ) -> None:
        self.path, self.checkpoints, self.final = path, path / "checkpoints", path / "checkpoints/final.pt"
        self.identity, self.processes = identity, processes
        self.config, self.defaults = config, defaults or {}
        self._commit = commit() if processes.first else ""

    def open(self) -> dict[str, Any] | None:
        """Claim the folder for this run.

        Returns the content of final.pt if the run is finished, else of its last step-*.pt, or None if there is neither.
        Checkpoints of another run are set aside. config.yaml is written last, so it never replaces that of a run whose
        checkpoints stay. Raises UserError when that run has options that this code does not know.
        """
        state = self._newest()
        if state is not None:
            found = self._comparable(state)
            wait()  # until all processes have read it
            if found != self.identity:
                self._set_aside(difference(found, self.identity))
                state = None
        if self.processes.first and self.config is not None:
            write_lines(self.path / "config.yaml", [yaml.safe_dump(self.config, sort_keys=False).rstrip()])
        return state

    def save(self, step: int, state: dict[str, Any], training: TrainingConfig) -> None:
        """Write step-<step>.pt and remove those that are no longer needed."""
        if self.processes.first:
            checkpoints.save(checkpoints.numbered_path(self.checkpoints, step), {**state, **self._origin()})
            saved = checkpoints.numbered(self.checkpoints)
            for old in set(saved) - {*self.regular(training)[-max(2, training.average_last) :], saved[-1]}:
                old.unlink()
        wait()

    def regular(self, training: TrainingConfig) -> list[Path]:
        """step-*.pt, oldest first, without those saved after a signal: final weights must not depend on signals."""
        steps = {path: checkpoints.step_of(path) for path in checkpoints.numbered(self.checkpoints)}
        return [path for path, step in steps.items() if step % training.checkpoint_every == 0 or step == training.steps]

    def save_encoder(self, path: Path, step: int, encoder: dict[str, Tensor]) -> None:
        """Write a checkpoint for inference, which holds the weights of the embedding network alone."""
        checkpoints.save(path, {"config": self.identity["config"], **self._origin(), "step": step, "encoder": encoder})

    def _origin(self) -> dict[str, Any]:
        return {"identity": self.identity, "commit": self._commit}

    def _newest(self) -> dict[str, Any] | None:
        paths = [self.final] if self.final.exists() else checkpoints.numbered(self.checkpoints)
        if not paths:
            return None
        state = checkpoints.load(paths[-1])
        if not isinstance(state.get("identity"), dict):
            raise UserError(f"{paths[-1]}: not a checkpoint of this project; choose another --exp")
        return state

    def _comparable(self, state: dict[str, Any]) -> dict[str, Any]:
        """The identity in a checkpoint, in today's form."""
        unknown = unknown_option(state["identity"].get("config", {}))
        if unknown:
            raise UserError(
                f"{self.path}: holds a run with the option {unknown}, which this version of the code does not have, "
                "so that it cannot be continued; choose another --exp (a final.pt in it can still be used)"
            )
        return as_now(state["identity"], self.identity, self.defaults)

    def _set_aside(self, why: str) -> None:
        """Move another run's files to a folder of their own; they may have taken a week to compute."""
        if self.processes.first:
            kept = self.path / f"checkpoints.until-{time.strftime('%Y%m%d-%H%M%S')}"
            self.checkpoints.rename(kept)
            for name in ("config.yaml", "log.jsonl", "tensorboard"):
                if (self.path / name).exists():
                    (self.path / name).rename(kept / name)
            print(f"{self.path}: held another run ({why}); its checkpoints are now in {kept}")
        wait()
