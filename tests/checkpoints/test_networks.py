"""Networks that judge or teach, in the files that others publish: real pickles, archives and ncnn files of random values."""

import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rcodsr.checkpoints import networks
from rcodsr.checkpoints.networks import read_network
from rcodsr.errors import UsageError, WeightsError
from rcodsr.models.lpips import Lpips, LpipsAlex, LpipsSqueeze, LpipsVgg
from rcodsr.models.real_esrgan import RealEsrgan

State = dict[str, Tensor]
ALEX, VGG = (0, 3, 6, 8, 10), (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def _random(build: Callable[[], nn.Module]) -> State:
    torch.manual_seed(5)
    return {key: value.half().float() for key, value in build().state_dict().items()}


def _torchvision(state: State, convolutions: tuple[int, ...]) -> list[dict[str, Any]]:
    """Features with a classifier, and the heads in a file of their own."""
    features = {key: value for key, value in state.items() if key.startswith("features.")}
    for i, n in enumerate(convolutions):
        features |= {f"features.{n}.{kind}": state[f"conv{i}.{kind}"] for kind in ("weight", "bias")}
    heads = {key.replace(".weight", ".model.1.weight"): value for key, value in state.items() if key.startswith("lin")}
    return [features | {"classifier.1.weight": torch.ones(3, 3), "classifier.1.bias": torch.ones(3)}, heads]


def _jax(state: State, network: str) -> dict[str, Any]:
    """Kernels as (height, width, in, out), in numpy's arrays."""
    tree: dict[str, Any] = {network: {}}
    for key, value in state.items():
        name, kind = key.split(".")
        array = (value.permute(2, 3, 1, 0) if value.dim() == 4 else value).contiguous().numpy()
        if name.startswith("lin"):
            tree[f"NetLinLayer_{name[3:]}"] = {"Conv_0": {"kernel": array}}
        else:
            tree[network].setdefault(f"Conv_{name[4:]}", {})["kernel" if kind == "weight" else "bias"] = array
    return tree


def _saved(folder: Path, tables: list[dict[str, Any]], old: bool = False) -> list[Path]:
    paths = [folder / f"{i}.pth" for i in range(len(tables))]
    for path, table in zip(paths, tables, strict=True):
        torch.save(table, path, _use_new_zipfile_serialization=not old)
    return paths


@pytest.mark.parametrize(
    ("build", "convolutions", "name", "old"),
    [
        (LpipsAlex, ALEX, "lpips_alexnet", False),
        (LpipsVgg, VGG, "lpips_vgg16", True),
        (LpipsSqueeze, (), "lpips_squeeze", True),
    ],
    ids=["alexnet", "vgg16", "squeeze"],
)
def test_torchvisions_features_and_the_heads_of_lpips(
    build: Callable[[], Lpips], convolutions: tuple[int, ...], name: str, old: bool, tmp_path: Path
) -> None:
    state = _random(build)
    network = read_network(_saved(tmp_path, _torchvision(state, convolutions), old))
    assert network is not None
    written = load_file(network.write(tmp_path / "judges"))
    assert network.name == name
    assert written.keys() == state.keys()
    assert all(torch.equal(value.float(), state[key]) for key, value in written.items())
    build().load_state_dict(written)


@pytest.mark.parametrize(
    ("build", "published", "name"),
    [(LpipsAlex, "AlexNet_0", "lpips_alexnet"), (LpipsVgg, "VGG16_0", "lpips_vgg16")],
    ids=["alexnet", "vgg16"],
)
def test_pickles_of_arrays(build: Callable[[], Lpips], published: str, name: str, tmp_path: Path) -> None:
    state = _random(build)
    path = tmp_path / "net.ckpt"
    path.write_bytes(pickle.dumps(_jax(state, published), protocol=3))
    network = read_network([path])
    assert network is not None
    assert network.name == name
    assert all(torch.equal(network.tensors[key].float(), value) for key, value in state.items())
    assert {value.dtype for value in network.tensors.values()} == {torch.float16}


def test_dists_keeps_every_digit(tmp_path: Path) -> None:
    shares = {name: torch.rand(1, 1475, 1, 1) for name in ("alpha", "beta")}
    network = read_network(_saved(tmp_path, [shares], old=True))
    assert network is not None
    assert network.name == "dists"
    written = load_file(network.write(tmp_path))
    assert all(torch.equal(written[name], value.flatten()) for name, value in shares.items())


class _Ancient:
    """A tensor as torch before 0.4 wrote it."""

    def __init__(self, tensor: Tensor) -> None:
        storage = torch.storage.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True)
        self.arguments = (storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return torch._utils._rebuild_tensor, self.arguments


def test_tensors_of_the_first_torch(tmp_path: Path) -> None:
    shares = {name: torch.rand(1475) for name in ("alpha", "beta")}
    network = read_network(_saved(tmp_path, [{name: _Ancient(value) for name, value in shares.items()}], old=True))
    assert network is not None
    assert all(torch.equal(network.tensors[name], value) for name, value in shares.items())


def _small_generator(monkeypatch: pytest.MonkeyPatch, blocks: int = 1) -> State:
    """Under the published names, of few blocks instead of 23; convolutions in the order in which they run."""
    small = partial(RealEsrgan, blocks=blocks)
    monkeypatch.setattr(networks, "RealEsrgan", small)
    return {key.removeprefix("head."): value for key, value in _random(small).items()}


def test_the_generator_has_the_published_layers() -> None:
    shapes = networks._generator().shapes()
    assert len(shapes) == 702
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 16_697_987
    assert shapes["body.22.rdb3.conv5.weight"] == (64, 192, 3, 3)
    assert shapes["conv_hr.bias"] == (64,)


def test_real_esrgan_is_taken_from_its_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = _small_generator(monkeypatch)
    last = {key: torch.zeros_like(value) for key, value in state.items()}
    network = read_network(_saved(tmp_path, [{"params": last, "params_ema": state}]))
    assert network is not None
    assert network.name == "realesrgan_x4plus"
    assert all(torch.equal(network.tensors[key].float(), value) for key, value in state.items())


def _ncnn(folder: Path, state: State) -> list[Path]:
    """The layers in the order in which they run, half of them in float16."""
    lines, values = ["7767517", "2 2", "Input input 0 1 data"], b""
    for i, name in enumerate(name.removesuffix(".weight") for name in state if name.endswith(".weight")):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        lines.append(f"Convolution Conv_{i} 1 1 a b 0={len(weight)} 1=3 4=1 5=1 6={weight.numel()}")
        raw = weight.half().numpy().tobytes() if i % 2 else weight.numpy().tobytes()
        values += (bytes.fromhex("476b3001") if i % 2 else bytes(4)) + raw + bytes(-len(raw) % 4) + bias.numpy().tobytes()
    (folder / "x4.param").write_text("\n".join(lines) + "\n")
    (folder / "x4.bin").write_bytes(values)
    return [folder / "x4.param", folder / "x4.bin"]


def test_real_esrgan_from_ncnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = _small_generator(monkeypatch)
    paths = _ncnn(tmp_path, state)
    network = read_network(paths[::-1])
    assert network is not None
    assert all(torch.equal(network.tensors[key].float(), value) for key, value in state.items())
    assert [*state][-8::2] == ["conv_up1.weight", "conv_up2.weight", "conv_hr.weight", "conv_last.weight"]
    with pytest.raises(WeightsError, match="one half of an ncnn network"):
        read_network(paths[:1])
    monkeypatch.setattr(networks, "RealEsrgan", partial(RealEsrgan, blocks=2))
    with pytest.raises(WeightsError, match="holds 21 convolutions, Real-ESRGAN x4plus has 36"):
        read_network(paths)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    features, heads = _torchvision(_random(LpipsAlex), ALEX)
    with pytest.raises(WeightsError, match=r"lpips_alexnet lacks lin0.weight; pass torchvision's alexnet and LPIPS' alex.pth"):
        read_network(_saved(tmp_path, [features]))
    with pytest.raises(WeightsError, match=r"conv2.bias has shape \(3,\), expected \(384,\)"):
        read_network(_saved(tmp_path, [features | {"features.6.bias": torch.zeros(3)}, heads]))
    with pytest.raises(WeightsError, match="NaN or infinity"):
        read_network(_saved(tmp_path, [features | {"features.6.bias": torch.full((384,), torch.nan)}, heads]))
    with pytest.raises(WeightsError, match="does not fit into torch.float16"):
        read_network(_saved(tmp_path, [features | {"features.6.bias": torch.full((384,), 1e6)}, heads]))
    with pytest.raises(WeightsError, match="conv0.weight has shape"):
        path = tmp_path / "net.ckpt"
        tree = _jax(_random(LpipsAlex), "AlexNet_0")
        tree["AlexNet_0"]["Conv_0"]["kernel"] = tree["AlexNet_0"]["Conv_0"]["bias"]
        path.write_bytes(pickle.dumps(tree, protocol=3))
        read_network([path])


def test_every_key_is_accounted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    larger = _small_generator(monkeypatch, blocks=2)
    _small_generator(monkeypatch)
    with pytest.raises(WeightsError, match=r"0.pth: body.1.rdb1.conv1.weight is not part of realesrgan_x4plus; pass "):
        read_network(_saved(tmp_path, [larger]))


@pytest.mark.parametrize("archive", [False, True])
def test_tables_in_tables_without_end(archive: bool, tmp_path: Path) -> None:
    nested = b"\x80\x02" + b"}X\1\0\0\0a" * 5000 + b"}" + b"s" * 5000 + b"."
    path = tmp_path / "net.pth"
    path.write_bytes(nested)
    if archive:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", nested)
            file.writestr("a/version", b"3\n")
        assert read_network([path]) is None
    else:
        with pytest.raises(WeightsError, match="damaged"):
            read_network([path])


def test_what_is_no_such_network_is_left_to_others(tmp_path: Path) -> None:
    tables = [{"unet_lora_encoder_modules": ["a"], "state_dict_unet": {"conv_in.weight": torch.zeros(2)}}]
    assert read_network(_saved(tmp_path, tables)) is None
    assert read_network(_saved(tmp_path, [{}])) is None


def test_other_files_of_the_directory_stay(tmp_path: Path) -> None:
    network = read_network(_saved(tmp_path, [{name: torch.rand(1475) for name in ("alpha", "beta")}]))
    assert network is not None
    (tmp_path / "judges").mkdir()
    (tmp_path / "judges/lpips_vgg16.safetensors").write_text("kept")
    (tmp_path / "judges/dists.safetensors").write_text("old")
    with pytest.raises(UsageError, match=r"dists.safetensors: already exists; "):
        network.write(tmp_path / "judges")
    assert (tmp_path / "judges/dists.safetensors").read_text() == "old"
    network.write(tmp_path / "judges", overwrite=True)
    assert load_file(tmp_path / "judges/dists.safetensors").keys() == {"alpha", "beta"}
    assert (tmp_path / "judges/lpips_vgg16.safetensors").read_text() == "kept"
