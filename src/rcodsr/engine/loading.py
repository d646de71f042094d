"""Loads an engine in one line of Python."""

from __future__ import annotations

from collections.abc import Collection

from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import in_python, naming
from rcodsr.messages import Log, silent
from rcodsr.options import DEFAULT_WEIGHTS, Dtype, UpscaleOptions, WeightsRequest, choose_control, from_environment


def load(
    weights: str | None = None,
    device: str | None = None,
    dtype: Dtype | None = None,
    base_model: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    prompt: str | None = None,
    guidance: float | None = None,
    realism: float | str | None = None,
    as_published: bool = False,
    log: Log = silent,
    items: Collection[str] | None = None,
) -> Upscaler:
    """Load an `Upscaler`: `rcodsr.load("rcod-tiny").upscale(image, realism=0.5)`.

    Args:
        weights: a name from the manifest, a checkpoint directory, organisation/repository on the Hub, or
            `random:VARIANT[:SEED]`; None uses the environment's RCODSR_WEIGHTS, or the packaged default.
        device: auto, cpu, cuda, cuda:N or mps; None uses RCODSR_DEVICE, or auto.
        dtype: auto, fp32, bf16 or fp16; None uses RCODSR_DTYPE, or auto.
        base_model: directory or repository that replaces the base of an adapter checkpoint.
        revision: commit, branch or tag of a repository.
        offline: send no network requests; cached files still work.
        prompt: replaces the built-in text prompt, for weights that have one.
        guidance: classifier-free guidance scale for s3diff, whose authors use 1.07; adds a second U-Net pass.
        realism: for pisa-sr, whose realism is chosen here: a second U-Net pass. Other weights take one per picture.
        as_published: process pictures as in the authors' script; for osediff, s3diff and pisa-sr.
        log: receives a line when something is fetched.
        items: names of `engine.fast.ITEMS`; None uses the device's defaults.

    Raises:
        UsageError: when the request contradicts itself.
        WeightsError: when the weights are unknown, unavailable or corrupt.
        DeviceError: when the device or dtype is not available.
    """
    given = {"weights": weights, "device": device, "dtype": dtype}
    found = {name: default for name, value in given.items() if value is None and (default := from_environment(name))}
    name, where, number = (value or found.get(key, (None, ""))[0] for key, value in given.items())
    origins = {subject: told for key, (value, told) in found.items() for subject in (f"--{key}", value)}
    request = WeightsRequest(
        name or DEFAULT_WEIGHTS,
        revision,
        base_model,
        offline,
        where or "auto",
        number or "auto",
        prompt,
        guidance,
        as_published,
    )
    with in_python(), naming(origins):
        return Upscaler.load(request, UpscaleOptions(choose_control(realism)), log, items)
