"""Compares models on photos that have no original: `srmill compare`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.cli.photos import Task, opened, upscale_file
from pipelines.config.keys import MAX_PICTURES, MAX_SIDE
from pipelines.config.load import load_config
from pipelines.config.reference import Kind, ModelReference
from pipelines.config.schema import ShardConfig
from pipelines.config.wording import shown
from pipelines.data.images import decode_photo
from pipelines.data.sources.entries import is_photo_name, printable
from pipelines.errors import UserError, told
from pipelines.evaluation.methods import Method, NetworkMethod
from pipelines.evaluation.pictures import Pixels, encode
from pipelines.evaluation.side_by_side import PAGE, RESULTS, look_at, open_all, owned
from pipelines.evaluation.side_by_side_page import render
from pipelines.models.bundle import FILE_NAME
from pipelines.storage.files import local_files
from pipelines.storage.folders import new_folder
from pipelines.storage.ownership import check_replaceable
from pipelines.storage.paths import check_path, resolve
from pipelines.storage.store import open_store
from pipelines.storage.typed import to_json

#: Smallest side of the part of a photo that is upscaled, px.
_SMALLEST_PART = 16


def add_compare(commands: Any) -> None:
    """Adds `compare` to the command line."""
    compare = commands.add_parser(
        "compare",
        help="show models beside each other on your photos",
        description="Upscales photos with two or more models, and writes one page that shows the "
        "same parts of each photo as every model shows them, with what the models are and how far "
        "their pictures are apart. The photos need no original. A folder with a bundle.json is a "
        "model; any other folder holds photos, and so does a file that ends like one.",
    )
    compare.add_argument(
        "inputs",
        nargs="+",
        metavar="REF|PHOTOS",
        help="two or more models, as in evaluate.compare (models:/NAME@champion, @previous, "
        "run:NAME, a bundle's directory, a shipped model's name, bicubic, span, onnx:FILE, …), and "
        "photos or folders of photos",
    )
    compare.add_argument(
        "--output",
        metavar="DIR",
        help="the folder to write; an earlier comparison in it is replaced (default: work/compare)",
    )
    compare.add_argument(
        "--part",
        type=int,
        default=512,
        metavar="PX",
        help="of a larger photo, upscale only the part of so many px at each side that has most "
        "detail (default: %(default)s)",
    )
    compare.add_argument(
        "--show",
        type=int,
        default=12,
        metavar="N",
        help="show so many photos: those on which the models differ most; the page lists the "
        "figures of all (default: %(default)s)",
    )
    compare.add_argument(
        "--save",
        action="store_true",
        help="write whole upscaled pictures beside the page too, which takes longer",
    )
    compare.add_argument(
        "--max-megapixels",
        type=float,
        default=ShardConfig.max_megapixels,
        metavar="N",
        help="refuse larger photos (default: %(default)g)",
    )
    compare.set_defaults(run=_compare)


def _compare(parsed: argparse.Namespace) -> int:
    _check(parsed)
    references, photos = sort_inputs(parsed.inputs)
    folder = check_path(parsed.output).absolute() if parsed.output else resolve("work/compare")
    store = open_store(str(folder))

    def check() -> None:
        check_replaceable(store, RESULTS, owned)

    check()
    methods = open_all(references, load_config([]))
    decoders: dict[str, Callable[[], Pixels]] = {
        name: partial(_decode, path, parsed.max_megapixels) for name, path in photos.items()
    }
    found, windows = look_at(methods, decoders, part=parsed.part, num_shown=parsed.show)
    with local_files(folder), new_folder(store, RESULTS, check) as new:
        (new / PAGE).write_text(render(found, windows), encoding="utf-8")
        (new / RESULTS).write_bytes(to_json(found))
        for look in found.looks if parsed.save else ():
            _save(methods, photos[look.photo], new / "pictures", parsed.max_megapixels)
    for reason in found.skipped.values():
        print(f"skipped: {reason}", file=sys.stderr)
    for look in found.looks:
        if look.niqe_fails:
            print(f"note: {told(look.photo)} has no NIQE: {look.niqe_fails}", file=sys.stderr)
    print(f"Page: {folder / PAGE}")
    return 1 if found.skipped else 0


def _check(parsed: argparse.Namespace) -> None:
    if not _SMALLEST_PART <= parsed.part <= MAX_SIDE:
        raise UserError(
            f"--part must be {_SMALLEST_PART} to {MAX_SIDE} px, not {shown(parsed.part)}."
        )
    if not 1 <= parsed.show <= MAX_PICTURES:
        raise UserError(f"--show must be 1 to {MAX_PICTURES}, not {shown(parsed.show)}.")
    if not parsed.max_megapixels > 0:
        raise UserError(f"--max-megapixels must be more than 0, not {parsed.max_megapixels}.")


def sort_inputs(inputs: Sequence[str]) -> tuple[list[ModelReference], dict[str, Path]]:
    """Returns the models that a command line names, and the photos, by their file names.

    Raises:
        UserError: there are no photos, one does not exist, two have the same name, a folder holds
            none, or a reference has no known form.
    """
    references: list[ModelReference] = []
    photos: dict[str, Path] = {}
    for text in inputs:
        reference = ModelReference.parse(text)
        if not _names_photos(text, reference):
            references.append(reference)
            continue
        for path in _photos(check_path(text)):
            name = printable(path.name)
            if name in photos:
                raise UserError(
                    f"{photos[name]} and {path} have the same name: leave one out, or rename it."
                )
            photos[name] = path
    if not photos:
        raise UserError("there are no photos to compare the models on: name files or a folder.")
    return references, photos


def _names_photos(text: str, reference: ModelReference) -> bool:
    if "://" in text or reference.kind is not Kind.BUNDLE:
        return False
    path = check_path(text)
    return (path.is_dir() and not (path / FILE_NAME).exists()) or is_photo_name(path.name)


def _photos(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path} does not exist: correct the path.")
        return [path]
    with local_files(path):
        found = sorted(p for p in path.iterdir() if p.is_file() and is_photo_name(p.name))
    if not found:
        raise UserError(
            f"{path} holds neither photos nor a bundle ({FILE_NAME}): name another folder."
        )
    return found


def _decode(path: Path, max_megapixels: float) -> Pixels:
    with opened(path, max_megapixels) as file:
        return decode_photo(file.read(), max_megapixels)


def _save(methods: Sequence[Method], photo: Path, folder: Path, max_megapixels: float) -> None:
    """Writes the whole photo as each model shows it, to `PHOTO/NUMBER-MODEL.png`."""
    for number, method in enumerate(methods, 1):
        slug = ModelReference.parse(method.reference).slug
        target = folder / photo.name / f"{number}-{slug}.png"
        if isinstance(method, NetworkMethod):
            task = Task(photo, target)
            upscale_file(
                method.run, method.scale, task, method.tiling, max_megapixels=max_megapixels
            )
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(encode(method(_decode(photo, max_megapixels)), "PNG"))
