"""The engine as a diffusers pipeline. Importing this module imports diffusers. No other module of rcodsr imports it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn, Unpack

import diffusers
import torch
from PIL import Image

from rcodsr.checkpoints.export import export
from rcodsr.engine.arguments import UpscaleArguments
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import UsageError, in_python
from rcodsr.images.exchange import ImageLike
from rcodsr.options import DEFAULT_WEIGHTS, WeightsRequest

_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


_Pipeline: Any = diffusers.DiffusionPipeline
"""Typed as Any because diffusers' annotations are partial, and those of its methods too narrow for ours."""


class RcodPipeline(_Pipeline):  # type: ignore[misc]
    """Enlarges pictures like `rcodsr upscale`, pixel for pixel.

        pipe = RcodPipeline.from_pretrained("rcod-small")
        pipe(image, realism=0.5).images[0].save("enlarged.png")

    Args:
        upscaler: the engine.
        request: the request it was loaded from, needed for moving and saving.
    """

    upscaler: Upscaler

    def __init__(self, upscaler: Upscaler, request: WeightsRequest | None = None) -> None:
        super().__init__()
        self.register_modules(upscaler=upscaler)
        self._request = request

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] = DEFAULT_WEIGHTS,
        *,
        torch_dtype: torch.dtype | Literal["auto"] = "auto",
        device: str = "auto",
        revision: str | None = None,
        base_model: str | None = None,
        local_files_only: bool = False,
    ) -> RcodPipeline:
        """Load weights onto their device.

        Args:
            pretrained_model_name_or_path: same as `--weights`: a name, a checkpoint directory (also from `save_pretrained`),
                or organisation/repository.
            torch_dtype: float32, bfloat16 or float16. "auto" lets the device decide.
            device: auto, cpu, cuda, cuda:N or mps.
            revision: commit, branch or tag of a repository.
            base_model: directory or repository that replaces the base of an adapter.
            local_files_only: contact no server.

        Raises:
            RcodsrError: see `rcodsr.load`.
        """
        name = os.fspath(pretrained_model_name_or_path)
        with in_python():
            return cls._of(WeightsRequest(name, revision, base_model, local_files_only, device, _dtype_name(torch_dtype)))

    @classmethod
    def _of(cls, request: WeightsRequest) -> RcodPipeline:
        return cls(Upscaler.load(request), request)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a checkpoint directory for `from_pretrained` and `--weights`, atomically.

        Args:
            save_directory: output directory.
            overwrite: replace an existing checkpoint.

        Raises:
            RcodsrError: see `rcodsr weights export`.
        """
        with in_python():
            # files on disk are copied unchanged, whatever the device
            request = replace(self._loaded("save_pretrained"), device="auto", dtype="auto")
            export(request, Path(save_directory), overwrite=overwrite)

    def to(self, *targets: str | int | torch.device | torch.dtype, **named: Any) -> RcodPipeline:
        """Change the device, the dtype, or both: `pipe.to("cuda", torch.bfloat16)`.

        The weights are read again, because casting does not restore what a smaller dtype has rounded away.

        Args:
            targets: a device, a dtype, or both in any order.
            named: `device` or `dtype`, as in diffusers.

        Raises:
            DeviceError: when the device is not available.
            UsageError: when the dtype is not supported.
        """
        with in_python():
            wanted = [*targets, *(named[key] for key in ("device", "dtype") if named.get(key) is not None)]
            dtypes = [target for target in wanted if isinstance(target, torch.dtype)]
            devices = [str(torch.device(target)) for target in wanted if not isinstance(target, torch.dtype)]
            runtime = self.upscaler.runtime
            device = devices[-1] if devices else str(runtime.device)
            # a dtype that was not requested is chosen again on another device
            kept = self._loaded("to").dtype if devices else _DTYPES[runtime.dtype]
            request = replace(self._loaded("to"), device=device, dtype=_dtype_name(dtypes[-1]) if dtypes else kept)
            self.upscaler, self._request = Upscaler.load(request), request
        return self

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.upscaler.runtime.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype in which the networks compute."""
        return self.upscaler.runtime.dtype

    def __call__(
        self,
        image: ImageLike | Sequence[ImageLike],
        realism: float | str | None = None,
        output_type: Literal["pil", "same"] = "pil",
        return_dict: bool = True,
        **asked: Unpack[UpscaleArguments],
    ) -> Any:
        """Enlarge one picture or several of any sizes, each separately.

        Args:
            image: see `rcodsr.Upscaler.upscale`, or a list of such.
            realism: 0 stays with the evidence, 1 fills in believable texture. "adaptive" lets the degradation decide.
            output_type: "pil", or "same" to return an array for an array and a tensor for a tensor.
            return_dict: False returns the images as the only member of a tuple.
            asked: see `rcodsr.engine.arguments.UpscaleArguments`.

        Returns:
            Output with `images`, one for each input.

        Raises:
            RcodsrError: see `rcodsr.Upscaler.upscale`.
        """
        if realism == "adaptive":
            realism, asked["adaptive"] = None, True
        if output_type not in {"pil", "same"}:
            with in_python():
                raise UsageError("output_type", f"{output_type!r} is not known", "use pil or same")
        images = list(image) if isinstance(image, list | tuple) else [image]
        made: list[Any] = []
        with self.progress_bar(total=len(images)) as bar:
            for one in images:
                made.append(self._enlarged(one, realism, output_type, asked))
                bar.update()
        output: Any = diffusers.ImagePipelineOutput
        return output(images=made) if return_dict else (made,)

    def _enlarged(self, image: Any, realism: float | str | None, output_type: str, asked: UpscaleArguments) -> Any:
        if output_type == "same" and not isinstance(image, Image.Image):
            return self.upscaler.upscale(image, realism, returns="same", **asked)
        return self.upscaler.upscale(image, realism, **asked)

    def enable_model_cpu_offload(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse CPU offload, which is not supported.

        Raises:
            UsageError: always.
        """
        cause = "a pipeline of rcodsr keeps its networks on one device"
        raise UsageError("CPU offload", cause, "save memory with tile=128 or torch.bfloat16, or use .to('cpu')")

    enable_sequential_cpu_offload = enable_group_offload = enable_model_cpu_offload

    def _loaded(self, what: str) -> WeightsRequest:
        if self._request is None:
            raise UsageError(
                what, "this pipeline was created from a loaded engine", "create it with RcodPipeline.from_pretrained"
            )
        return self._request


def _dtype_name(dtype: torch.dtype | Literal["auto"] | None) -> str:
    if dtype is None or dtype == "auto":
        return "auto"
    if dtype not in _DTYPES:
        raise UsageError("torch_dtype", f"{dtype} is not supported", "use torch.float32, torch.bfloat16 or torch.float16")
    return _DTYPES[dtype]
