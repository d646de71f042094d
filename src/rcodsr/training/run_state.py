"""The state of a training run on disk: one safetensors file, replaced atomically, from which a run goes on bit by bit.

All randomness follows from (seed, step), so weights, moments and the step are the whole state.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rcodsr.errors import WeightsError


def save_state(
    path: Path, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer], facts: dict[str, Any]
) -> None:
    """Write modules, optimiser moments and `facts` (JSON) to `path`; the old file stays until the new one is whole."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value.detach() for key, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}/{index}/{key}": value for key, value in moments.items()}
    temporary = path.with_name(f".{path.name}.part")
    save_file(
        {key: value.cpu().contiguous().clone() for key, value in tensors.items()}, temporary, {"facts": json.dumps(facts)}
    )
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)


def load_state(path: Path, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, Any]:
    """Load what `save_state` wrote into the same modules and optimisers; returns the facts.

    Raises:
        WeightsError: when the file is damaged or belongs to another model.
    """
    try:
        with safe_open(path, "pt") as handle:
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 (not a dict)
        for name, module in modules.items():
            module.load_state_dict(_under(tensors, name))
        for name, optimizer in optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in _under(tensors, name).items():
                index, _, moment = key.partition("/")
                state.setdefault(int(index), {})[moment] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise WeightsError(path, f"cannot be resumed ({error})", "start again with --resume never") from error
    return read_facts(path)


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a state file, without its tensors.

    Raises:
        WeightsError: when the file is damaged.
    """
    try:
        with safe_open(path, "pt") as handle:
            facts: dict[str, Any] = json.loads(handle.metadata()["facts"])
            return facts
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(path, f"cannot be resumed ({error})", "start again with --resume never") from error


def _under(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
