"""`rcodsr upscale --prompts`: each picture is told its own text, through a real text encoder."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from rcodsr.checkpoints.bases import load_bases
from rcodsr.checkpoints.format import save_adapter
from rcodsr.checkpoints.resolve import ResolvedWeights
from rcodsr.engine.upscaler import Upscaler
from rcodsr.images.io import read_record
from rcodsr.models.build import build_model
from rcodsr.models.lora import add_lora
from rcodsr.options import WeightsRequest
from rcodsr.parts import GroupingSpec, TextSpec
from rcodsr.variants import VariantSpec
from tests.conftest import RunCli, shake
from tests.text_base import write_text_encoder


@pytest.fixture
def weights(small_sd_spec: VariantSpec, bases: dict[str, ResolvedWeights], tmp_path: Path) -> list[str]:
    """OSEDiff in small: an adapter with a text prompt over a base with a text encoder, as options."""
    prompt = TextSpec(tokens=12, context=24, text="a cat")
    spec = replace(small_sd_spec, prompt=prompt, vision=None, grouping=GroupingSpec(n=1, k=999))
    model = build_model(spec)
    base = {"sd21-base": bases["sd21-base"]}
    load_bases(model, base)
    assert spec.lora is not None
    add_lora(model, spec.lora)
    shake(model.parameters(), by=0.05)
    save_adapter(tmp_path / "weights", model, base)
    write_text_encoder(base["sd21-base"].directory, width=24)
    return ["--weights", str(tmp_path / "weights"), "--base-model", str(base["sd21-base"].directory), "--color-fix", "none"]


def _list(folder: Path, **texts: str) -> None:
    lines = [json.dumps({"picture": f"{name}.png", "text": text}) for name, text in texts.items()]
    (folder / "tags.jsonl").write_text("\n".join(lines))


def test_each_picture_is_told_its_own_text(
    weights: list[str], photo: Image.Image, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as with the text for all pictures; with another text it is another picture."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    small = photo.crop((200, 100, 224, 124))
    for name in ("a.png", "b.png"):
        small.save(tmp_path / name)
    command = ("upscale", "a.png", "b.png", "-o", "out", *weights, "--prompts", "tags.jsonl", "--json")
    _list(tmp_path, a="a cat", b="dogs")
    done = run_cli(*command)
    assert done.returncode == 0, done.stderr
    _, name, _, base, *_ = weights
    for file, text in (("a_x4.png", "a cat"), ("b_x4.png", "dogs")):
        told = Upscaler.load(WeightsRequest(name, base_model=base, device="cpu", dtype="fp32", prompt=text))
        assert (np.asarray(told.upscale(small, color_fix="none")) == np.asarray(Image.open(tmp_path / "out" / file))).all()
        record = read_record(tmp_path / "out" / file) or {}
        assert record["weights"] == told.weights_id
    assert (
        np.asarray(Image.open(tmp_path / "out" / "a_x4.png")) != np.asarray(Image.open(tmp_path / "out" / "b_x4.png"))
    ).any()
    _list(tmp_path, a="a cat", b="birds")
    changed = run_cli(*command)
    assert [json.loads(line)["status"] for line in changed.stdout.splitlines()[:2]] == ["skipped", "failed"]
    assert "was made differently" in changed.stderr


def test_what_cannot_be_told_is_refused_in_one_line(
    weights: list[str], photo: Image.Image, tmp_path: Path, run_cli: RunCli
) -> None:
    photo.crop((0, 0, 16, 16)).save(tmp_path / "a.png")
    (tmp_path / "tags.jsonl").write_text('{"picture": "b.png", "text": "a cat"}')
    for options, message in (
        (weights, "tags.jsonl: has no text for a.png; add a line for each picture"),
        ([*weights, "--prompt", "dogs"], "--prompts: contradicts --prompt; use only one of the two"),
        ([*weights, "--engine", "ray"], "--prompts: does not work on a Ray cluster"),
    ):
        done = run_cli("upscale", "a.png", *options, "--prompts", "tags.jsonl")
        assert done.returncode == 2
        assert message in done.stderr
    (tmp_path / "tags.jsonl").write_text('{"picture": "a.png", "text": "a cat"}')
    done = run_cli("upscale", "a.png", "--weights", "rcod-tiny", "--prompts", "tags.jsonl")
    assert done.returncode == 2
    assert "--prompts: rcod-tiny uses the picture instead of a text; omit the option" in done.stderr
    assert not (tmp_path / "a_x4.png").exists()
