"""Device, dtype and tile size of the model, and the reaction to running out of memory."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rcodsr.errors import DeviceError, UsageError, tells_of_memory
from rcodsr.models.one_step import OneStepSR
from rcodsr.variants import VariantSpec

SMALLEST_TILE = 64
"""Input pixels; for smaller tiles an out-of-memory error is final."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_GPUS: dict[str, Any] = {"cuda": torch.cuda, "xpu": torch.xpu}
"""Kinds of numbered GPUs (NVIDIA's and AMD's, Intel's), and torch's module for each."""
_VALUES_PER_PIXEL = {"wavelet": 120, "kl": 1200}
"""Values of activations alive at once, per pixel of the enlarged tile, by kind of autoencoder."""

_PIXELS_AT_ONCE = 1 << 21
"""Enlarged pixels of the tiles in one call."""


@dataclass(frozen=True)
class Runtime:
    """A selected device and dtype, with a readable reason."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def dtype_name(self) -> str:
        """fp32, bf16 or fp16."""
        return next(name for name, dtype in _DTYPES.items() if dtype == self.dtype)

    def place(self, model: OneStepSR, dtype: torch.dtype, layout: torch.memory_format = torch.channels_last) -> OneStepSR:
        """Cast a model to `dtype` and move it to this device, in the memory layout for its convolutions.

        For a float32 model, disables TF32 in this process: cuDNN's default keeps 10 of the 23 bits of a convolution's input.
        """
        if self.device.type == "cuda" and dtype == torch.float32:
            torch.backends.cudnn.allow_tf32 = False
        model = model.to_dtype(dtype).to(self.device)  # cast first: half the bytes to transfer
        return model.to(memory_format=layout)  # type: ignore[call-overload]


def choose_runtime(device: str = "auto", dtype: str = "auto", spec: VariantSpec | None = None) -> Runtime:
    """Turn `--device` and `--dtype` into something that works here.

    Args:
        device: the requested device.
        dtype: the requested dtype.
        spec: the variant, if known; `auto` runs third-party weights in their authors' precision.

    Raises:
        DeviceError: when the requested device or dtype is not available; nothing falls back silently.
        UsageError: when it is not the name of one.
    """
    chosen, why_device = _choose_device(device)
    script = None if spec is None or dtype != "auto" else spec.script
    number, why_dtype = _choose_dtype(chosen, dtype) if script is None else _authors_dtype(chosen, script.precision)
    return Runtime(chosen, number, f"{chosen} ({why_device}), {why_dtype}")


def devices() -> list[dict[str, Any]]:
    """List the devices that `--device` accepts here, auto's choice first: name, and for a GPU its total and free memory."""
    found: list[dict[str, Any]] = []
    for kind, library in _GPUS.items():
        for i in range(library.device_count() if library.is_available() else 0):
            free, memory = library.mem_get_info(i)
            found.append({"device": f"{kind}:{i}", "name": library.get_device_name(i), "free": free, "memory": memory})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU"})
    return [*found, {"device": "cpu", "name": f"{platform.machine()}, {torch.get_num_threads()} threads"}]


def plan_tile(runtime: Runtime, spec: VariantSpec) -> int:
    """Tile side in input pixels: the variant's own, or smaller if a GPU lacks the free memory.

    On a CPU, tiles do not depend on free memory, because the last bit of a picture depends on its tiles. They are halved only
    when an allocation fails.
    """
    if runtime.device.type != "cuda":
        return spec.tile
    budget = float(torch.cuda.mem_get_info(runtime.device)[0]) / 4
    values = _VALUES_PER_PIXEL[spec.autoencoder.kind]
    side = int((budget / (values * runtime.dtype.itemsize)) ** 0.5) // spec.scale
    return max(SMALLEST_TILE, min(spec.tile, side // 32 * 32))


def tiles_at_once(runtime: Runtime, pixels: int) -> int:
    """Number of tiles of this many enlarged pixels per batch; one on a CPU, whose results must not depend on it.

    On a GPU two megapixels: enough to fill it, with little memory compared to the weights.
    """
    return 1 if runtime.device.type != "cuda" else max(1, min(8, _PIXELS_AT_ONCE // pixels))


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Compute float32 convolutions without TF32, on a GPU too."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is a failed allocation; outside of torch's GPU allocator, these are plain RuntimeErrors."""
    return isinstance(error, torch.OutOfMemoryError) or tells_of_memory(error)


def _choose_device(name: str) -> tuple[torch.device, str]:
    kind, _, index = name.partition(":")
    if kind not in {"auto", "cpu", *_GPUS, "mps"} or (index and (kind not in _GPUS or not index.isdecimal())):
        raise UsageError("--device", f"'{name}' is not a device", "use auto, cpu, cuda, cuda:0, xpu or mps")
    for gpu, library in _GPUS.items():
        if kind in {"auto", gpu} and library.is_available():
            if int(index or 0) >= library.device_count():
                cause = f"{name} does not exist; this machine has {library.device_count()} GPUs"
                raise DeviceError("--device", cause, "use a lower number")
            device = torch.device(gpu, int(index or 0))
            return device, library.get_device_name(device)
    if kind in {"auto", "mps"} and torch.backends.mps.is_available():
        return torch.device("mps"), "Apple GPU"
    if kind in {"auto", "cpu"}:
        return torch.device("cpu"), "no GPU found" if kind == "auto" else "as requested"
    raise DeviceError("--device", f"no {name} device is available here", "use --device auto or cpu")


def _authors_dtype(device: torch.device, precision: str) -> tuple[torch.dtype, str]:
    if precision == "fp16" and device.type == "cuda":
        return torch.float16, "fp16 (as its authors)"
    return torch.float32, "fp32 (as its authors)" if precision == "fp32" else "fp32 (its authors' fp16 is for NVIDIA's GPUs)"


def _choose_dtype(device: torch.device, name: str) -> tuple[torch.dtype, str]:
    if name != "auto":
        if name not in _DTYPES:
            raise UsageError("--dtype", f"'{name}' is not a dtype", "use auto, fp32, bf16 or fp16")
        if name == "fp16" and device.type == "cpu":
            raise DeviceError("--dtype", "fp16 is not supported on a CPU", "use fp32 or bf16")
        slow = name == "bf16" and device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported()
        return _DTYPES[name], f"{name} as requested" + (", far slower than fp32 on this CPU, which lacks it" if slow else "")
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, "bf16 (supported)"
    if device.type == "cpu" and torch.cpu._is_amx_tile_supported():
        return torch.bfloat16, "bf16 (AMX)"
    return torch.float32, "fp32 (fastest exact choice here)"
