"""Finds the pairs of LR and HR files in a benchmark set, by the layouts that people use."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.data.set_files import ImageFile
from pipelines.errors import UserError


@dataclass(frozen=True)
class Pairs:
    """The files of a set, by the key of the image.

    Attributes:
        enlarged: True if LR may be as large as HR, as in RealSR's own files.
    """

    hr: dict[str, ImageFile]
    lr: dict[str, ImageFile]
    enlarged: bool


def find_pairs(place: str, files: Mapping[str, ImageFile], scale: int) -> Pairs | None:
    """Returns the pairs of the first layout that fits; None for HR images alone.

    The layouts, tried in this order for the scale s (`*` may hold subfolders):
    `*_SRF_<s>_HR.png` + `*_SRF_<s>_LR.png`; `*_HR.png` + `*_LR<s>.png` (RealSR);
    `HR/N.png` + `LR_bicubic/X<s>/Nx<s>.png` (DIV2K and its kin); `HR/N.png` + `LR/N.png`;
    `GTmod12/N.png` + `LRbicx<s>/N.png` (BasicSR), `GT/` + `LQ/`; the names of folders may begin
    with the set's, as in `test_HR`.

    Args:
        place: where the set is, for messages.
        files: its images, by their names in the set.

    Raises:
        UserError: two files are one image, or there are LR images that belong to no HR image.
    """
    for layout in _LAYOUTS:
        hr, lr = (_matching(pattern, files, scale) for pattern in (layout.hr, layout.lr))
        if hr and lr:
            return Pairs(hr, lr, layout.enlarged)
    others = [name for name in files if re.search(r"(?i)(^|[/_])(lr|lq)([/_.]|\d|bic)", name)]
    if others:
        raise UserError(
            f"{place} has low-resolution images ({others[0]}, …), but none that belong to its "
            f"HR images at ×{scale}: see docs/evaluation.md for the layouts."
        )
    return None


@dataclass(frozen=True)
class _Layout:
    """Patterns of paths, in which {scale} stands for the scale; the groups are joined to the key.

    enlarged: see `Pairs`.
    """

    hr: str
    lr: str
    enlarged: bool = False


#: A folder, and what its name begins with.
_SET = r"(.*/)?(?:(\w+)_)?"
_LAYOUTS = (
    _Layout(r"(.*)_SRF_{scale}_HR\.\w+", r"(.*)_SRF_{scale}_LR\.\w+"),
    _Layout(r"(.*)_HR\.\w+", r"(.*)_LR{scale}\.\w+", enlarged=True),
    _Layout(
        rf"{_SET}HR/(.*)\.\w+",
        rf"{_SET}LR_bicubic/X{{scale}}/(.*?)(?:x{{scale}})?\.\w+",
    ),
    _Layout(rf"{_SET}HR/(.*)\.\w+", rf"{_SET}LR/(.*)\.\w+"),
    _Layout(rf"{_SET}GT(?:mod\d+)?/(.*)\.\w+", rf"{_SET}LRbicx{{scale}}/(.*?)(?:x{{scale}})?\.\w+"),
    _Layout(rf"{_SET}(?:GT|gt)/(.*)\.\w+", rf"{_SET}(?:LQ|lq)/(.*)\.\w+"),
)


def _key(pattern: str, name: str, scale: int) -> str | None:
    found = re.fullmatch(pattern.replace("{scale}", str(scale)), name)
    return "/".join(part.strip("/") for part in found.groups() if part) if found else None


def _matching(pattern: str, files: Mapping[str, ImageFile], scale: int) -> dict[str, ImageFile]:
    found: dict[str, ImageFile] = {}
    for name, file in files.items():
        key = _key(pattern, name, scale)
        if key in found:
            raise UserError(f"{found[key]} and {file} are the same image of a pair: remove one.")
        if key is not None:
            found[key] = file
    return found
