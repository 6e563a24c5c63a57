"""The page of `srmill compare`: models beside each other on photos without HR."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.evaluation.page import embedded, render_page
from pipelines.evaluation.side_by_side import Distance, Look, Shown, SideBySide, Subject, Window
from srmodels.metrics.suite import METRICS

_NIQE = METRICS["niqe"]
#: Digits of a sha256 by which people tell models apart.
_DIGITS = 12


@dataclass(frozen=True)
class _Model:
    title: str
    version: str
    digest: str
    whole_digest: str
    parameters: str
    niqe: str


@dataclass(frozen=True)
class _Pair:
    """The distance of two models over all photos, in words."""

    models: str
    psnr: str
    equal: str


@dataclass(frozen=True)
class _Picture:
    """A picture in base64; `alt` says what is to be seen for those who do not see it."""

    title: str
    alt: str
    data: str


@dataclass(frozen=True)
class _Row:
    title: str
    pictures: list[_Picture]


@dataclass(frozen=True)
class _Photo:
    """A photo's rows of pictures, and its figures in one line."""

    title: str
    figures: str
    rows: list[_Row]


def render(found: SideBySide, shown: Shown) -> str:
    """Returns the page.

    Args:
        shown: the windows of the photos to show, in the order to show them.
    """
    looks = {look.photo: look for look in found.looks}
    return render_page(
        "side_by_side.html.j2",
        found=found,
        title=" · ".join(subject.reference for subject in found.models),
        models=[_model(subject, found.looks) for subject in found.models],
        pairs=_pairs(found.looks),
        photos=[_photo(looks[name], windows) for name, windows in shown.items()],
        table=[(look.photo, *_cells(look)) for look in found.looks],
        unjudged={look.photo: look.niqe_fails for look in found.looks if look.niqe_fails},
        left=found.models[0].reference,
        right=found.models[1].reference,
    )


def _model(subject: Subject, looks: Sequence[Look]) -> _Model:
    scores = [s for look in looks if (s := look.niqe.get(subject.reference)) is not None]
    mean = f"{statistics.fmean(scores):.{_NIQE.digits}f}" if scores else "–"
    return _Model(
        title=subject.reference,
        version=subject.version or "–",
        digest=subject.digest[:_DIGITS] if subject.digest else "–",
        whole_digest=subject.digest or "none",
        parameters=f"{subject.parameters / 1e6:.2f} M" if subject.parameters else "–",
        niqe=mean,
    )


def _pairs(looks: Sequence[Look]) -> list[_Pair]:
    pairs = []
    for place, pair in enumerate(looks[0].distances):
        psnrs = [look.distances[place].psnr for look in looks]
        known = [psnr for psnr in psnrs if psnr is not None]
        pairs.append(
            _Pair(
                models=f"{pair.first} and {pair.second}",
                psnr=f"{statistics.fmean(known):.2f} dB" if known else "–",
                equal=f"{len(psnrs) - len(known)} of {len(psnrs)}",
            )
        )
    return pairs


def _cells(look: Look) -> list[str]:
    """Returns size, NIQE by model and PSNR by pair, as the table of all photos shows them."""
    scores = ["–" if s is None else f"{s:.{_NIQE.digits}f}" for s in look.niqe.values()]
    return [_size(look), *scores, *map(_psnr, look.distances)]


def _photo(look: Look, windows: Sequence[Window]) -> _Photo:
    niqe = [f"{name} {s:.{_NIQE.digits}f}" for name, s in look.niqe.items() if s is not None]
    apart = [f"{d.first} and {d.second} {_psnr(d)}" for d in look.distances]
    figures = [f"NIQE: {', '.join(niqe)}"] if niqe else []
    return _Photo(
        title=f"{look.photo}, {_size(look)}",
        figures=". ".join([*figures, f"PSNR between {', '.join(apart)}"]) + ".",
        rows=[
            _row(look, window, f"part {number} of {len(windows)}")
            for number, window in enumerate(windows, 1)
        ],
    )


def _row(look: Look, window: Window, part: str) -> _Row:
    what = {"LR": "its pixels enlarged"}
    return _Row(
        title=f"{part}, at {window.left}, {window.top} px",
        pictures=[
            _Picture(
                title=kind,
                alt=f"{look.photo}, {part}: {what.get(kind, f'upscaled by {kind}')}",
                data=embedded(picture),
            )
            for kind, picture in window.pictures.items()
        ],
    )


def _size(look: Look) -> str:
    whole, (_, _, width, height) = f"{look.width}x{look.height} px", look.part
    return whole if (width, height) == (look.width, look.height) else f"{width}x{height} of {whole}"


def _psnr(distance: Distance) -> str:
    return "equal" if distance.psnr is None else f"{distance.psnr:.2f} dB"
