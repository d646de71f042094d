"""A full step of Algorithm 1 at the real size, with random weights: about 9 GB and a minute."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from rcodsr.training.recipe_file import read_recipe
from rcodsr.training.run import Run

RECIPE = Path(__file__).parents[2] / "recipes" / "rcod-o.toml"


@pytest.mark.slow
def test_one_step_at_the_real_size(photo: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    photo.save(tmp_path / "photos" / "photo.png")
    small = ["phases.0.crop=256", "phases.0.batch=1", "perceptual=wavelet", "dtype=fp32", "workers=0"]
    recipe = read_recipe(RECIPE, [f"photos={tmp_path / 'photos'}", "base_model=random:0", *small])
    run = Run(replace(recipe, output=tmp_path / "run"), lambda _: None)
    trainer, (phase,) = run.trainer, recipe.phases
    judged = trainer.objectives[0].trained()
    assert sum(p.numel() for p in trainer.trained.values()) == 5_486_508
    assert sum(p.numel() for p in judged.values()) == 4_055_712
    frozen = _bits(trainer.model)
    before = {n: p.detach().clone() for n, p in [*trainer.trained.items(), *judged.items()]}
    facts = trainer.train_step(next(run._phase_batches(0, phase, 0)), phase, 2e-5, 0)
    assert all(torch.isfinite(torch.tensor(value)) for value in facts.values())
    for name, parameter in [*trainer.trained.items(), *judged.items()]:
        # LoRA starts with B = 0, so A has no gradient in the very first step; weight decay moves it all the same
        assert torch.isfinite(parameter).all(), name
        assert not torch.equal(parameter, before[name]), name
    assert _bits(trainer.model) == frozen


def _bits(model: nn.Module) -> dict[str, int]:
    """A checksum of the bit patterns of everything frozen."""
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    return {name: int(p.detach().contiguous().view(torch.int32).sum(dtype=torch.int64)) for name, p in frozen.items()}
