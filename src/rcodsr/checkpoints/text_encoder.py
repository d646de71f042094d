"""Text prompts: the base's text encoder computes an embedding once, and a file caches it for later runs."""

import hashlib
import os
from collections.abc import Callable
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
    """Embedding of a prompt for a base's U-Net. The text encoder is located only if the embedding is not cached.

    Args:
        base: name of the diffusion base in the manifest, such as `sd21-base`.
        prompt: the text.
        override: directory or repository that replaces the base. Its text encoder is used if it has one.
        offline: contact no server.
        log: receives a line when something is fetched.

    Returns:
        See `text_embedding`.

    Raises:
        WeightsError: when the text encoder is unavailable or cannot be loaded.
    """
    return prompt_encoder(base, override, offline, log)(prompt)


def prompt_encoder(base: str, override: str | None = None, offline: bool = False, log: Log = silent) -> Callable[[str], Tensor]:
    """A function like `prompt_embedding` for many texts with one text encoder. See there for arguments and errors."""
    name = f"{base}-text"
    if override is not None and Path(override).is_dir() and not (Path(override) / "text_encoder").is_dir():
        override = None
    encoders: list[TextEncoder] = []

    def embed(prompt: str) -> Tensor:
        digest = known_digest(name) if override is None else None
        if digest is not None and (path := _place(digest, prompt)).is_file():
            return read_tensors(path)["embedding"]
        if not encoders:
            encoders.append(TextEncoder(resolve_base(name, override, offline, log)))
        return encoders[0](prompt)

    return embed


def text_embedding(base: ResolvedWeights, prompt: str) -> Tensor:
    """Embedding of a prompt for a base's U-Net, from the cache or newly computed.

    Args:
        base: a verified base with `text_encoder/` and `tokenizer/`, such as `sd21-base-text`.
        prompt: the text, truncated to the encoder's length.

    Returns:
        Shape (1, 77, 1024) for SD 2.1-base, float32: the normalised states of the encoder's last layer.

    Raises:
        WeightsError: when the encoder or tokenizer cannot be loaded.
    """
    return TextEncoder(base)(prompt)


class TextEncoder:
    """A base's text encoder, loaded at the first text that is not cached.

    Args:
        base: a verified base with `text_encoder/` and `tokenizer/`.
        keep: cache the embeddings. False for a training set, which has too many texts.
        device: device of the encoder.
    """

    def __init__(self, base: ResolvedWeights, keep: bool = True, device: torch.device | str = "cpu") -> None:
        self.base = base
        self.keep = keep
        self.device = device
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, text: str) -> Tensor:
        """Embedding of a text on `device`, see `text_embedding`."""
        path = _place(self.base.digest, text)
        if path.is_file():
            return read_tensors(path)["embedding"].to(self.device)
        embedding = self._embed(text)
        if self.keep:
            _keep(path, embedding)
        return embedding

    def _embed(self, text: str) -> Tensor:
        tokenizer, encoder = self._loaded = self._loaded or _load(self.base.directory)
        length = encoder.config.max_position_embeddings
        tokens = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        with torch.no_grad(), torch.autocast(torch.device(self.device).type, enabled=False):
            out: Tensor = encoder.to(self.device)(tokens.input_ids.to(self.device)).last_hidden_state
        if not torch.isfinite(out).all():
            raise WeightsError(self.base.directory / "text_encoder", "holds NaN or infinity", REMEDY)
        return out.float()


def _load(directory: Path) -> tuple[Any, Any]:
    """Load tokenizer and encoder of a base."""
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
    return tokenizer, encoder.requires_grad_(False)


def _place(digest: str, prompt: str) -> Path:
    """Cache file of an embedding, named by the encoder's files and the text."""
    from huggingface_hub import constants

    key = hashlib.sha256(f"{digest}\n{prompt}".encode()).hexdigest()
    return Path(constants.HF_HOME) / "rcodsr" / "prompts" / f"{key}.safetensors"


def _keep(path: Path, embedding: Tensor) -> None:
    """Cache an embedding. A read-only home directory is tolerated."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"embedding": embedding.contiguous()}, temporary)
        temporary.replace(path)
    except OSError:
        return
