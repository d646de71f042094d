"""Recalibrate the knob of trained weights: timestep t then acts like t′ before, t′ = k + w(r) · (n·k − k) for realism r.

python dev/calibrate_knob.py CHECKPOINT OUT 0:0.06 0.25:0.15 0.5:0.25 1:1

The pairs set w at some realism values, with linear interpolation between them. Only the two layers of the time embedding
change: at every timestep t of the knob they are fitted to their previous output at t′. For networks conditioned by
`models.tiny_unet.TimestepEmbedding`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rcodsr.checkpoints.config import read_config
from rcodsr.checkpoints.format import load_model, save_model
from rcodsr.models.residual_dense import ResidualDenseNet
from rcodsr.models.tiny_unet import TimestepEmbedding, TinyUNet


def fit(embedding: TimestepEmbedding, t: Tensor, wanted: Tensor, steps: int = 4000) -> float:
    """Fit an embedding to output `wanted` (T, width) at `t` (T,); returns the remaining relative error."""
    embedding.requires_grad_(True)
    optimizer = torch.optim.Adam(embedding.parameters(), lr=2e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = (embedding(t) - wanted).square().mean() / wanted.var()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    embedding.requires_grad_(False)
    return float(loss.detach().sqrt())


def main(checkpoint: Path, out: Path, pairs: list[str]) -> None:
    torch.manual_seed(0)
    model = load_model(checkpoint)
    assert isinstance(model.unet, TinyUNet | ResidualDenseNet)
    first, last = (model.spec.grouping.realism_timestep(end) for end in (0.0, 1.0))
    realism, shares = zip(*(map(float, pair.split(":")) for pair in pairs), strict=True)
    t = torch.arange(first, last + 1)
    share = np.interp((t.numpy() - first) / (last - first), realism, shares)
    wanted = model.unet.time(first + (last - first) * torch.from_numpy(share).float())
    left = fit(model.unet.time, t, wanted)
    card = checkpoint / "README.md"
    training = read_config(checkpoint).training | {"knob": dict(zip(realism, shares, strict=True))}
    save_model(out, model, training, card.read_text(encoding="utf-8") if card.is_file() else "")
    print(f"timesteps {first} to {last}: embedding fitted with an error of {left:.2%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
