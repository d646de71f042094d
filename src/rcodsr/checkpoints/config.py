"""`config.json` of a checkpoint: checks every value and lists the checkpoint's files. Loads no torch."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rcodsr.errors import UsageError, WeightsError
from rcodsr.messages import first_line, size_text
from rcodsr.parts import ClipSpec, TowerSpec
from rcodsr.spec import Spec
from rcodsr.variants import VariantSpec

FORMAT_VERSION = 2
CONFIG_FILE = "config.json"
REMEDY = "delete it and fetch or export the checkpoint again"
WEIGHT_FILES = [
    f"{part}.safetensors"
    for parts in ("unet vae vision vpim prompt metric_estimator", "unet_lora vae_lora modulation degradation_estimator")
    for part in parts.split()
]
"""Weight files that a checkpoint may contain."""
_LARGEST = 1 << 20
"""Maximum bytes of a `config.json`. Real ones have thousands."""
_SHA256 = re.compile(r"[0-9a-f]{64}|random:\d+")


@dataclass(frozen=True)
class CheckpointConfig:
    """The contents of `config.json`."""

    spec: VariantSpec
    layout: str = "merged"
    """merged, or adapter."""
    bases: dict[str, dict[str, str]] = field(default_factory=dict)
    """Bases of an adapter: sha256 of each file by base name. Empty if the trainer's base is unknown."""
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """Weight files of the checkpoint, without suffix."""
        spec = self.spec
        estimator = ("metric_estimator",) if spec.metric_estimator is not None else ()
        if self.layout == "merged":
            return ("unet", "vae", *_prompt_parts(spec.prompt), *estimator)
        lora = ("unet_lora", "vae_lora") if spec.lora is None or spec.lora.vae_rank else ("unet_lora",)
        steering = ("modulation", "degradation_estimator") if spec.modulation is not None else ()
        prompt = () if spec.computes_prompt else tuple(part for part in _prompt_parts(spec.prompt) if part != "vision")
        return (*lora, *prompt, *steering, *estimator)

    @property
    def files(self) -> tuple[str, ...]:
        """List the files of the checkpoint, `config.json` first."""
        return (CONFIG_FILE, *(f"{part}.safetensors" for part in self.parts))

    def to_dict(self) -> dict[str, Any]:
        """The contents of the file, JSON-ready."""
        plain = {"layout": self.layout, "variant": self.spec.to_dict(), "bases": self.bases, "training": self.training}
        return {"format_version": FORMAT_VERSION, **plain}


def _prompt_parts(prompt: Spec) -> tuple[str, ...]:
    return ("vision", "vpim") if isinstance(prompt, TowerSpec | ClipSpec) else ("prompt",)


def read_config(directory: Path, name: str = CONFIG_FILE) -> CheckpointConfig:
    """Read the configuration of a checkpoint directory.

    Args:
        directory: the checkpoint.
        name: name of the file.

    Raises:
        WeightsError: when `config.json` is missing, damaged, or of another format.
    """
    path = directory / name
    try:
        if path.is_file() and path.stat().st_size > _LARGEST:
            raise ValueError(f"{size_text(path.stat().st_size)} is too large for a configuration")
        if path.exists() and not path.is_file():
            raise ValueError("not a file")
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config["format_version"]
        if version != FORMAT_VERSION:
            cause = f"checkpoint format {str(version)[:20]}, this version reads {FORMAT_VERSION}"
            raise WeightsError(path, cause, "update rcodsr")
        return _config(config)
    except FileNotFoundError:
        raise WeightsError(directory, f"not a checkpoint directory (no {name})", "point --weights to one") from None
    except UsageError as error:
        raise WeightsError(path, f"describes weights that cannot be loaded ({first_line(error)})", REMEDY) from error
    # nesting may exceed Python's recursion limit, and a number the range of its division
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise WeightsError(path, f"damaged ({first_line(error)})", REMEDY) from error


def _config(values: dict[str, Any]) -> CheckpointConfig:
    spec, layout = VariantSpec.from_dict(values["variant"], "variant"), values["layout"]
    if layout not in ("merged", "adapter"):
        raise ValueError(f"unknown layout {str(layout)[:20]}")
    if layout == "merged" and not spec.mergeable:
        raise ValueError(f"{spec.name} cannot be merged: its LoRA depends on the picture's degradation")
    if layout == "adapter" and spec.lora is None:
        raise ValueError("an adapter without a LoRA specification")
    training = values.get("training", {})
    if not isinstance(training, dict):
        raise ValueError("training is not a table")
    return CheckpointConfig(spec, layout, _bases(values.get("bases", {}), spec, layout), training)


def _bases(values: Any, spec: VariantSpec, layout: str) -> dict[str, dict[str, str]]:
    """The bases with their hashes. An adapter must name exactly the bases of its variant."""
    bases = {str(name): {str(file): str(sha256) for file, sha256 in files.items()} for name, files in values.items()}
    wanted = {name for name in (spec.base, spec.vision) if name is not None}
    if layout == "adapter" and bases.keys() != wanted:
        raise ValueError(f"needs {', '.join(sorted(wanted)) or 'no base'}, but names {', '.join(sorted(bases)) or 'none'}")
    if bad := [sha256 for files in bases.values() for sha256 in files.values() if not _SHA256.fullmatch(sha256)]:
        raise ValueError(f"'{bad[0][:20]}' is not a sha256 of a base")
    return bases
