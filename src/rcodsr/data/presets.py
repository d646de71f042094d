"""Degradation presets by name: the ranges from which `data.degradation` draws."""

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class StageSpec:
    """One round of blur → resize → noise → JPEG."""

    blur_probability: float
    blur_sigma: Range
    beta_gaussian: Range
    beta_plateau: Range
    sinc_probability: float
    resize_probabilities: tuple[float, float, float]
    """Probabilities of enlarging, shrinking and keeping the size."""
    resize_range: Range
    noise_probability: float
    gaussian_sigma: Range
    """In 8-bit levels; half of the noisy pictures get Gaussian noise, half Poisson."""
    poisson_scale: Range
    gray_probability: float
    jpeg_probability: float
    jpeg_quality: tuple[int, int]


@dataclass(frozen=True)
class ProcessingSpec:
    """In-camera processing of the sensor data."""

    mosaic_probability: float
    sharpen_probability: float
    sharpen_sigma: Range
    """In pixels of the low-resolution picture."""
    sharpen_amount: Range


@dataclass(frozen=True)
class DegradationSpec:
    """A preset: one or two stages and a final sinc filter."""

    first: StageSpec
    second: StageSpec | None
    final_sinc_probability: float
    processing: ProcessingSpec | None = None
    """In presets with one stage: applied between noise and JPEG."""


