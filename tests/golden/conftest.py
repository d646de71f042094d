"""The three published checkpoints over one tiny base, and our specs at its size."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import rcodsr
from rcodsr.checkpoints import published as reader
from rcodsr.checkpoints.published import read_published
from rcodsr.engine.upscaler import Upscaler
from rcodsr.parts import KlSpec, LoraSpec, ModulationSpec, SdUNetSpec, TextSpec
from rcodsr.variants import OSEDIFF, PISA_SR, S3DIFF
from tests.golden import files
from tests.golden.files import Base, State
from tests.golden.originals import OseDiff, PisaSr, S3Diff


class Published:
    """The three checkpoints over one base, as their authors mean them and as we read them."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder, self.base = folder, Base(folder / "base")
        self.states: dict[str, State] = {
            "osediff": files.osediff(self.base),
            "s3diff": files.s3diff(self.base),
            "pisa-sr": files.pisa_sr(self.base),
        }
        self.estimator = files.de_net()
        torch.save(self.estimator, folder / "de_net.pth")
        for name, state in self.states.items():
            torch.save(state, folder / f"{name}.pkl")
            read_published([folder / f"{name}.pkl"]).write(folder / name)

    def ours(self, name: str, **asked: object) -> Upscaler:
        directory, base = str(self.folder / name), str(self.base.directory)
        return rcodsr.load(directory, "cpu", "fp32", base_model=base, items=["none"], **asked)  # type: ignore[arg-type]

    @cache  # noqa: B019, there is one object a session
    def theirs(self, name: str) -> OseDiff:
        if name == "s3diff":
            return S3Diff(self.base, self.states[name], self.estimator)
        return {"osediff": OseDiff, "pisa-sr": PisaSr}[name](self.base, self.states[name])


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings of texts are kept here."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path_factory.getbasetemp() / "golden-home"))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The files, read with our specs at the tiny size of `files`."""
    with pytest.MonkeyPatch.context() as patch:
        small: dict[str, Any] = {
            "autoencoder": KlSpec(widths=files.WIDTHS, blocks=1, norm_groups=4),
            "unet": SdUNetSpec(channels=files.WIDTHS, blocks=1, heads=files.HEADS, norm_groups=4),
            "least_side": 64,
        }
        for name, spec in (("OSEDIFF", OSEDIFF), ("S3DIFF", S3DIFF), ("PISA_SR", PISA_SR)):
            assert isinstance(spec.prompt, TextSpec)
            spec = replace(spec, prompt=replace(spec.prompt, tokens=files.TOKENS, context=files.CONTEXT), **small)
            if spec.modulation is not None:
                widths = (files.NARROW, files.WIDE)
                modulation = ModulationSpec(files.FREQUENCIES, files.EMBEDDING, widths, (6, 2), files.HIDDEN)
                lora = LoraSpec(files.RANKS["unet"], files.RANKS["vae"], placement="s3diff")
                spec = replace(spec, lora=lora, modulation=modulation)
            patch.setattr(reader, name, spec)
        return Published(tmp_path_factory.mktemp("golden"))
