"""Fixed text prompts: the base's text encoder computes an embedding once, a file keeps it, and it never runs again."""

import hashlib
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rcodsr.checkpoints.resolve import ResolvedWeights
from rcodsr.checkpoints.tensors import REMEDY, read_tensors
from rcodsr.errors import WeightsError


def text_embedding(base: ResolvedWeights, prompt: str) -> Tensor:
    """What a prompt means to a base's U-Net, from the cache or computed now.

    Args:
        base: a verified base with `text_encoder/` and `tokenizer/`, such as `sd21-base-text`.
        prompt: the text; longer ones are cut at the encoder's length.

    Returns:
        Shape (1, 77, 1024) for SD 2.1-base, float32: the states of the encoder's last layer, normalised.

    Raises:
        WeightsError: when the encoder or tokenizer cannot be loaded.
    """
    key = hashlib.sha256(f"{base.digest}\n{prompt}".encode()).hexdigest()
    path = _cache() / f"{key}.safetensors"
    if path.exists():
        return read_tensors(path)["embedding"]
    embedding = _embed(base.directory, prompt)
    _keep(path, embedding)
    return embedding


def _embed(directory: Path, prompt: str) -> Tensor:
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True)
        encoder = CLIPTextModel.from_pretrained(
            directory / "text_encoder", local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(directory, f"no usable text encoder ({cause})", REMEDY) from error
    length = encoder.config.max_position_embeddings
    tokens = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.no_grad():
        out: Tensor = encoder(tokens.input_ids).last_hidden_state
    return out.float()


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "rcodsr" / "prompts"


def _keep(path: Path, embedding: Tensor) -> None:
    """Store an embedding; a read-only home costs only the memory of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"embedding": embedding.contiguous()}, temporary)
        temporary.replace(path)
    except OSError:
        return