# Real-ESRGAN's x4plus options, which OSEDiff trains on
_FULL = DegradationSpec(
    first=StageSpec(
        blur_probability=1.0,
        blur_sigma=(0.2, 3.0),
        beta_gaussian=(0.5, 4.0),
        beta_plateau=(1.0, 2.0),
        sinc_probability=0.1,
        resize_probabilities=(0.2, 0.7, 0.1),
        resize_range=(0.15, 1.5),
        noise_probability=1.0,
        gaussian_sigma=(1, 30),
        poisson_scale=(0.05, 3.0),
        gray_probability=0.4,
        jpeg_probability=1.0,
        jpeg_quality=(30, 95),
    ),
    second=StageSpec(
        blur_probability=0.8,
        blur_sigma=(0.2, 1.5),
        beta_gaussian=(0.5, 4.0),
        beta_plateau=(1.0, 2.0),
        sinc_probability=0.1,
        resize_probabilities=(0.3, 0.4, 0.3),
        resize_range=(0.3, 1.2),
        noise_probability=1.0,
        gaussian_sigma=(1, 25),
        poisson_scale=(0.05, 2.5),
        gray_probability=0.4,
        jpeg_probability=1.0,
        jpeg_quality=(30, 95),
    ),
    final_sinc_probability=0.8,
)
# the milder setting shared by S3Diff, StableSR's published test data and AdcSR
_LIGHT = DegradationSpec(
    first=StageSpec(
        blur_probability=1.0,
        blur_sigma=(0.2, 1.5),
        beta_gaussian=(0.5, 2.0),
        beta_plateau=(1.0, 1.5),
        sinc_probability=0.1,
        resize_probabilities=(0.2, 0.7, 0.1),
        resize_range=(0.3, 1.5),
        noise_probability=1.0,
        gaussian_sigma=(1, 15),
        poisson_scale=(0.05, 2.0),
        gray_probability=0.4,
        jpeg_probability=1.0,
        jpeg_quality=(60, 95),
    ),
    second=StageSpec(
        blur_probability=0.5,
        blur_sigma=(0.2, 1.0),
        beta_gaussian=(0.5, 2.0),
        beta_plateau=(1.0, 1.5),
        sinc_probability=0.1,
        resize_probabilities=(0.3, 0.4, 0.3),
        resize_range=(0.6, 1.2),
        noise_probability=1.0,
        gaussian_sigma=(1, 12),
        poisson_scale=(0.05, 1.0),
        gray_probability=0.4,
        jpeg_probability=1.0,
        jpeg_quality=(60, 100),
    ),
    final_sinc_probability=0.8,
)
# ours: worst-case camera pictures: lens blur, then little noise and light JPEG, each on half of the pictures
_CAMERA = DegradationSpec(
    first=StageSpec(
        blur_probability=1.0,
        blur_sigma=(0.6, 3.0),
        beta_gaussian=(0.5, 2.0),
        beta_plateau=(1.0, 2.0),
        sinc_probability=0.0,
        resize_probabilities=(0.0, 0.0, 1.0),
        resize_range=(1.0, 1.0),
        noise_probability=0.5,
        gaussian_sigma=(1, 8),
        poisson_scale=(0.05, 0.8),
        gray_probability=0.4,
        jpeg_probability=0.5,
        jpeg_quality=(60, 98),
    ),
    second=None,
    final_sinc_probability=0.0,
)
# ours: pictures that are only downscaled, so that sharp inputs are not sharpened into halos
_CLEAN = DegradationSpec(
    first=StageSpec(
        blur_probability=0.5,
        blur_sigma=(0.2, 0.8),
        beta_gaussian=(0.5, 2.0),
        beta_plateau=(1.0, 2.0),
        sinc_probability=0.0,
        resize_probabilities=(0.0, 0.0, 1.0),
        resize_range=(1.0, 1.0),
        noise_probability=0.0,
        gaussian_sigma=(0, 0),
        poisson_scale=(0.0, 0.0),
        gray_probability=0.0,
        jpeg_probability=0.3,
        jpeg_quality=(85, 98),
    ),
    second=None,
    final_sinc_probability=0.0,
)
# ours: in-camera JPEG: noise before demosaicing, so that it turns into colour blotches, and edges already sharpened
_SENSOR = DegradationSpec(
    first=StageSpec(
        blur_probability=1.0,
        blur_sigma=(0.6, 2.6),
        beta_gaussian=(0.5, 2.0),
        beta_plateau=(1.0, 2.0),
        sinc_probability=0.0,
        resize_probabilities=(0.0, 0.0, 1.0),
        resize_range=(1.0, 1.0),
        noise_probability=0.6,
        gaussian_sigma=(0.5, 6),
        poisson_scale=(0.05, 0.6),
        gray_probability=0.0,
        jpeg_probability=0.6,
        jpeg_quality=(65, 98),
    ),
    second=None,
    final_sinc_probability=0.0,
    processing=ProcessingSpec(
        mosaic_probability=0.8,
        sharpen_probability=0.6,
        sharpen_sigma=(0.5, 1.2),
        sharpen_amount=(0.2, 1.0),
    ),
)
# ours: blur, noise and JPEG, each independently absent, mild or strong, so that an estimator sees each of them alone
_INDEPENDENT = DegradationSpec(
    first=StageSpec(
        blur_probability=0.3,
        blur_sigma=(0.2, 3.0),
        beta_gaussian=(0.5, 2.0),
        beta_plateau=(1.0, 2.0),
        sinc_probability=0.0,
        resize_probabilities=(0.0, 0.7, 0.3),
        resize_range=(0.25, 1.0),
        noise_probability=0.0,
        gaussian_sigma=(0, 0),
        poisson_scale=(0.0, 0.0),
        gray_probability=0.0,
        jpeg_probability=0.0,
        jpeg_quality=(95, 95),
    ),
    second=StageSpec(
        blur_probability=0.5,
        blur_sigma=(0.2, 3.0),
        beta_gaussian=(0.5, 2.0),
        beta_plateau=(1.0, 2.0),
        sinc_probability=0.0,
        resize_probabilities=(0.0, 0.0, 1.0),
        resize_range=(1.0, 1.0),
        noise_probability=0.5,
        gaussian_sigma=(1, 40),
        poisson_scale=(0.05, 3.0),
        gray_probability=0.4,
        jpeg_probability=0.5,
        jpeg_quality=(15, 98),
    ),
    final_sinc_probability=0.0,
)
PRESETS = {"full": _FULL, "light": _LIGHT, "camera": _CAMERA, "sensor": _SENSOR, "clean": _CLEAN, "independent": _INDEPENDENT}
