"""Description of the machine a benchmark ran on."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

_GPU_STATE = ("name", "driver_version", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "memory.used")


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, threads and versions; for a GPU its name, memory and libraries."""
    packages = {}
    for name in ("rcodsr", "torch", "diffusers", "transformers", "triton"):
        with suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    found: dict[str, Any] = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": packages,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "gpu_memory": properties.total_memory}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def gpu_state() -> list[dict[str, str]]:
    """Clocks, power, temperature and memory of each NVIDIA GPU as reported by its driver; empty without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={','.join(_GPU_STATE)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [dict(zip(_GPU_STATE, map(str.strip, line.split(",")), strict=False)) for line in lines]


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
