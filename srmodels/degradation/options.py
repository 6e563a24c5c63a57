"""Every number that a degradation preset depends on, checked when it is set.

Plain mutable dataclasses, so that a configuration library can merge changes into a preset.
"""

from dataclasses import dataclass, field

from srmodels.checks import check_ascending, check_kernel_sizes, check_odds, check_probability

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
        check_probability("blur.probability", self.probability)
        check_kernel_sizes("blur.kernel_sizes", self.kernel_sizes, LARGEST_KERNEL)
        check_probability("blur.sinc_probability", self.sinc_probability)
        check_odds("blur.kind_odds", self.kind_odds, KERNEL_KINDS)
        check_ascending("blur.sigma", self.sigma, 0.05, 20.0)
        for name in ("beta_generalized", "beta_plateau"):
            value = getattr(self, name)
            check_ascending(f"blur.{name}", value, 0.1, 10.0)
            if not value[0] <= 1.0 <= value[1]:
                raise ValueError(f"blur.{name} is {list(value)}: set a range that contains 1.")


@dataclass
class Resize:
    """One random resize: up, down or kept; factors in `range`, below 1 for down, above for up."""

    odds: list[float] = _list(0.2, 0.7, 0.1)
    range: list[float] = _list(0.15, 1.5)
    interpolation_odds: list[float] = _equal_odds()

    def __post_init__(self) -> None:
        check_odds("resize.odds", self.odds, ("up", "down", "keep"))
        check_ascending("resize.range", self.range, 0.05, 4.0)
        if not self.range[0] <= 1.0 <= self.range[1]:
            raise ValueError(f"resize.range is {list(self.range)}: set a range that contains 1.")
        check_odds("resize.interpolation_odds", self.interpolation_odds, INTERPOLATIONS)


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
        check_probability("noise.gaussian_probability", self.gaussian_probability)
        check_probability("noise.gray_probability", self.gray_probability)
        check_ascending("noise.gaussian_sigma", self.gaussian_sigma, 0.0, 255.0)
        check_ascending("noise.poisson_scale", self.poisson_scale, 0.0, 20.0)


@dataclass
class Pass:
    """Blur, resize, noise and compression, in this order. Quality as in JPEG, 1–100."""

    blur: Blur = field(default_factory=Blur)
    resize: Resize = field(default_factory=Resize)
    noise: Noise = field(default_factory=Noise)
    quality: list[float] = _list(30.0, 95.0)

    def __post_init__(self) -> None:
        check_ascending("quality", self.quality, 1.0, 100.0)


@dataclass
class Final:
    """The resize to LR's size and the sinc filter that follows it."""

    interpolation_odds: list[float] = _equal_odds()
    sinc_probability: float = 0.8
    kernel_sizes: list[int] = _sizes()

    def __post_init__(self) -> None:
        check_odds("final.interpolation_odds", self.interpolation_odds, INTERPOLATIONS)
        check_probability("final.sinc_probability", self.sinc_probability)
        check_kernel_sizes("final.kernel_sizes", self.kernel_sizes, LARGEST_KERNEL)


@dataclass
class SecondOrder:
    """Real-ESRGAN's two passes. `webp_probability`: share of compressions by WebP, not JPEG."""

    first: Pass = field(default_factory=Pass)
    second: Pass = field(default_factory=Pass)
    final: Final = field(default_factory=Final)
    webp_probability: float = 0.0

    def __post_init__(self) -> None:
        check_probability("webp_probability", self.webp_probability)


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
        check_kernel_sizes("kernel_sizes", self.kernel_sizes, LARGEST_KERNEL)
        check_ascending("isotropic_sigma", self.isotropic_sigma, 0.05, 20.0)
        check_ascending("anisotropic_variance", self.anisotropic_variance, 0.01, 400.0)
        for name in ("pre_halve", "nearest", "compression", "webp"):
            check_probability(f"{name}_probability", getattr(self, f"{name}_probability"))
        check_ascending("shrink", self.shrink, 0.25, 4.0)
        check_odds("interpolation_odds", self.interpolation_odds, INTERPOLATIONS)
        check_ascending("gaussian_sigma", self.gaussian_sigma, 0.0, 255.0)
        check_odds("noise_odds", self.noise_odds, ("gray", "colour", "correlated"))
        check_ascending("quality", self.quality, 1.0, 100.0)
