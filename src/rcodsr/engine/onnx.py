"""Exports the engine for one tile as an ONNX file: a picture in, its enlargement out.

The file contains everything that `Upscaler.restore` does to a picture of one tile: enlargement, padding, visual tokens, the
network with its grain, the crop, the colour fix and the steps after it. Tiling, other scales, alpha and files are not included.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from rcodsr.checkpoints.card import model_card, notices
from rcodsr.checkpoints.export import spec_of
from rcodsr.checkpoints.load import LoadedWeights, load_weights
from rcodsr.engine.runner import Runner
from rcodsr.engine.runtime import choose_runtime
from rcodsr.errors import UsageError, WeightsError
from rcodsr.images.files import write_atomic
from rcodsr.images.resize import mirrored, padded_side, upsample
from rcodsr.messages import Log, silent
from rcodsr.models.one_step import OneStepSR
from rcodsr.options import WeightsRequest
from rcodsr.parts import WaveletSpec
from rcodsr.variants import VariantSpec

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

OPSET = 18
"""The first opset with an antialiased Resize."""
_SHAPE = (37, 23)
"""Height and width of the picture used for tracing and checking; sides of 1 would be traced as constants."""
_LARGEST = 16384
_LEAST_DB = 60.0


class OneTile(nn.Module):
    """The engine for a picture of one tile.

    Args:
        model: on the CPU, float32.
    """

    def __init__(self, model: OneStepSR) -> None:
        super().__init__()
        self.model = model
        self.runner = Runner(model, choose_runtime("cpu", "fp32"))

    def forward(self, image: Tensor, realism: Tensor) -> Tensor:
        """Enlarge one picture.

        Args:
            image: shape (1, 3, h, w) in [0, 1].
            realism: shape (1,) in [0, 1]; ignored by weights with a fixed timestep.

        Returns:
            Shape (1, 3, s·h, s·w) in [0, 1].
        """
        spec = self.model.spec
        steps = 1 + realism.double().clamp(0, 1) * (spec.grouping.n - 1)
        timestep = (spec.grouping.k * steps).round().clamp(max=999).long()
        enlarged = upsample(image, spec.scale)
        height, width = enlarged.shape[-2:]
        padded = mirrored(enlarged, *(padded_side(side, spec.multiple, spec.least_side) for side in (height, width)))
        condition = self.model.condition(enlarged, timestep, image)
        restored = self.model(padded, condition)[0, :, :height, :width]
        return self.runner.finish(restored, enlarged[0], image[0], spec.color_fix)[None]


def export_onnx(request: WeightsRequest, path: Path, overwrite: bool = False, log: Log = silent) -> None:
    """Write an ONNX file whose inputs are `image` (1, 3, h, w) and `realism` (1,), any h and w; its output is `enlarged`.

    onnxruntime runs the finished graph, and its output is compared with the engine's before the file is written.

    Args:
        request: the weights to export.
        path: the output file; written atomically.
        overwrite: replace an existing file.
        log: receives a line when something is fetched.

    Raises:
        UsageError: when these weights cannot be exported, a package is missing, or the file must not be written.
        WeightsError: when weights are unknown or corrupt, or the graph does not match the engine.
        OutputError: when the file cannot be written.
    """
    if path.suffix.lower() != ".onnx" or path.is_dir():
        raise UsageError(path, "ONNX is written as one file", "pass -o FILE.onnx")
    if path.exists() and not overwrite:
        raise UsageError(path, "already exists", "choose another name with -o, or replace it with -y")
    for package in ("onnx", "onnxruntime", "onnxscript"):
        if find_spec(package) is None:
            raise UsageError("--format onnx", f"{package} is not installed", "pip install onnx onnxruntime onnxscript")
    _check(spec_of(request, log))  # before loading, which takes gigabytes for the paper's variants
    file = draw(load_weights(request, log=log))
    write_atomic(path, file)


def _check(spec: VariantSpec) -> None:
    if not isinstance(spec.autoencoder, WaveletSpec):
        why = "its LoRA follows each picture" if not spec.mergeable else "it is based on Stable Diffusion"
        remedy = "keep it as an adapter" if not spec.mergeable else "use --format merged-diffusers and a tool for diffusers"
        raise UsageError(spec.name, f"not exported to ONNX: {why}", remedy)


def draw(weights: LoadedWeights) -> bytes:
    """The contents of an ONNX file.

    Args:
        weights: on the CPU, float32, of a variant with wavelet latents.

    Raises:
        WeightsError: when the graph does not match the engine.
    """
    network = OneTile(weights.model).eval()
    image, realism = torch.rand(1, 3, *_SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5])
    graph = _graph(network, image, realism)
    for key, value in _metadata(weights).items():
        graph.metadata_props.add(key=key, value=value)
    file: bytes = graph.SerializeToString(deterministic=True)
    with torch.no_grad():
        expected = network(image, realism).numpy()
    likeness = psnr(run(session(file), image.numpy(), realism.item()), expected)
    if not likeness >= _LEAST_DB:
        cause = f"the ONNX graph is {likeness:.1f} dB from the engine, not {_LEAST_DB:.0f}"
        raise WeightsError(weights.id, cause, "install the versions of constraints.txt")
    return file


def psnr(found: Array, expected: Array) -> float:
    """PSNR in dB of values in [0, 1]; 160 for identical ones."""
    return -10 * math.log10(float(np.square(found - expected, dtype=np.float64).mean()) + 1e-16)


def session(file: bytes | str, threads: int = 0) -> Any:
    """Open an onnxruntime session on the CPU from a file name or contents; 0 threads uses onnxruntime's default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def run(session: Any, image: Array, realism: float) -> Array:
    """Run a session: (1, 3, h, w) in [0, 1], float32 → (1, 3, s·h, s·w)."""
    enlarged: Array = session.run(["enlarged"], {"image": image, "realism": np.array([realism], np.float32)})[0]
    return enlarged


def _graph(network: OneTile, image: Tensor, realism: Tensor) -> Any:
    """Trace the network to an ONNX model (protobuf)."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from onnxscript import optimizer

    height, width = (torch.export.Dim(name, min=1, max=_LARGEST) for name in ("height", "width"))
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            network,
            (image, realism),
            input_names=["image", "realism"],
            output_names=["enlarged"],
            dynamic_shapes=({2: height, 3: width}, None),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # doubles the export time, and onnxruntime optimises anyway
            verbose=False,
        )
        assert program is not None
        optimizer.inline(program.model)
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
        optimizer.remove_unused_functions(program.model)
        ClearMetadataAndDocStringPass()(program.model)  # contains source lines and paths of this machine
    return program.model_proto


def _metadata(weights: LoadedWeights) -> dict[str, str]:
    spec = weights.model.spec
    card = model_card(spec, {}, "merged").split("---")[1]
    values = {"weights": weights.id, "scale": str(spec.scale), "grain_period": "64", "card": card.strip()}
    return {f"rcodsr.{key}": value for key, value in values.items()} | {
        notice.name: notice.read_text(encoding="utf-8") for notice in notices(spec)
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages that the exporter addresses to its developers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
