"""The metrics by name, each with its protocol and the direction that is better."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch

from srmodels.metrics import fidelity
from srmodels.metrics.fid import FID
from srmodels.metrics.fidelity import NoScoreError, Pixels
from srmodels.metrics.lpips import LPIPS, pretrained_names
from srmodels.metrics.lpips import SMALLEST as LPIPS_SMALLEST
from srmodels.upscale import to_tensor
from srmodels.weights import is_at_hand

#: The score of a result by its reference, both `[H, W, 3]` uint8 RGB.
Score = Callable[[Pixels, Pixels], float]


@dataclass(frozen=True)
class AnyMetric:
    """The facts of a metric that tables and readers need.

    Attributes:
        name: its name in a recipe.
        title: its name in tables.
        protocol: the description that somebody needs to repeat the measurement.
        higher_is_better: True where a higher score is better.
        digits: number of decimals that are worth showing.
        margin: a difference that does not matter to anybody.
        has_reference: True where the metric looks at the HR of each image. Others cannot tell
            detail from invention.
        unit: unit of the score; empty if it has none.
        cropped: True where a border is left out; its width is then a part of `label`.
    """

    name: str
    title: str
    protocol: str
    _: KW_ONLY
    higher_is_better: bool
    digits: int
    margin: float
    has_reference: bool = True
    unit: str = ""
    cropped: bool = False

    def label(self, crop: int) -> str:
        """Returns the label of the metric's results, such as `psnr_y_crop4`."""
        return f"{self.name}_crop{crop}" if self.cropped else self.name


@dataclass(frozen=True)
class Metric(AnyMetric):
    """One way to judge a result.

    Attributes:
        pretrained: the weights that it needs, see `srmodels.weights`.
        create: makes the score for a border of so many pixels; raises ValueError where weights or
            packages cannot be had.
    """

    _: KW_ONLY
    create: Callable[[int], Score] = field(repr=False)
    pretrained: Sequence[str] = ()

    def is_at_hand(self) -> bool:
        """Returns True if the metric needs no weights, or finds them without the web."""
        return all(map(is_at_hand, self.pretrained))


@dataclass(frozen=True)
class SetMetric(AnyMetric):
    """One way to judge all results for a set of images together, by one number without an interval.

    Attributes:
        create: makes the score; raises ValueError as that of `Metric` does.
    """

    _: KW_ONLY
    create: Callable[[], FID] = field(repr=False)


def _fidelity(function: Callable[[Pixels, Pixels, int], float]) -> Callable[[int], Score]:
    return lambda crop: lambda sr, hr: function(sr, hr, crop)


def _lpips(backbone: str) -> Callable[[int], Score]:
    def create(crop: int) -> Score:
        lpips = LPIPS(backbone).load().eval()

        @torch.inference_mode()
        def score(sr: Pixels, hr: Pixels) -> float:
            if min(hr.shape[:2]) < LPIPS_SMALLEST[backbone]:
                raise NoScoreError("the image is smaller than the network's strides.")
            return float(lpips(to_tensor(sr), to_tensor(hr)))

        return score

    return create


def _niqe(crop: int) -> Score:
    from srmodels.metrics.niqe import NIQE

    niqe = NIQE()
    return lambda sr, hr: niqe(sr)


def pyiqa_score(name: str, *, has_reference: bool) -> Callable[[int], Score]:
    def create(crop: int) -> Score:
        model = _pyiqa_model(name)

        @torch.inference_mode()
        def score(sr: Pixels, hr: Pixels) -> float:
            images = (sr, hr) if has_reference else (sr,)
            return float(model(*map(to_tensor, images)))

        return score

    return create


def _pyiqa_model(name: str) -> Any:
    try:
        import pyiqa
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another torch
        raise ValueError(
            f"the metric '{name}' needs pyiqa, which cannot be imported ({_first_line(error)}): "
            "pip install -e '.[metrics]', with the torchvision that belongs to your torch, or "
            "leave it out of evaluate.metrics."
        ) from None
    try:
        return pyiqa.create_metric(name, device="cpu")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"the metric '{name}' cannot be loaded ({_first_line(error)}): pyiqa downloads its "
            "weights when it is used first, so run it once with access to the web, or leave it "
            "out of evaluate.metrics."
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__


_Y = "8-bit Y of BT.601 (16-235) from 8-bit RGB"
_WHOLE = "RGB, whole image"
_BLIND = "needs no reference"
_SSIM = "Gaussian window of 11 px, sigma 1.5, no padding"

_ALL = (
    Metric(
        "psnr_y", "PSNR-Y", _Y,
        higher_is_better=True, digits=2, margin=0.02, unit="dB", cropped=True,
        create=_fidelity(fidelity.psnr_y),
    ),
    Metric(
        "ssim_y", "SSIM-Y", f"{_Y}; {_SSIM}",
        higher_is_better=True, digits=4, margin=0.0005, cropped=True,
        create=_fidelity(fidelity.ssim_y),
    ),
    Metric(
        "psnr_rgb", "PSNR-RGB", "8-bit RGB, one error over the channels",
        higher_is_better=True, digits=2, margin=0.02, unit="dB", cropped=True,
        create=_fidelity(fidelity.psnr_rgb),
    ),
    Metric(
        "ssim_rgb", "SSIM-RGB", f"8-bit RGB, mean of the channels; {_SSIM}",
        higher_is_better=True, digits=4, margin=0.0005, cropped=True,
        create=_fidelity(fidelity.ssim_rgb),
    ),
    Metric(
        "lpips_alex", "LPIPS (alex)", f"v0.1, AlexNet; {_WHOLE}",
        higher_is_better=False, digits=3, margin=0.002, pretrained=pretrained_names("alex"),
        create=_lpips("alex"),
    ),
    Metric(
        "lpips_vgg", "LPIPS (vgg)", f"v0.1, VGG16; {_WHOLE}",
        higher_is_better=False, digits=3, margin=0.002, pretrained=pretrained_names("vgg"),
        create=_lpips("vgg"),
    ),
    Metric(
        "niqe", "NIQE", f"{_Y}, whole image; {_BLIND}",
        higher_is_better=False, digits=2, margin=0.05, has_reference=False,
        pretrained=("niqe_pristine",), create=_niqe,
    ),
    Metric(
        "dists", "DISTS", f"pyiqa; {_WHOLE}",
        higher_is_better=False, digits=3, margin=0.002,
        create=pyiqa_score("dists", has_reference=True),
    ),
    Metric(
        "musiq", "MUSIQ", f"pyiqa, KonIQ-10k; {_WHOLE}; {_BLIND}",
        higher_is_better=True, digits=2, margin=0.2, has_reference=False,
        create=pyiqa_score("musiq", has_reference=False),
    ),
    Metric(
        "clipiqa", "CLIP-IQA", f"pyiqa; {_WHOLE}; {_BLIND}",
        higher_is_better=True, digits=3, margin=0.005, has_reference=False,
        create=pyiqa_score("clipiqa", has_reference=False),
    ),
    Metric(
        "pi", "PI", f"pyiqa; {_BLIND}",
        higher_is_better=False, digits=2, margin=0.05, has_reference=False,
        create=pyiqa_score("pi", has_reference=False),
    ),
)  # fmt: skip
METRICS = {metric.name: metric for metric in _ALL}
SET_METRICS = {
    "fid": SetMetric(
        "fid", "FID", "Inception of 2015-12-05, whole images resized as clean-fid does; of the set",
        higher_is_better=False, digits=2, margin=0.1, has_reference=False, create=FID,
    ),
}  # fmt: skip
