"""The sheet of pictures: the same parts of held-out photos, as every method shows them."""

import numpy as np

from docs.tools.pictures_page import PARTS, PICTURE, SIZE, picture
from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.data.images import decode_photo
from pipelines.evaluation.methods import open_method
from pipelines.storage.paths import ROOT

SAMPLE = ROOT / "pipelines" / "data" / "sample"


def test_every_part_is_shown_as_each_method_shows_it() -> None:
    name = next(iter(PARTS))
    photo = decode_photo((SAMPLE / name).read_bytes(), 150)
    methods = [
        open_method(ModelReference.parse(m), load_config([])) for m in ("bicubic", "lanczos")
    ]
    sheet = picture({name: photo}, methods).astype(float)
    width = sheet.shape[1] // 4 + 2
    assert len(sheet) // len(PARTS[name]) == SIZE + 22
    left, top = PARTS[name][0]
    original = sheet[:SIZE, 3 * width : 3 * width + SIZE]
    assert (original == photo[top : top + SIZE, left : left + SIZE]).all()
    lr, *enlarged = (sheet[:SIZE, n * width : n * width + SIZE] for n in range(3))
    # Each lies where the original does, and is nearer to it than the LR image.
    errors = [float(np.abs(shown - original).mean()) for shown in (*enlarged, lr)]
    assert max(errors[:2]) < errors[2] < 20
    assert not np.array_equal(*enlarged)


def test_the_parts_lie_in_their_photos_and_the_sheet_is_there() -> None:
    assert sum(map(len, PARTS.values())) == 6
    for name, places in PARTS.items():
        height, width, _ = decode_photo((SAMPLE / name).read_bytes(), 150).shape
        assert all(x + SIZE <= width and y + SIZE <= height for x, y in places)
    assert PICTURE.is_file()
