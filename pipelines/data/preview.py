"""Draws sixteen training pairs and their degradations into one image: `preview=sheet.png`."""

from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageDraw, ImageFont

from pipelines.config.schema import Config
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.data.order import sample_seed
from pipelines.data.stream import CropSettings, check_crop, make_pair, training_order
from pipelines.errors import UserError, listing
from pipelines.storage.files import local_files, write_bytes
from pipelines.storage.paths import resolve

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
#: The program that a sheet names in its EXIF; a job replaces only a file that names it.
MARK = "SRMill preview"
NUM_PAIRS = 16
COLUMNS = 4
#: The side in pixels of LR and of HR on the sheet.
SIDE = 224
_MARGIN, _TEXT_LINES = 10, 7
TEXT_HEIGHT = 16 * _TEXT_LINES
_CHARACTERS = 2 * SIDE // 7 + 2

_NO_SHEET = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

Pixels = NDArray[np.uint8]
Pair = tuple[Pixels, Pixels, str, list[str]]


def check(config: Config) -> None:
    """Checks the name of the sheet.

    Raises:
        UserError: its ending is of no format that can be written, or a file of that name is there
            that is no earlier sheet.
    """
    if config.preview is None:
        return
    if Path(config.preview).suffix.lower() not in FORMATS:
        raise UserError(f"preview={config.preview} must end in {listing(FORMATS)}.")
    path = resolve(config.preview)
    if path.exists() and not _is_sheet(path):
        raise UserError(f"{path} exists and is no preview: choose another name, or remove it.")


def _is_sheet(path: Path) -> bool:
    kinds = tuple(FORMATS.values())
    with suppress(*_NO_SHEET), Image.open(path, formats=kinds) as sheet:
        return sheet.getexif().get(ExifTags.Base.Software) == MARK
    return False


def run(config: Config, location: str) -> None:
    """Writes the sheet of the first samples that a training with these settings would see.

    Raises:
        UserError: the name or the dataset is unusable, or the file cannot be written.
    """
    check(config)
    path = resolve(str(config.preview))
    sheet = draw_sheet(pairs(config, open_dataset(location, config.stream)))
    with local_files(path):
        write_bytes(path, _encoded(sheet, path.suffix))
    print(f"Preview: {path}")


def pairs(config: Config, dataset: Dataset) -> list[Pair]:
    """Returns (LR, HR, key, drawn degradation) of the first samples in the training order.

    LR and HR are `[H, W, 3]` uint8 RGB.

    Raises:
        UserError: the crop does not fit into the tiles, or a sample cannot be read.
    """
    check_crop(dataset, config.train.crop)
    order, shards = training_order(dataset, config.seed)
    settings = CropSettings.of(config, config.train)
    found = []
    for position in range(min(NUM_PAIRS, order.num_samples)):
        draw = order[position]
        sample = dataset.manifest.sample(shards[draw.shard], draw.row)
        drawn: list[str] = []
        seed = sample_seed(config.seed, sample.key, draw.epoch)
        lr, hr = make_pair(dataset.tile(sample), settings, seed, drawn)
        found.append((lr, hr, sample.key, drawn))
    return found


def draw_sheet(found: Sequence[Pair]) -> Image.Image:
    """Draws pairs in four columns: LR (enlarged, not smoothed), HR, and their text below."""
    width, height = 2 * SIDE + _MARGIN, SIDE + TEXT_HEIGHT + _MARGIN
    rows = -(-len(found) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width + _MARGIN, rows * height + _MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for number, (lr, hr, key, drawn) in enumerate(found):
        x = _MARGIN + number % COLUMNS * width
        y = _MARGIN + number // COLUMNS * height
        for place, image in enumerate((lr, hr)):
            shown = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(shown, (x + place * SIDE, y))
        text = f"{key}  {lr.shape[1]}x{lr.shape[0]} from {hr.shape[1]}x{hr.shape[0]} px"
        lines = [text, *wrap(" · ".join(drawn), _CHARACTERS)][:_TEXT_LINES]
        pen.multiline_text((x, y + SIDE + 2), "\n".join(lines), "black", font, spacing=2)
    return sheet


def _encoded(sheet: Image.Image, suffix: str) -> bytes:
    buffer, exif = BytesIO(), Image.Exif()
    exif[ExifTags.Base.Software] = MARK
    sheet.save(buffer, FORMATS[suffix.lower()], exif=exif)
    return buffer.getvalue()
