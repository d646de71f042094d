"""A small real text encoder whose tokenizer reads letters, laid out as in a Stable Diffusion repository."""

import json
from pathlib import Path

from transformers import CLIPTextConfig, CLIPTextModel


def write_text_encoder(directory: Path, width: int = 16, length: int = 12) -> None:
    """Write `text_encoder/` and `tokenizer/`."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = directory / "tokenizer"
    tokenizer.mkdir(parents=True)
    (tokenizer / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": length})
    )
    (tokenizer / "special_tokens_map.json").write_text("{}")
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    CLIPTextModel(config).save_pretrained(directory / "text_encoder")
