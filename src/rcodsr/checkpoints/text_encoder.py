"""Fixed text prompts: the base's text encoder computes an embedding once, a file keeps it, and it never runs again."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rcodsr.checkpoints.config import REMEDY
from rcodsr.checkpoints.resolve import ResolvedWeights, known_digest, resolve_base
from rcodsr.checkpoints.tensors import read_tensors
from rcodsr.errors import WeightsError
from rcodsr.messages import Log, first_line, silent


def prompt_embedding(base: str, prompt: str, override: str | None = None, offline: bool = False, log: Log = silent) -> Tensor:
    """What a prompt means to a base's U-Net; the text encoder is only looked for when nobody has asked it this before.

    Args:
        base: name of the diffusion base in the manifest, such as `sd21-base`.
        prompt: the text.
        override: directory or repository in place of the base; its text encoder is used if it has one.
        offline: ask no server.
        log: receives a line when something is fetched.

    Returns:
        As `text_embedding`.

    Raises:
        WeightsError: when the text encoder is not to be had or cannot be loaded.
    """
    name = f"{base}-text"
    if override is not None and Path(override).is_dir() and not (Path(override) / "text_encoder").is_dir():
        override = None
    digest = known_digest(name) if override is None else None
    if digest is not None and (path := _place(digest, prompt)).is_file():
        return read_tensors(path)["embedding"]
    return text_embedding(resolve_base(name, override, offline, log), prompt)


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
    path = _place(base.digest, prompt)
    if path.is_file():
        return read_tensors(path)["embedding"]
    embedding = _embed(base.directory, prompt)
    _keep(path, embedding)
    return embedding


def _embed(directory: Path, prompt: str) -> Tensor:
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True)
        loaded: Any = CLIPTextModel.from_pretrained(
            directory / "text_encoder",
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(directory, f"no usable text encoder ({first_line(error)})", REMEDY) from error
    encoder, report = loaded
    if lacking := sorted({*report["missing_keys"], *report["mismatched_keys"]}, key=str):
        raise WeightsError(directory, f"no usable text encoder (missing or misshapen: {lacking[0]})", REMEDY)
    length = encoder.config.max_position_embeddings
    tokens = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.no_grad():
        out: Tensor = encoder(tokens.input_ids).last_hidden_state
    if not torch.isfinite(out).all():
        raise WeightsError(directory / "text_encoder", "holds NaN or infinity", REMEDY)
    return out.float()


def _place(digest: str, prompt: str) -> Path:
    """Where an embedding is kept: by the encoder's files and the text."""
    from huggingface_hub import constants

    key = hashlib.sha256(f"{digest}\n{prompt}".encode()).hexdigest()
    return Path(constants.HF_HOME) / "rcodsr" / "prompts" / f"{key}.safetensors"


def _keep(path: Path, embedding: Tensor) -> None:
    """Store an embedding; a read-only home costs only the memory of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"embedding": embedding.contiguous()}, temporary)
        temporary.replace(path)
    except OSError:
        return
