"""`rcodsr env`: information for bug reports."""

import os
import platform
import sys
from importlib import metadata
from typing import Annotated, Any

import typer

from rcodsr.cli.streams import json_line, result_line
from rcodsr.messages import size_text

_PACKAGES = ("torch", "diffusers", "transformers", "peft", "pillow", "numpy", "safetensors", "huggingface-hub", "typer")
_OPTIONAL = ("accelerate", "pillow-heif", "pillow-jxl-plugin", "isal", "onnxruntime", "ray", "pyiqa", "lpips")
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")


def env(json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> int:
    """Show versions, devices, free memory, weights, caches and settings for bug reports. Contacts no server."""
    found = _environment()
    if json:
        json_line(found)
        return 0
    rows = {name: found[name] for name in ("rcodsr", "python", "system")} | found["packages"]
    rows |= {device["device"]: _device(device) for device in found["devices"]}
    rows["free memory"] = "unknown" if found["free_memory"] is None else size_text(found["free_memory"])
    rows["weights"] = ", ".join(found["weights"])
    rows |= found["caches"]
    rows |= found["variables"]
    width = max(map(len, rows))
    for name, value in rows.items():
        result_line(f"{name:{width}}  {value}")
    return 0


def _environment() -> dict[str, Any]:
    from huggingface_hub import constants

    from rcodsr.batch.memory import free_memory
    from rcodsr.checkpoints.named import converted_directory
    from rcodsr.checkpoints.pins import pins_file
    from rcodsr.checkpoints.store import list_weights
    from rcodsr.engine.runtime import devices
    from rcodsr.version import __version__

    versions = {name: _version(name) for name in (*_PACKAGES, *_OPTIONAL)}
    return {
        "rcodsr": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "packages": {name: version for name, version in versions.items() if version or name in _PACKAGES},
        "devices": devices(),
        "free_memory": free_memory(),
        "weights": [item.name for item in list_weights() if item.cached],
        "caches": {"hub cache": constants.HF_HUB_CACHE, "converted": str(converted_directory("")), "pins": str(pins_file())},
        "variables": {name: _shown(name, value) for name, value in sorted(os.environ.items()) if _concerns_us(name)},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _concerns_us(name: str) -> bool:
    return (
        name.startswith(("RCODSR_", "HF_", "OMP_", "MKL_", "CUDA_", "PYTORCH_")) and name != "OMP_WAIT_POLICY"
    )  # set by rcodsr itself


def _shown(name: str, value: str) -> str:
    return "(set)" if any(word in name for word in _SECRET) else value


def _device(device: dict[str, Any]) -> str:
    memory = device.get("memory")
    return device["name"] + (f", {size_text(device['free'])} of {size_text(memory)} free" if memory else "")
