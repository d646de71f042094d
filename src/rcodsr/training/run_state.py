"""Saved states of a training run, from which it resumes bit for bit.

    <run>/states/00001200/state.safetensors    weights and moments
    <run>/states/00001200/manifest.json        step, settings, sha256 of the file above: written last

A state is staged in a hidden directory and published by one rename. The newest state whose hash matches is used; older ones are
kept as a fallback. All randomness follows from the seed and the sample index, so no generator state is saved.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rcodsr.checkpoints.resolve import sha256
from rcodsr.errors import OutputError, RcodsrError, WeightsError
from rcodsr.images.files import sync_directory

_FILE = "state.safetensors"


@dataclass(frozen=True)
class Facts:
    """Metadata of a saved state."""

    step: int
    spec: dict[str, Any]
    """The variant, with fitted bounds."""
    settings: dict[str, Any]
    """Settings that affected the run so far."""


@dataclass(frozen=True)
class SavedState:
    """An intact state on disk."""

    directory: Path
    facts: Facts

    def restore(self, tensors: Mapping[str, Tensor], optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        """Copy the state into live tensors and optimisers of the same names and shapes.

        Raises:
            WeightsError: when it belongs to another model.
        """
        saved = load_file(self.directory / _FILE)
        try:
            owners = {name.partition("/")[0] for name in saved}  # a judge introduced by a later phase starts from scratch
            with torch.no_grad():
                for name, tensor in tensors.items():
                    if name.partition("/")[0] in owners:
                        tensor.copy_(saved.pop(name))
            for name, optimizer in optimizers.items():
                state: dict[int, dict[str, Tensor]] = {}
                for key in [key for key in saved if key.startswith(f"{name}/")]:
                    _, index, moment = key.split("/")
                    state.setdefault(int(index), {})[moment] = saved.pop(key)
                optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
            if saved:
                raise KeyError(f"unexpected {next(iter(saved))}")
        except (RuntimeError, ValueError, KeyError) as error:
            raise WeightsError(self.directory, f"cannot be resumed ({error})", "start again with --resume never") from error


def save_state(
    run: Path,
    facts: Facts,
    tensors: Mapping[str, Tensor],
    optimizers: Mapping[str, torch.optim.Optimizer],
    keep: int,
) -> None:
    """Write a state, then delete older ones beyond `keep`.

    Raises:
        OutputError: when it cannot be written; older ones are kept.
    """
    states = run / "states"
    staged, final = states / f".{facts.step:08}.part", states / f"{facts.step:08}"
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        save_file(_flat(tensors, optimizers), staged / _FILE)
        manifest = {**asdict(facts), "files": {_FILE: sha256(staged / _FILE)}}
        (staged / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for path in staged.iterdir():
            _flush(path)
        sync_directory(staged)
        shutil.rmtree(final, ignore_errors=True)
        staged.rename(final)
        sync_directory(states)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staged, ignore_errors=True)
        cause = getattr(error, "strerror", None) or str(error)
        raise OutputError(final, f"cannot be written ({cause})", "free some space; the last intact state is kept") from error
    for old in _directories(run)[keep:]:
        shutil.rmtree(old, ignore_errors=True)


def newest_state(run: Path) -> SavedState | None:
    """Return the newest intact state of a run, or None if it has no states.

    Raises:
        RcodsrError: when there are states, but none is intact.
    """
    directories = _directories(run)
    for directory in directories:
        facts = _whole(directory)
        if facts is not None:
            return SavedState(directory, facts)
    if directories:
        raise RcodsrError(run / "states", "all saved states are corrupt", "start again with --resume never")
    return None


def _whole(directory: Path) -> Facts | None:
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        if any(sha256(directory / name) != digest for name, digest in manifest.pop("files").items()):
            return None
        return Facts(**manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, WeightsError):
        return None


def _directories(run: Path) -> list[Path]:
    """State directories, newest first; ignores those left half written or half removed by a killed run."""
    states = run / "states"
    found = states.iterdir() if states.is_dir() else ()
    return sorted((path for path in found if path.name.isdecimal()), reverse=True)


def _flat(tensors: Mapping[str, Tensor], optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    flat = {name: tensor.detach() for name, tensor in tensors.items()}
    for name, optimizer in optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            flat |= {f"{name}/{index}/{key}": value for key, value in moments.items()}
    return {name: value.cpu().contiguous().clone() for name, value in flat.items()}


def _flush(path: Path) -> None:
    with path.open("rb+") as handle:  # Windows flushes only writable files
        os.fsync(handle.fileno())
