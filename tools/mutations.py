"""Edit one formula at a time and check that a test fails: `python tools/mutations.py [WORD ...]`, by words in their names.

Works on a copy, in forks of one process that has imported the large libraries. Exit code 1 when a mutation survives, 2 when
an edit does not match the code or a test fails without it.
"""

import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = ("torch", "peft", "skimage.data", "diffusers.models.unets.unet_2d_condition", "transformers")


@dataclass(frozen=True)
class Mutation:
    """One wrong formula."""

    name: str
    file: str
    """Path below `src/rcodsr`."""
    right: str
    """Occurs once there."""
    wrong: str
    test: str
    """The test that should fail, below `tests`."""


MODULATION, DINO, FORMULAS = "models/test_modulation.py", "training/test_dino.py", "training/test_formulas.py"
OBJECTIVES, ABLATIONS, LORA = "training/test_objectives.py", "training/test_ablations.py", "models/test_lora.py"
GROUPING, SCHEDULE, LOSSES = "diffusion/test_grouping.py", "diffusion/test_schedule.py", "training/test_losses.py"
DATASET, GOLDEN = "data/test_dataset.py", "golden/test_golden.py"
SCRIPTS = "golden/test_as_published.py::test_the_scripts_picture"

MUTATIONS = (
    # what a review found that no test noticed
    Mutation(
        "fuse: block before score",
        "models/modulation.py",
        "torch.cat((scores[:, None].expand(-1, count, -1), blocks.expand(samples, -1, -1)), 2)",
        "torch.cat((blocks.expand(samples, -1, -1), scores[:, None].expand(-1, count, -1)), 2)",
        f"{MODULATION}::test_scores_come_before_blocks_where_they_are_fused",
    ),
    Mutation(
        "GAN: generator asks for fake",
        "training/objectives.py",
        "cross_entropy(self._scores(made.picture, made), real=True)",
        "cross_entropy(self._scores(made.picture, made), real=False)",
        f"{DINO}::test_the_two_sides_of_its_loss_by_hand",
    ),
    Mutation(
        "GAN: heads' loss without the half",
        "training/objectives.py",
        "return 0.5 * torch.stack([cross_entropy",
        "return torch.stack([cross_entropy",
        f"{DINO}::test_the_two_sides_of_its_loss_by_hand",
    ),
    Mutation(
        "DAS: ignored",
        "training/setup.py",
        "window if recipe.distill.das else None",
        "None",
        f"{ABLATIONS}::test_a_row_differs_where_it_should[S5 RCOD_O]",
    ),
    Mutation(
        "VPIM: CLIP's mean permuted",
        "models/stable_diffusion.py",
        "CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)",
        "CLIP_MEAN = (0.40821073, 0.4578275, 0.48145466)",
        f"{FORMULAS}::test_clip_sees_a_squashed_picture_with_its_own_statistics",
    ),
    Mutation(
        "VPIM: bilinear",
        "models/stable_diffusion.py",
        'resample = "bicubic"',
        'resample = "bilinear"',
        f"{FORMULAS}::test_clip_sees_a_squashed_picture_with_its_own_statistics",
    ),
    Mutation(
        "VPIM: no antialias",
        "models/prompts.py",
        "mode=str(self.tower.resample), antialias=True)",
        "mode=str(self.tower.resample), antialias=False)",
        f"{FORMULAS}::test_clip_sees_a_squashed_picture_with_its_own_statistics",
    ),
    Mutation(
        "VSD: another negative text",
        "training/recipe.py",
        "over-smooth",
        "oversmooth",
        f"{FORMULAS}::test_texts_are_the_published_ones",
    ),
    Mutation(
        "S3Diff: another positive prompt",
        "variants.py",
        "vibrant colors",
        "vibrant colours",
        f"{FORMULAS}::test_texts_are_the_published_ones",
    ),
    Mutation(
        "AdamW: betas ignored",
        "training/optimizer.py",
        "lr=rate, betas=betas,",
        "lr=rate,",
        f"{FORMULAS}::test_adamw_by_hand",
    ),
    Mutation(
        "AdamW: clipping ignored",
        "training/optimizer.py",
        'self.clip or float("inf")',
        'float("inf")',
        f"{FORMULAS}::test_adamw_by_hand",
    ),
    Mutation(
        "φ′: ten times its rate",
        "training/objectives.py",
        "optim.clip, recipe.distill.learning_rate)",
        "optim.clip, 10 * recipe.distill.learning_rate)",
        f"{OBJECTIVES}::test_the_regulariser_learns_at_its_own_rate",
    ),
    Mutation(
        "LPIPS: unclamped",
        "training/data_loss.py",
        'made.picture.clamp(0, 1) if phase.pixel == "mse" else made.picture',
        "made.picture",
        f"{FORMULAS}::test_lpips_judges_clamped_pictures_where_the_bases_do",
    ),
    Mutation(
        "L_diff: DAS's range",
        "training/objectives.py",
        'draws.integers("t_diff", 0, 999)',
        'draws.integers("t_diff", 20, 979)',
        f"{OBJECTIVES}::test_the_regulariser_sees_every_timestep_of_the_schedule",
    ),
    Mutation(
        "LoRA: Kaiming's start",
        "models/lora.py",
        'init_lora_weights="gaussian", ',
        "",
        f"{LORA}::test_a_starts_gaussian_and_b_at_zero",
    ),
    Mutation(
        "VPIM: bias starts at zero",
        "training/setup.py",
        'prompt.linear.bias.copy_(_text(recipe, "", model).mean((0, 1)))',
        "prompt.linear.bias.zero_()",
        f"{FORMULAS}::test_visual_tokens_start_at_the_empty_texts_mean",
    ),
    Mutation(
        "MEM: another beta",
        "training/metric_trainer.py",
        "beta=0.1",
        "beta=1.0",
        f"{FORMULAS}::test_the_estimators_loss_by_hand",
    ),
    Mutation(
        "MEM: windows from the corner",
        "training/metric_trainer.py",
        "max(0, length - side) // 2",
        "0 * max(0, length - side)",
        f"{FORMULAS}::test_the_middle_of_a_crop_is_judged",
    ),
    # more of the kind
    Mutation(
        "Eq. 1: noise with α",
        "diffusion/schedule.py",
        "self.alpha(t) * z.float() + self.sigma(t) * eps.float()",
        "self.alpha(t) * z.float() + self.alpha(t) * eps.float()",
        SCHEDULE,
    ),
    Mutation("Eq. 3: divided by σ", "diffusion/schedule.py", "float()) / self.alpha(t)", "float()) / self.sigma(t)", SCHEDULE),
    Mutation(
        "Eq. 5: ceiling",
        "diffusion/grouping.py",
        "torch.floor(spec.n * share)",
        "torch.ceil(spec.n * share)",
        f"{GROUPING}::test_eq_5",
    ),
    Mutation(
        "Eq. 7: from 0",
        "diffusion/grouping.py",
        "(t - k).clamp(min=20)",
        "(t - k).clamp(min=0)",
        f"{GROUPING}::test_eq_7_draws_from_the_whole_window_and_never_outside",
    ),
    Mutation(
        "Eq. 7: end excluded",
        "diffusion/grouping.py",
        "(high - low + 1)",
        "(high - low)",
        f"{GROUPING}::test_eq_7_draws_from_the_whole_window_and_never_outside",
    ),
    Mutation(
        "VSD: sign",
        "training/losses.py",
        "target = z - (x0_regularizer - x0_frozen) / weight",
        "target = z + (x0_regularizer - x0_frozen) / weight",
        LOSSES,
    ),
    Mutation(
        "VSD: weight of the regulariser's distance",
        "training/losses.py",
        "(z - x0_frozen).abs().mean((1, 2, 3)",
        "(z - x0_regularizer).abs().mean((1, 2, 3)",
        LOSSES,
    ),
    Mutation(
        "VSD: guidance of the condition alone",
        "training/objectives.py",
        "guided = without + self.guidance",
        "guided = self.guidance",
        f"{OBJECTIVES}::test_guidance_starts_from_what_is_said_without_a_condition",
    ),
    Mutation(
        "GAN: real asks for 1",
        "training/losses.py",
        "target = 0.8 if real else 0.0",
        "target = 1.0 if real else 0.0",
        f"{DINO}::test_cross_entropy_by_hand",
    ),
    Mutation(
        "DINO: raw states",
        "models/dino.py",
        "norm(seen.hidden_states[level + 1])",
        "seen.hidden_states[level + 1]",
        f"{DINO}::test_heads_are_vision_aided_gans",
    ),
    Mutation(
        "DINO: embeddings for the first block",
        "models/dino.py",
        "seen.hidden_states[level + 1]",
        "seen.hidden_states[level]",
        f"{DINO}::test_levels_are_outputs_of_their_blocks",
    ),
    Mutation(
        "DINO: box for the binomial filter",
        "models/dino.py",
        "torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8",
        "torch.tensor([2.0, 2.0, 2.0, 2.0]) / 8",
        f"{DINO}::test_heads_are_vision_aided_gans",
    ),
    Mutation(
        "DINO: class token's head free",
        "models/dino.py",
        "nn.LeakyReLU(0.2), spectral_norm(narrow))\n\n\n_PUBLISHED",
        "nn.LeakyReLU(0.2), narrow)\n\n\n_PUBLISHED",
        f"{DINO}::test_every_layer_of_the_heads_is_spectrally_normalised",
    ),
    Mutation(
        "crops: transposed anyway",
        "data/dataset.py",
        "if self.transpose and rng.random() < 0.5",
        "if rng.random() < 0.5",
        f"{DATASET}::test_without_zoom_a_crop_is_cut_from_the_photo_up_to_flips",
    ),
    Mutation(
        "captions: one text for all",
        "training/generator_trainer.py",
        "for text in batch.texts]",
        "for text in [batch.texts[0]] * len(batch.texts)]",
        f"{ABLATIONS}::test_a_row_differs_where_it_should[S5 Baseline]",
    ),
    Mutation(
        "LoRA: M transposed",
        "models/modulation.py",
        'torch.einsum("bkhw,bkr->brhw", out, matrix)',
        'torch.einsum("bkhw,brk->brhw", out, matrix)',
        f"{MODULATION}::test_a_layer_computes_b_m_a",
    ),
    Mutation(
        "LoRA: cosines before sines",
        "models/modulation.py",
        "torch.cat((angles.sin(), angles.cos()), 2)",
        "torch.cat((angles.cos(), angles.sin()), 2)",
        f"{MODULATION}::test_fourier_features_by_hand",
    ),
    # what others' published files mean
    Mutation(
        "golden: S3Diff's block before its score",
        "models/modulation.py",
        "torch.cat((scores[:, None].expand(-1, count, -1), blocks.expand(samples, -1, -1)), 2)",
        "torch.cat((blocks.expand(samples, -1, -1), scores[:, None].expand(-1, count, -1)), 2)",
        f"{GOLDEN}::test_one_forward[s3diff]",
    ),
    Mutation(
        "golden: S3Diff's M of the way down for the way up",
        "models/modulation.py",
        '"up_blocks": levels + 1}',
        '"up_blocks": 0}',
        f"{GOLDEN}::test_one_forward[s3diff]",
    ),
    Mutation(
        "golden: S3Diff's guidance from the positive text",
        "models/passes.py",
        "return away + self.scale * (positive - away)",
        "return positive + self.scale * (positive - away)",
        f"{GOLDEN}::test_the_guided_picture_of_s3diff",
    ),
    Mutation(
        "golden: S3Diff's sides swapped in the file's texts",
        "checkpoints/published.py",
        'f"{network}.{kind}_mlp."',
        "f\"{network}.{dict(de='block', block='de').get(kind, kind)}_mlp.\"",
        f"{GOLDEN}::test_one_forward[s3diff]",
    ),
    Mutation(
        "golden: PiSA-SR's pixels weighed in the semantics' place",
        "checkpoints/load.py",
        '_SEMANTIC = "sem"',
        '_SEMANTIC = "pix"',
        f"{GOLDEN}::test_the_weighed_pair_of_pisa_sr",
    ),
    Mutation(
        "as published: bytes rounded",
        "engine/as_published.py",
        "* 255).floor() / 255",
        "* 255).round() / 255",
        f"{SCRIPTS}[s3diff-size2-6]",
    ),
    Mutation(
        "as published: both axes centred",
        "engine/as_published.py",
        "((side - 1) / 2, side / 2)",
        "((side - 1) / 2, (side - 1) / 2)",
        f"{SCRIPTS}[s3diff-size2-6]",
    ),
    Mutation(
        "as published: padded, not squeezed",
        "engine/as_published.py",
        "(side - side % script.multiple for",
        "(side for",
        f"{SCRIPTS}[osediff-size1-2]",
    ),
)


