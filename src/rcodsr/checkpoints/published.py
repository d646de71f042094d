"""Convert published checkpoints of OSEDiff, S3Diff and PiSA-SR to our directory. Every key must be known.

    osediff.pkl               LoRA of U-Net (258 modules) and autoencoder (32), conv_in
    s3diff.pkl, de_net.pth    LoRA of U-Net (257) and autoencoder (31), conv_in, their modulation; the degradation estimator
    pisa_sr.pkl               LoRA of the U-Net for pixels and for semantics (258 each)

None of them stores LoRA's alpha. It is peft's default of 8, as in our specs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rcodsr.checkpoints.card import model_card
from rcodsr.checkpoints.config import CheckpointConfig
from rcodsr.checkpoints.format import lora_parts, write
from rcodsr.checkpoints.pickles import open_pickle, tensors_of, unwrapped
from rcodsr.checkpoints.resolve import sha256
from rcodsr.checkpoints.tensors import check_fit
from rcodsr.errors import WeightsError
from rcodsr.models.build import build_model
from rcodsr.models.lora import HALVES, add_lora, modules_of, targets
from rcodsr.models.one_step import OneStepSR
from rcodsr.parts import LoraSpec
from rcodsr.variants import OSEDIFF, PISA_SR, S3DIFF, VariantSpec

_SIDES = ("encoder", "decoder", "others")
_MLPS = tuple(f"state_dict_{network}_{kind}_mlp" for network in ("vae", "unet") for kind in ("de", "block", "fuse"))
_REMEDY = "download it again from its authors"
_ESTIMATOR = "de_net.pth"

Tables = dict[str, dict[str, Tensor]]
"""Tensors by our file name, without suffix."""


@dataclass(frozen=True)
class _Layout:
    """Layout of a published file."""

    name: str
    keys: frozenset[str]
    spec: Callable[[], VariantSpec]
    ranks: tuple[tuple[str, str], ...]
    """Ranks: key in the file, field of `LoraSpec`."""
    lists: Callable[[Path, Mapping[str, Any], OneStepSR], None]
    """Compares its lists of modules with the modules we adapt."""
    tables: Callable[[Path, Mapping[str, Any]], Tables]


@dataclass(frozen=True)
class Published:
    """A published checkpoint, read and complete."""

    config: CheckpointConfig
    tables: Tables
    summary: str
    """Description of the contents, for messages."""

    def write(self, directory: Path) -> None:
        """Write it in our format. An existing directory is replaced as a whole.

        Raises:
            OSError: when it cannot be written.
        """
        write(directory, self.tables, self.config, model_card(self.config.spec, self.config.training, "adapter"))


def read_published(paths: Sequence[Path]) -> Published:
    """Read a published checkpoint.

    Args:
        paths: the file, and for S3Diff also `de_net.pth`, by default the one beside it.

    Raises:
        WeightsError: when a file is damaged or dangerous, or a key is missing, unexpected, misshapen or not finite.
    """
    path, layout, state, estimator = _opened(paths)
    spec = layout.spec()
    assert spec.lora is not None
    lora = _ranked(path, layout, state, spec.lora)
    spec = replace(spec, lora=lora)
    model = build_model(spec, weightless=True)
    layout.lists(path, state, model)
    add_lora(model, lora)
    found = layout.tables(path, state)
    if estimator is not None:
        found["degradation_estimator"] = tensors_of(estimator[0], "it", estimator[1])
    _check(model, found, path, estimator)
    files = [path, *([] if estimator is None else [estimator[0]])]
    training = {"converted_from": {file.name: sha256(file) for file in files}}
    bases: dict[str, dict[str, str]] = {} if spec.base is None else {spec.base: {}}
    counts = ", ".join(f"{count} modules of the {network}" for network, count in _counts(found).items())
    summary = f"{path}: {spec.name}, LoRA on {counts}; {sum(map(len, found.values()))} tensors, none left over"
    return Published(CheckpointConfig(spec, "adapter", bases, training), found, summary)


def _opened(paths: Sequence[Path]) -> tuple[Path, _Layout, dict[str, Any], tuple[Path, dict[str, Any]] | None]:
    """Open the files and recognise their layout."""
    checkpoints, estimators = [], []
    for path in paths:
        state = unwrapped(open_pickle(path))
        if any(str(key).startswith("fc_degree.") for key in state):
            estimators.append((path, state))
        else:
            checkpoints.append((path, _recognised(path, state), state))
    if len(checkpoints) != 1 or len(estimators) > 1:
        others = ", ".join(map(str, paths))
        raise WeightsError(others, "not a single checkpoint", f"pass osediff.pkl, pisa_sr.pkl, or s3diff.pkl and {_ESTIMATOR}")
    ((path, layout, state),) = checkpoints
    if layout.spec().modulation is None:
        if estimators:
            raise WeightsError(estimators[0][0], f"{layout.name} has no degradation estimator", "omit that file")
        return path, layout, state, None
    if not estimators:
        beside = path.with_name(_ESTIMATOR)
        if not beside.is_file():
            cause = "also needs its degradation estimator"
            raise WeightsError(path, cause, f"pass {_ESTIMATOR} after it (from the repository zhangap/S3Diff)")
        estimators.append((beside, unwrapped(open_pickle(beside))))
    return path, layout, state, estimators[0]


def _recognised(path: Path, state: Mapping[str, Any]) -> _Layout:
    """The layout that shares most keys with the file. All its keys must be present.

    Raises:
        WeightsError: naming keys that are missing or unexpected.
    """
    keys = {str(key)[:80] for key in state}
    layout = max(_LAYOUTS, key=lambda layout: len(layout.keys & keys) / len(layout.keys | keys))
    if len(layout.keys & keys) < len(layout.keys) / 2:
        some = ", ".join(sorted(keys)[:3]) or "nothing"
        cause = f"not a checkpoint of OSEDiff, S3Diff or PiSA-SR (it contains {some}…)"
        raise WeightsError(path, cause, "pass the file that its authors publish")
    check_fit(path, dict.fromkeys(keys, ()), dict.fromkeys(layout.keys, ()))
    return layout


def _ranked(path: Path, layout: _Layout, state: Mapping[str, Any], lora: LoraSpec) -> LoraSpec:
    ranks: dict[str, int] = {}
    for key, name in layout.ranks:
        rank = state[key]
        if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= 1024:
            raise WeightsError(path, f"{key} is {str(rank)[:20]}, not a rank", _REMEDY)
        if ranks.setdefault(name, rank) != rank:
            raise WeightsError(path, f"{key} is {rank}, its other half's {ranks[name]}; they must agree", _REMEDY)
    return replace(lora, **ranks)  # type: ignore[arg-type]


def _check(model: OneStepSR, found: Tables, path: Path, estimator: tuple[Path, dict[str, Any]] | None) -> None:
    """Check that every tensor belongs to our model, has its shape, and that none is missing."""
    parts = {name: module.state_dict() for name, module in model.modulator.parts().items()}
    for name, expected in {**lora_parts(model), **parts}.items():
        where = estimator[0] if estimator is not None and name == "degradation_estimator" else path
        shapes = {key: tuple(value.shape) for key, value in expected.items()}
        check_fit(where, {key: tuple(value.shape) for key, value in found[name].items()}, shapes)


def _counts(found: Tables) -> dict[str, int]:
    networks = {"unet_lora": "U-Net", "vae_lora": "autoencoder"}
    return {word: sum(".lora_A." in key for key in found[name]) for name, word in networks.items() if name in found}


# ---- OSEDiff


def _osediff_lists(path: Path, state: Mapping[str, Any], model: OneStepSR) -> None:
    modules = modules_of(model)
    for side in _SIDES:
        _compare(path, f"unet_lora_{side}_modules", state, modules["unet"][f"default_{side}"])
    _compare(path, "vae_lora_encoder_modules", state, modules["vae"]["default_encoder"])


def _compare(path: Path, key: str, state: Mapping[str, Any], expected: Iterable[str]) -> None:
    """Compare a published list of modules (possibly with duplicates) with ours."""
    found = state[key]
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        raise WeightsError(path, f"{key} is not a list of modules", _REMEDY)
    wanted = set(expected)
    if wanted != set(found):
        strange = sorted(wanted ^ set(found))
        cause = f"{key} has {len(set(found))} modules, expected {len(wanted)}; the first that differs is {strange[0][:100]}"
        raise WeightsError(path, cause, _REMEDY)


def _osediff_tables(path: Path, state: Mapping[str, Any]) -> Tables:
    unet, vae = (tensors_of(path, key, state[key]) for key in ("state_dict_unet", "state_dict_vae"))
    return {"unet_lora": unet, "vae_lora": vae}


# ---- S3Diff


def _s3diff_lists(path: Path, state: Mapping[str, Any], model: OneStepSR) -> None:
    """Check the lists: the U-Net's modules by their endings, the autoencoder's by its tensors, since its pattern is not run."""
    endings, pattern = state["unet_lora_target_modules"], state["vae_lora_target_modules"]
    if not isinstance(endings, list | tuple) or not all(isinstance(ending, str) for ending in endings):
        raise WeightsError(path, "unet_lora_target_modules is not a list of modules", _REMEDY)
    if not isinstance(pattern, str | list | tuple):
        raise WeightsError(path, "vae_lora_target_modules is not a pattern", _REMEDY)
    (expected,) = modules_of(model)["unet"].values()
    found = {"unet_lora_target_modules": targets(model.unet, tuple(endings))}
    _compare(path, "unet_lora_target_modules", found, expected)


def _s3diff_tables(path: Path, state: Mapping[str, Any]) -> Tables:
    steering = tensors_of(path, "w", {"w": state["w"]})
    embeddings = state["state_embeddings"]
    for network in ("vae", "unet"):
        key = f"state_dict_{network}_block"
        table = embeddings.get(key) if isinstance(embeddings, dict) else None
        steering |= _renamed(tensors_of(path, key, table), "", f"{network}.block_embeddings.")
    if unknown := sorted(str(key) for key in set(embeddings) - {"state_dict_vae_block", "state_dict_unet_block"}):
        raise WeightsError(path, f"state_embeddings: unexpected {unknown[0][:80]}", _REMEDY)
    for key in _MLPS:
        network, kind = key.split("_")[2:4]
        steering |= _renamed(tensors_of(path, key, state[key]), "", f"{network}.{kind}_mlp.")
    unet, vae = (tensors_of(path, key, state[key]) for key in ("state_dict_unet", "state_dict_vae"))
    return {
        "unet_lora": {key.replace(".default.", ".default_all."): value for key, value in unet.items()},
        "vae_lora": {key.replace(".vae_skip.", ".default_encoder."): value for key, value in vae.items()},
        "modulation": steering,
    }


def _renamed(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {new + key.removeprefix(old): value for key, value in tensors.items()}


# ---- PiSA-SR


def _pisa_lists(path: Path, state: Mapping[str, Any], model: OneStepSR) -> None:
    modules = modules_of(model)["unet"]
    for half in HALVES:
        for side in _SIDES:
            _compare(path, f"unet_lora_{side}_modules_{half}", state, modules[f"default_{side}_{half}"])


def _pisa_tables(path: Path, state: Mapping[str, Any]) -> Tables:
    return {"unet_lora": tensors_of(path, "state_dict_unet", state["state_dict_unet"])}


_LISTS = {f"unet_lora_{side}_modules" for side in _SIDES}
_LAYOUTS = (
    _Layout(
        "OSEDiff",
        frozenset({*_LISTS, "vae_lora_encoder_modules", "rank_unet", "rank_vae", "state_dict_unet", "state_dict_vae"}),
        lambda: OSEDIFF,
        (("rank_unet", "unet_rank"), ("rank_vae", "vae_rank")),
        _osediff_lists,
        _osediff_tables,
    ),
    _Layout(
        "S3Diff",
        frozenset(
            {"unet_lora_target_modules", "vae_lora_target_modules", "rank_unet", "rank_vae", "w", "state_embeddings"}
            | {"state_dict_unet", "state_dict_vae", *_MLPS}
        ),
        lambda: S3DIFF,
        (("rank_unet", "unet_rank"), ("rank_vae", "vae_rank")),
        _s3diff_lists,
        _s3diff_tables,
    ),
    _Layout(
        "PiSA-SR",
        frozenset(
            {f"{name}_{half}" for name in _LISTS for half in HALVES}
            | {f"lora_rank_unet_{half}" for half in HALVES}
            | {"state_dict_unet"}
        ),
        lambda: PISA_SR,
        tuple((f"lora_rank_unet_{half}", "unet_rank") for half in HALVES),
        _pisa_lists,
        _pisa_tables,
    ),
)
