"""Which trainings are the same: those with the same config and the same inputs, compared by content."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from cslib import checkpoints
from cslib.data.banks import Banks
from cslib.data.utterances import Utterances
from cslib.training.options import config_of

# Options of `training` that change how a training runs or what it writes besides, but not what it computes.
NOT_PART = ("workers", "log_every", "keep_every", "deterministic")


def identity_of(options: Any, utterances: Utterances, banks: Banks, labels: np.ndarray | None) -> dict[str, Any]:
    """{"config": options of effect, "inputs": digests}. Where the inputs are stored does not matter."""
    config = config_of(options, of_effect=True)
    config["training"] = {name: value for name, value in config["training"].items() if name not in NOT_PART}
    kinds = {**banks.noise, **({"rirs": banks.rirs} if banks.rirs else {})}
    inputs = {
        "utterances": utterances.digest(),
        "count": len(utterances),
        "noise": {kind: _digest(bank.segments.tobytes() + _sample(bank.samples)) for kind, bank in kinds.items()},
        "labels": _digest(labels.tobytes()) if labels is not None else None,
        "start_from": checkpoints.content_digest(options.start_from) if options.start_from else None,
    }
    return {"config": config, "inputs": inputs}


def as_now(found: dict[str, Any], now: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """An identity that earlier code may have saved, in today's form, to be compared with the identity `now`.

    Options that the earlier code did not have get their defaults. Options that have no effect today are left out.
    """
    found = dict(found)
    if "config" in found:
        found["config"] = _config_as_now(found["config"], now["config"], defaults)
    noise = found.get("inputs", {}).get("noise", {})
    if "rooms" in noise:  # what earlier code called RIRs
        renamed = {"rirs" if kind == "rooms" else kind: digest for kind, digest in noise.items()}
        found["inputs"] = {**found["inputs"], "noise": renamed}
    return found


def difference(old: Any, new: Any, name: str = "") -> str:
    """The first difference of two nested dictionaries, for people: "config.training.steps: 8 then, 3 now"."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if old.get(key) != new.get(key):
                return difference(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    return f"{name}: {old} then, {new} now"


def _config_as_now(found: dict[str, Any], now: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    whole = {name: value for name, value in found.items() if name in now or name not in defaults}
    for name, value in now.items():
        inner = defaults.get(name, {})
        if isinstance(value, dict) and isinstance(inner, dict) and isinstance(found.get(name, {}), dict):
            whole[name] = _config_as_now(found.get(name, {}), value, inner)
        elif name not in found and name in defaults:
            whole[name] = inner
    return whole


def _sample(values: np.ndarray) -> bytes:
    """Ten thousand evenly spaced values: lengths alone would not tell synthetic noise of different seeds apart."""
    return values[:: max(1, len(values) // 10_000)].tobytes()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
