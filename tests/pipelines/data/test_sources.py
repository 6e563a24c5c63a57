from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data.sources import SAMPLE, find_photos, read_rgb
from pipelines.errors import UserError


def test_the_sample_set_is_a_dozen_large_credited_photos() -> None:
    photos = find_photos("sample")
    assert len(photos) >= 12
    credits = (SAMPLE / "CREDITS.md").read_text()
    for photo in photos:
        with Image.open(photo.path) as image:
            assert max(image.size) >= 1000
        assert photo.name in credits
        assert photo.sha256[:16] in credits
    assert sum(photo.path.stat().st_size for photo in photos) <= 8e6


def test_a_folder_tree_is_searched_in_a_fixed_order_and_without_duplicates(tmp_path: Path) -> None:
    for number, name in enumerate(["b.png", "deep/a.PNG", "ü ö.webp"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    (tmp_path / "copy.png").write_bytes((tmp_path / "b.png").read_bytes())
    (tmp_path / "notes.txt").write_text("not looked at")
    assert [p.name for p in find_photos(str(tmp_path))] == ["b.png", "deep/a.PNG", "ü ö.webp"]


def test_unusable_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        find_photos(str(tmp_path / "nosuch"))
    with pytest.raises(UserError, match="holds no photo"):
        find_photos(str(tmp_path))
    (tmp_path / "note.png").write_text("hello")
    with pytest.raises(UserError, match=r"note\.png is not a readable photo \(not an image\)"):
        find_photos(str(tmp_path))


def test_photos_are_read_upright_and_as_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(32, dtype=np.uint8).reshape(4, 8))
    exif = Image.Exif()
    exif[0x0112] = 8
    image.save(tmp_path / "a.png", exif=exif)
    pixels = read_rgb(tmp_path / "a.png")
    assert pixels.shape == (8, 4, 3)
    assert np.array_equal(pixels[..., 0], np.rot90(np.asarray(image)))
