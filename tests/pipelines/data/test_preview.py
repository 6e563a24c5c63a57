from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.config.load import load_config
from pipelines.data import preview, shard
from pipelines.data.dataset import open_dataset
from pipelines.errors import UserError
from tests.conftest import SMALL


def test_the_sheet_shows_what_training_would_see(dataset: Path, tmp_path: Path) -> None:
    config = load_config(
        [
            f"recipe={SMALL}",
            f"data={dataset}",
            "degradation.preset=realesrgan",
            f"preview={tmp_path / 'sheet.png'}",
        ]
    )
    preview.run(config, str(dataset))
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    found = preview.pairs(config, open_dataset(str(dataset), config.stream))
    assert len(found) == 16
    side = preview.SIDE
    for number, (lr, hr, _, drawn) in enumerate(found):
        assert lr.shape == (16, 16, 3)
        assert any("JPEG" in line for line in drawn)
        x = 10 + number % 4 * (2 * side + 10)
        y = 10 + number // 4 * (side + preview.TEXT_HEIGHT + 10)
        shown = pixels[y : y + side, x + side : x + 2 * side]
        wanted = Image.fromarray(hr).resize((side, side), Image.Resampling.NEAREST)
        assert np.array_equal(shown, np.asarray(wanted))
        # Something is written below.
        below = pixels[y + side : y + side + preview.TEXT_HEIGHT, x : x + 2 * side]
        assert (below < 100).any()


def test_without_a_source_a_dataset_is_drawn_from_and_not_made_again(
    dataset: Path, tmp_path: Path
) -> None:
    """Otherwise the default source, the sample set, would be asked for."""
    before = (dataset / "manifest.json").read_bytes()
    path = tmp_path / "a new folder" / "sheet.jpg"
    shard.run(load_config([f"recipe={SMALL}", f"data={dataset}", f"preview={path}"]))
    assert path.exists()
    assert (dataset / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_sheet_replaces_only_a_sheet(dataset: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    config = load_config([f"recipe={SMALL}", f"data={dataset}", f"preview={path}"])
    preview.run(config, str(dataset))
    preview.run(config, str(dataset))
    Image.new("RGB", (8, 8)).save(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"exists and is no preview: choose another name"):
        shard.plan(config)
    assert path.read_bytes() == before


def test_crops_larger_than_the_tiles_are_refused(dataset: Path, tmp_path: Path) -> None:
    config = load_config(
        [f"data={dataset}", f"preview={tmp_path / 'a.png'}", "train.crop=256", "shard.tile=256"]
    )
    with pytest.raises(UserError, match=r"train.crop=256 does not fit .* have 128 px"):
        preview.run(replace(config, train=replace(config.train, crop=256)), str(dataset))


def test_other_endings_are_refused(dataset: Path) -> None:
    config = load_config([f"recipe={SMALL}", f"data={dataset}", "preview=sheet.txt"])
    with pytest.raises(UserError, match=r"must end in \.png"):
        preview.run(config, str(dataset))
