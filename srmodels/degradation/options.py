"""Every number that a degradation preset depends on, checked when it is set.

Plain mutable dataclasses, so that a configuration library can merge changes into a preset.
"""

from dataclasses import dataclass, field

from srmodels.degradation import checks

#: The order of `Blur.kind_odds`.
KERNEL_KINDS = (
    "iso",
    "aniso",
    "generalized_iso",
    "generalized_aniso",
    "plateau_iso",
    "plateau_aniso",
)
#: The order of every `interpolation_odds`.
INTERPOLATIONS = ("area", "linear", "cubic")
#: Sizes above this would need more than 8 bits per filter tap.
LARGEST_KERNEL = 41


def _list(*values: float) -> list[float]:
    return field(default_factory=lambda: list(values))


def _equal_odds() -> list[float]:
    return field(default_factory=lambda: [1.0, 1.0, 1.0])


def _sizes() -> list[int]:
    return field(default_factory=lambda: [7, 9, 11, 13, 15, 17, 19, 21])


@dataclass
class Bicubic:
    """MATLAB's antialiased bicubic reduction: nothing to set and nothing drawn."""


@dataclass
class Blur:
    """One random blur. Sizes and sigmas in px; a kernel is a sinc first, else one of the kinds."""

    probability: float = 1.0
    kernel_sizes: list[int] = _sizes()
    sinc_probability: float = 0.1
    kind_odds: list[float] = _list(0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sigma: list[float] = _list(0.2, 3.0)
    beta_generalized: list[float] = _list(0.5, 4.0)
    beta_plateau: list[float] = _list(0.5, 2.0)

    def __post_init__(self) -> None:
        checks.probability("blur.probability", self.probability)
        checks.kernel_sizes("blur.kernel_sizes", self.kernel_sizes, LARGEST_KERNEL)
        checks.probability("blur.sinc_probability", self.sinc_probability)
        checks.odds("blur.kind_odds", self.kind_odds, KERNEL_KINDS)
        checks.ascending("blur.sigma", self.sigma, 0.05, 20.0)
        for name in ("beta_generalized", "beta_plateau"):
            value = getattr(self, name)
            checks.ascending(f"blur.{name}", value, 0.1, 10.0)
            if not value[0] <= 1.0 <= value[1]:
                raise ValueError(f"blur.{name} is {list(value)}: set a range that contains 1.")


@dataclass
class Resize:
    """One random resize: up, down or kept; factors in `range`, below 1 for down, above for up."""

    odds: list[float] = _list(0.2, 0.7, 0.1)
    range: list[float] = _list(0.15, 1.5)
    interpolation_odds: list[float] = _equal_odds()

    def __post_init__(self) -> None:
        checks.odds("resize.odds", self.odds, ("up", "down", "keep"))
        checks.ascending("resize.range", self.range, 0.05, 4.0)
        if not self.range[0] <= 1.0 <= self.range[1]:
            raise ValueError(f"resize.range is {list(self.range)}: set a range that contains 1.")
        checks.odds("resize.interpolation_odds", self.interpolation_odds, INTERPOLATIONS)


@dataclass
class Noise:
    """One random noise: Gaussian (sigma in 8-bit levels) or else Poisson (a factor on shot noise).

    `gray_probability`: all channels get the same noise.
    """

    gaussian_probability: float = 0.5
    gray_probability: float = 0.4
    gaussian_sigma: list[float] = _list(1.0, 30.0)
    poisson_scale: list[float] = _list(0.05, 3.0)

    def __post_init__(self) -> None:
        checks.probability("noise.gaussian_probability", self.gaussian_probability)
        checks.probability("noise.gray_probability", self.gray_probability)
        checks.ascending("noise.gaussian_sigma", self.gaussian_sigma, 0.0, 255.0)
        checks.ascending("noise.poisson_scale", self.poisson_scale, 0.0, 20.0)


@dataclass
class Pass:
    """Blur, resize, noise and compression, in this order. Quality as in JPEG, 1–100."""

    blur: Blur = field(default_factory=Blur)
    resize: Resize = field(default_factory=Resize)
    noise: Noise = field(default_factory=Noise)
    quality: list[float] = _list(30.0, 95.0)

    def __post_init__(self) -> None:
        checks.ascending("quality", self.quality, 1.0, 100.0)


@dataclass
class Final:
    """The resize to LR's size and the sinc filter that follows it."""

    interpolation_odds: list[float] = _equal_odds()
    sinc_probability: float = 0.8
    kernel_sizes: list[int] = _sizes()

    def __post_init__(self) -> None:
        checks.odds("final.interpolation_odds", self.interpolation_odds, INTERPOLATIONS)
        checks.probability("final.sinc_probability", self.sinc_probability)
        checks.kernel_sizes("final.kernel_sizes", self.kernel_sizes, LARGEST_KERNEL)


@dataclass
class SecondOrder:
    """Real-ESRGAN's two passes. `webp_probability`: share of compressions by WebP, not JPEG."""

    first: Pass = field(default_factory=Pass)
    second: Pass = field(default_factory=Pass)
    final: Final = field(default_factory=Final)
    webp_probability: float = 0.0

    def __post_init__(self) -> None:
        checks.probability("webp_probability", self.webp_probability)


@dataclass
class Bsrgan:
    """BSRGAN's shuffled steps, with the published ranges for scale 4.

    `isotropic_sigma` in px; `anisotropic_variance` in px², along the kernel's two axes;
    `pre_halve_probability`: HR is halved first, where scale is a multiple of 4;
    `nearest_probability`: the first downsampling is by a shifted blur and taking every n-th pixel;
    `shrink`: otherwise it divides the size by a number from `shrink[0]` to `shrink[1]`·scale;
    `noise_odds`: gray, colour (independent), correlated between channels.
    """

    kernel_sizes: list[int] = _sizes()
    isotropic_sigma: list[float] = _list(0.1, 2.8)
    anisotropic_variance: list[float] = _list(0.5, 8.0)
    pre_halve_probability: float = 0.25
    nearest_probability: float = 0.25
    shrink: list[float] = _list(1.0, 2.0)
    interpolation_odds: list[float] = _equal_odds()
    gaussian_sigma: list[float] = _list(1.0, 25.0)
    noise_odds: list[float] = _list(0.4, 0.4, 0.2)
    compression_probability: float = 0.9
    quality: list[float] = _list(30.0, 95.0)
    webp_probability: float = 0.0

    def __post_init__(self) -> None:
        checks.kernel_sizes("kernel_sizes", self.kernel_sizes, LARGEST_KERNEL)
        checks.ascending("isotropic_sigma", self.isotropic_sigma, 0.05, 20.0)
        checks.ascending("anisotropic_variance", self.anisotropic_variance, 0.01, 400.0)
        for name in ("pre_halve", "nearest", "compression", "webp"):
            checks.probability(f"{name}_probability", getattr(self, f"{name}_probability"))
        checks.ascending("shrink", self.shrink, 0.25, 4.0)
        checks.odds("interpolation_odds", self.interpolation_odds, INTERPOLATIONS)
        checks.ascending("gaussian_sigma", self.gaussian_sigma, 0.0, 255.0)
        checks.odds("noise_odds", self.noise_odds, ("gray", "colour", "correlated"))
        checks.ascending("quality", self.quality, 1.0, 100.0)
