"""A full step of Algorithm 1 at the real size, with random weights: about 9 GB and a minute."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from rcodsr.bench.natural import natural_batch
from rcodsr.data.dataset import Batch
from rcodsr.images.resize import resize
from rcodsr.training.generator_trainer import GeneratorTrainer
from rcodsr.training.processes import Processes
from rcodsr.training.recipe_file import read_recipe
from rcodsr.training.run import Run
from rcodsr.training.setup import build_networks, build_trainer, resolve_bases

RECIPE = Path(__file__).parents[2] / "recipes" / "rcod-o.toml"


@pytest.mark.huge
def test_one_step_at_the_real_size(photo: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    photo.save(tmp_path / "photos" / "photo.png")
    small = ["phases.0.crop=256", "phases.0.batch=1", "perceptual.distance=wavelet", "machine.dtype=fp32", "machine.workers=0"]
    recipe = read_recipe(RECIPE, [f"photos={tmp_path / 'photos'}", "base_model=random:0", *small])
    run = Run(replace(recipe, output=tmp_path / "run"), lambda _: None)
    trainer, (phase,) = run.trainer, recipe.phases
    assert isinstance(trainer, GeneratorTrainer)
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_one_step_at_the_real_shape_fits_into_a_small_gpu(
    tmp_path: Path, record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """512×512, batch 1, bf16, recomputed activations: weights are drawn on the GPU."""
    Image.new("RGB", (512, 512)).save(tmp_path / "photo.png")
    given = [
        f"photos={tmp_path}",
        "base_model=random:0",
        "phases.0.batch=1",
        "perceptual.distance=wavelet",
        "machine.gradient_checkpointing=true",
    ]
    recipe = read_recipe(RECIPE, given)
    assert recipe.machine.dtype == "bf16" and recipe.phases[0].crop == 512
    bases = resolve_bases(recipe, lambda _: None)
    with torch.device("cuda"):
        model = build_networks(recipe, recipe.variant, bases, lambda _: None)
    trainer = build_trainer(recipe, model, Processes("cuda"))
    hr = (natural_batch(1, 512, 1).float() / 255).cuda()
    batch = Batch(hr=hr, lr=resize(hr, 128, 128), samples=(0,))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for step in range(2):
        facts = trainer.train_step([batch], recipe.phases[0], 2e-5, step)
        assert all(torch.isfinite(torch.tensor(value)) for value in facts.values())
    peak = torch.cuda.max_memory_allocated() / 2**30
    record_property("training_peak_gib", round(peak, 2))
    with capsys.disabled():
        print(f"\na training step of rcod-o at 512×512 takes {peak:.2f} GiB")
    assert peak <= 12


def _bits(model: nn.Module) -> dict[str, int]:
    """A checksum of the bit patterns of everything frozen."""
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    return {name: int(p.detach().contiguous().view(torch.int32).sum(dtype=torch.int64)) for name, p in frozen.items()}
