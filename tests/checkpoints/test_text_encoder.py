"""Embeddings of fixed prompts, through a real (small) text encoder and tokenizer."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from rcodsr.checkpoints.resolve import ResolvedWeights, sha256_all
from rcodsr.checkpoints.text_encoder import text_embedding
from rcodsr.errors import WeightsError
from tests.text_base import write_text_encoder


@pytest.fixture
def text_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResolvedWeights:
    """A text encoder that reads letters, laid out as in a Stable Diffusion repository."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    write_text_encoder(tmp_path / "base")
    names = [str(path.relative_to(tmp_path / "base")) for path in (tmp_path / "base").rglob("*") if path.is_file()]
    return ResolvedWeights("letters", tmp_path / "base", sha256_all(tmp_path / "base", names))


def test_an_embedding_depends_on_the_prompt_and_has_every_position(text_base: ResolvedWeights) -> None:
    first, again, other = (text_embedding(text_base, prompt) for prompt in ("a cat", "a cat", "a dog"))
    assert first.shape == (1, 12, 16)
    assert torch.equal(first, again)
    assert torch.equal(first[:, :2], other[:, :2])  # the encoder is causal: start token and "a" are the same
    assert not torch.equal(first[:, 2:], other[:, 2:])
    long = text_embedding(text_base, "a very very very long prompt")
    assert long.shape == (1, 12, 16)


def test_a_known_prompt_needs_no_encoder(text_base: ResolvedWeights) -> None:
    embedding = text_embedding(text_base, "a cat")
    (text_base.directory / "text_encoder" / "model.safetensors").unlink()
    assert torch.equal(text_embedding(text_base, "a cat"), embedding)
    with pytest.raises(WeightsError, match="no usable text encoder"):
        text_embedding(text_base, "a dog")


def test_inference_never_imports_the_text_encoder() -> None:
    code = "import sys, rcodsr.engine.upscaler; print('rcodsr.checkpoints.text_encoder' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
