"""`rcodsr bench`: speed (see `cli.speed`), picture quality, latent metrics and test sets."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from rcodsr.cli.help import Command, Group
from rcodsr.cli.parameters import Device, Number, Weights, words
from rcodsr.cli.progress import Progress
from rcodsr.cli.quality import quality
from rcodsr.cli.speed import speed
from rcodsr.cli.streams import json_line, result_line
from rcodsr.options import DEFAULT_WEIGHTS, WeightsRequest

_PRESETS = words("light", "full", "camera", "sensor", "clean", "independent")

app = typer.Typer(cls=Group, callback=speed, invoke_without_command=True, rich_markup_mode=None)


@app.command("synth", cls=Command)
def synth(
    photos: Annotated[Path, typer.Argument(help="Directory of photos, or a .txt file that lists them.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory that receives hr/ and lr/.", show_default=False)],
    preset: Annotated[
        str, typer.Option("--preset", help="light, full, camera, sensor, clean or independent.", autocompletion=_PRESETS)
    ] = "light",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed.")] = 0,
    crop: Annotated[int, typer.Option("--crop", min=0, help="Side of the random crops in pixels; 0 keeps whole photos.")] = 512,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Number of crops; default: one per photo.")] = None,
    overwrite: Annotated[bool, typer.Option("-y", "--overwrite", help="Replace an existing set of the same name.")] = False,
) -> int:
    """Write a seeded LR/HR test set: random crops of photos, degraded as DIV2K-Val is in the papers."""
    from rcodsr.bench.sets import synthesize

    for path in synthesize(photos, output, preset, seed, crop, count, overwrite):
        result_line(str(path))
    return 0


app.command("quality", cls=Command)(quality)


@app.command("metric", cls=Command)
def metric(
    photos: Annotated[Path, typer.Argument(help="Directory of photos.")],
    count: Annotated[int, typer.Option("--count", min=2, help="Number of crops.")] = 600,
    crop: Annotated[int, typer.Option("--crop", help="Side of each crop in pixels.")] = 256,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            "--preset",
            help="light, full, camera, sensor, clean, independent; repeat for a mix. Default: full.",
            autocompletion=_PRESETS,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed.")] = 0,
    lpips: Annotated[Path | None, typer.Option("--lpips", help="LPIPS-squeeze weights (safetensors).")] = None,
    weights: Weights = DEFAULT_WEIGHTS,
    device: Device = "auto",
    dtype: Number = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per metric.")] = False,
) -> int:
    """Correlate the latent metrics of Eq. (6) with perceived degradation: |Spearman| against SSIM and LPIPS (Table S1(b))."""
    from rcodsr.bench.judges import JudgeFiles, Scorer
    from rcodsr.bench.latents import DegradedCrops, correlate
    from rcodsr.engine.upscaler import Upscaler

    scorer = Scorer(JudgeFiles(lpips_squeeze=lpips))
    model = Upscaler.load(WeightsRequest(weights, device=device, dtype=dtype)).model
    crops = DegradedCrops(photos, count, crop, preset or ["full"], seed, model.spec.multiple)
    progress = Progress(count, quiet=not sys.stderr.isatty())
    try:
        table = correlate(crops, model, scorer, lambda: progress.advance("crops", ""))
    finally:
        progress.close()
    _table(table, count, json)
    return 0


def _table(table: "dict[str, dict[str, float | None]]", count: int, json: bool) -> None:
    """Print the table: aligned on a terminal, otherwise separated by tabs."""
    if json:
        for kind, values in table.items():
            json_line({"metric": kind, "crops": count} | values)
        return
    rows = [["metric", *next(iter(table.values()))]]
    rows += [[kind, *("-" if value is None else f"{value:.4f}" for value in values.values())] for kind, values in table.items()]
    aligned = sys.stdout is not None and sys.stdout.isatty()
    for row in rows:
        result_line("".join(f"{cell:10}" for cell in row).rstrip() if aligned else "\t".join(row))
