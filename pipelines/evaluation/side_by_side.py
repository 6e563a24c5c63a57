"""Looks at the same photos through several models, where there is no HR to measure against."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from pipelines.config.reference import Kind, ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.evaluation.latency import machine
from pipelines.evaluation.methods import Interpolation, Method, ModelMethod, open_method
from pipelines.evaluation.pictures import (
    Pictures,
    Pixels,
    detailed_part,
    enlarge,
    most_different,
)
from pipelines.progress import progress
from pipelines.storage.ownership import Owns
from pipelines.storage.typed import Document
from srmodels.latency import num_threads
from srmodels.metrics.fidelity import SMALLEST, NoScoreError, psnr_rgb
from srmodels.metrics.suite import METRICS, Score

#: Windows of a photo that a page shows, at most.
NUM_WINDOWS = 3
#: The file that describes a comparison, and the page.
RESULTS, PAGE = "compare.json", "compare.html"


@dataclass(frozen=True)
class Subject:
    """The identity of one of the models.

    Attributes:
        reference: the user's name for it.
        version: the registered version that the reference means now; None for other models.
        digest: sha256 of the weights, for a model of this project; a digest of its files, for
            another network; None for an interpolation.
        parameters: number of its parameters; None if it has none, or PyTorch does not see them.
    """

    reference: str
    version: str | None
    digest: str | None
    parameters: int | None


@dataclass(frozen=True)
class Distance:
    """How far the pictures of two models are from each other.

    Attributes:
        psnr: their PSNR over RGB in dB, as if one were the original; None where they are equal.
    """

    first: str
    second: str
    psnr: float | None


@dataclass(frozen=True)
class Look:
    """One photo, as the models show it.

    Attributes:
        width, height: size of the photo, px.
        part: left, top, width and height of the part that was upscaled, px of the photo.
        niqe: by reference; None where NIQE cannot judge the picture.
        niqe_fails: why it cannot; empty if it can.
    """

    photo: str
    width: int
    height: int
    part: tuple[int, int, int, int]
    niqe: dict[str, float | None]
    niqe_fails: str
    distances: list[Distance]

    @property
    def closest(self) -> float:
        """The smallest PSNR between two of the pictures, dB; infinite if all are equal."""
        known = [found.psnr for found in self.distances if found.psnr is not None]
        return min(known, default=float("inf"))


@dataclass(frozen=True)
class SideBySide(Document):
    """The content of `compare.json`.

    Attributes:
        looks: the photos, in the order in which they were named.
        skipped: why a photo could not be looked at, by its name.
        niqe_protocol: None where NIQE was left out, for want of its weights.
    """

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "run srmill compare again"

    scale: int
    models: list[Subject]
    looks: list[Look]
    skipped: dict[str, str]
    niqe_protocol: str | None
    date: str
    machine: str


@dataclass(frozen=True)
class Window:
    """The same part of a photo as every model shows it; `left` and `top` in px of the photo."""

    left: int
    top: int
    pictures: Pictures


#: The windows of the photos that are shown, by photo.
Shown = dict[str, list[Window]]


def owned(document: dict[str, Any]) -> Owns | None:
    """Returns which files belong to a comparison of any version, given the content of its
    `compare.json`."""
    if not isinstance(document.get(SideBySide.VERSION_KEY), int) or "looks" not in document:
        return None
    return lambda name: name == PAGE or (name.startswith("pictures/") and name.endswith(".png"))


def open_all(references: Sequence[ModelReference], config: Config) -> list[Method]:
    """Opens the models to compare; interpolations get the scale of the others.

    Raises:
        UserError: there are fewer than two, two are the same, a model cannot be opened, or they
            do not enlarge by the same number.
    """
    if len(references) < 2:
        raise UserError("a comparison needs two models or more, and photos: name them all.")
    for first, second in combinations(references, 2):
        if first == second:
            raise UserError(f"'{first}' is named twice: leave it out once, or name another model.")
    networks = {
        reference: open_method(reference, config)
        for reference in references
        if reference.kind is not Kind.INTERPOLATION
    }
    scale = next(iter(networks.values())).scale if networks else config.networks.scale
    methods = [networks.get(r) or Interpolation(r.name, scale) for r in references]
    for one, other in combinations(methods, 2):
        if one.scale != other.scale:
            raise UserError(
                f"'{one.reference}' enlarges by {one.scale} and '{other.reference}' by "
                f"{other.scale}: compare models of one scale."
            )
        if one.identity == other.identity:
            raise UserError(
                f"'{one.reference}' and '{other.reference}' are the same model "
                f"({_identity(one)}): leave one of them out."
            )
    return methods


def look_at(
    methods: Sequence[Method],
    photos: Mapping[str, Callable[[], Pixels]],
    *,
    part: int,
    num_shown: int,
) -> tuple[SideBySide, Shown]:
    """Upscales photos with every model, and measures how the pictures differ.

    Args:
        photos: by name, what decodes it to `[H, W, 3]` uint8; it may raise UserError, and the photo
            is then skipped.
        part: of a larger photo, only the part of so many px at each side that has most detail.
        num_shown: photos that are shown: those whose pictures are furthest apart.

    Raises:
        UserError: no photo can be looked at.
    """
    torch.set_num_threads(num_threads())
    for method in methods:
        method.threads = num_threads()
    metric = METRICS["niqe"]
    try:
        niqe = metric.create(0) if metric.is_at_hand() else None
    except ValueError as error:
        raise UserError(str(error)) from None
    looks: list[Look] = []
    windows: Shown = {}
    skipped: dict[str, str] = {}
    with progress("compare", total=len(photos) * len(methods), unit="picture") as bar:
        for name, read in photos.items():
            try:
                photo = read()
                look, found = _look(methods, name, photo, part, niqe, bar.update)
            except UserError as error:
                skipped[name] = str(error)
                bar.update(len(methods))
                continue
            looks.append(look)
            windows[name] = found
            shown = sorted(looks, key=lambda look: look.closest)[:num_shown]
            windows = {look.photo: windows[look.photo] for look in shown}
    if not looks:
        raise UserError(next(iter(skipped.values()), "there are no photos: name some."))
    return _document(methods, looks, skipped, metric.protocol if niqe else None), windows


def _look(
    methods: Sequence[Method],
    name: str,
    photo: Pixels,
    side: int,
    niqe: Score | None,
    on_picture: Callable[[int], Any],
) -> tuple[Look, list[Window]]:
    scale, (rows, columns) = methods[0].scale, detailed_part(photo, side)
    lr = photo[rows, columns]
    if min(lr.shape[:2]) * scale < SMALLEST:
        raise UserError(f"{name} is too small to compare: give a larger photo.")
    pictures: Pictures = {}
    for method in methods:
        pictures[method.reference] = method(lr)
        on_picture(1)
    scores, fails = _scores(pictures, niqe)
    look = Look(
        photo=name,
        width=photo.shape[1],
        height=photo.shape[0],
        part=(columns.start, rows.start, lr.shape[1], lr.shape[0]),
        niqe=scores,
        niqe_fails=fails,
        distances=_distances(pictures),
    )
    shown = {"LR": enlarge(lr, scale, Image.Resampling.NEAREST)} | pictures
    return look, [
        Window(
            left=columns.start + window[1].start // scale,
            top=rows.start + window[0].start // scale,
            pictures={kind: picture[window].copy() for kind, picture in shown.items()},
        )
        for window in most_different(list(pictures.values()), NUM_WINDOWS)
    ]


def _scores(pictures: Pictures, niqe: Score | None) -> tuple[dict[str, float | None], str]:
    """Returns the NIQE of each picture, and why one has none."""
    scores: dict[str, float | None] = {}
    fails = ""
    if niqe is None:
        return scores, fails
    for reference, picture in pictures.items():
        try:
            scores[reference] = niqe(picture, picture)
        except NoScoreError as error:
            scores[reference], fails = None, str(error)
    return scores, fails


def _distances(pictures: Pictures) -> list[Distance]:
    return [
        Distance(first, second, None if np.array_equal(one, other) else psnr_rgb(one, other, 0))
        for (first, one), (second, other) in combinations(pictures.items(), 2)
    ]


def _document(
    methods: Sequence[Method], looks: list[Look], skipped: dict[str, str], protocol: str | None
) -> SideBySide:
    return SideBySide(
        scale=methods[0].scale,
        models=[subject_of(method) for method in methods],
        looks=looks,
        skipped=skipped,
        niqe_protocol=protocol,
        date=time.strftime("%Y-%m-%d"),
        machine=machine(),
    )


def subject_of(method: Method) -> Subject:
    """Returns what a method is."""
    version, digest = None, method.identity
    if isinstance(method, ModelMethod):
        version, digest = method.model.version, method.model.weights_sha256
    known = None if isinstance(method, Interpolation) else digest
    named = None if version is None else str(version)
    return Subject(method.reference, named, known, method.parameters)


def _identity(method: Method) -> str:
    subject = subject_of(method)
    return subject.version or f"sha256 {(subject.digest or method.identity)[:12]}"