def run_tests(copy: Path, tests: list[str], aloud: bool = False) -> int:
    """Run tests of the copy in a fork, with pytest's output if `aloud`; returns the exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not aloud:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    code: int = pytest.ExitCode.INTERNAL_ERROR
    try:
        os.chdir(copy)
        os.environ["PYTHONPATH"] = str(copy / "src")
        sys.path[:0] = [str(copy), str(copy / "src")]
        # pytest cannot rewrite what is imported already
        options = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-m", "not slow and not gpu"]
        code = pytest.main([*options, *(f"tests/{test}" for test in tests)])
    finally:
        os._exit(code)


def main(words: list[str]) -> int:
    """Run the selected mutations, one line each."""
    chosen = [mutation for mutation in MUTATIONS if not words or any(word in mutation.name for word in words)]
    sys.dont_write_bytecode = True
    os.environ["OMP_NUM_THREADS"] = "1"
    for library in LIBRARIES:
        __import__(library)
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "rcodsr"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", "runs", "dev"))
        if run_tests(copy, sorted({mutation.test for mutation in chosen}), aloud=True) != pytest.ExitCode.OK:
            print("a test fails without any mutation")
            return 2
        survived = 0
        for mutation in chosen:
            path = copy / "src" / "rcodsr" / mutation.file
            text = path.read_text(encoding="utf-8")
            if text.count(mutation.right) != 1:
                print(f"{mutation.name}: {mutation.file} has its formula {text.count(mutation.right)} times")
                return 2
            started = time.monotonic()
            path.write_text(text.replace(mutation.right, mutation.wrong), encoding="utf-8")
            dead = run_tests(copy, [mutation.test]) == pytest.ExitCode.TESTS_FAILED
            path.write_text(text, encoding="utf-8")
            survived += not dead
            print(f"{'dead' if dead else 'SURVIVED'}  {mutation.name}  ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} dead")
    return 1 if survived else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
