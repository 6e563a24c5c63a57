"""Finds the photos that a benchmark's crops are of, and takes no other photo for one."""

from itertools import starmap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.data.quality import benchmark
from pipelines.data.quality.benchmark import MIN_MATCHES, BenchmarkSets, Features
from pipelines.data.quality.figures import luma
from pipelines.data.set_files import EMBEDDED_FOLDER
from pipelines.errors import UserError
from pipelines.storage.store import open_store
from tests.conftest import data_directory
from tests.support.photos import Pixels, as_jpeg, gradient, noise, opened, resized, sample, save


def configured(*arguments: str) -> Config:
    return load_config(["gate.benchmark=[]", *arguments])


def features(config: Config) -> Features:
    return BenchmarkSets.of(config).features(starmap)


def shown(of: Features, pixels: Pixels) -> str | None:
    return of.find(luma(pixels))[0]


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of 224 px of four photos, as those that come with SRMill."""
    folder = tmp_path_factory.mktemp("crops")
    for number, (top, left) in {
        2: (300, 500),
        5: (400, 600),
        9: (450, 800),
        10: (500, 600),
    }.items():
        crop = sample(number)[top : top + 224, left : left + 224]
        save(crop, folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def of_crops(crops: Path) -> Features:
    return features(configured(f"benchmark={crops}"))


@pytest.mark.parametrize("number", [2, 5, 9, 10])
def test_a_crop_s_own_photo_is_found(crops: Path, of_crops: Features, number: int) -> None:
    expected, photo = f"{crops.name}/{number}.png", sample(number)
    height, width, _ = photo.shape
    for copy in (
        photo, resized(photo, 0.5), resized(photo, 1.5), as_jpeg(photo, 30),
        as_jpeg(resized(photo, 0.4), 75), np.rot90(photo).copy(),
        photo[height // 4 :, width // 4 :], (photo * 0.8).astype(np.uint8),
        np.repeat(luma(photo)[..., None], 3, axis=2),
    ):  # fmt: skip
        assert shown(of_crops, copy) == expected


def test_photos_of_other_things_show_nothing(of_crops: Features) -> None:
    for number in {*range(13)} - {2, 5, 9, 10}:
        assert shown(of_crops, sample(number)) is None
    for other in (noise("uniform", 512), gradient("across"), np.zeros((300, 300, 3), np.uint8)):
        assert of_crops.find(luma(other)) == (None, 0)
    for shape in ((1, 1, 3), (1, 2000, 3), (3000, 2, 3), (8, 8, 3)):
        assert of_crops.find(luma(np.zeros(shape, np.uint8))) == (None, 0)


def test_no_photo_of_the_sample_shows_the_embedded_crops() -> None:
    embedded = features(configured("gate.benchmark=embedded"))
    assert len(embedded.names) == 31
    assert [shown(embedded, sample(number)) for number in range(13)] == [None] * 13


def test_a_benchmark_of_many_images_is_compared_in_parts(
    of_crops: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = of_crops.find(luma(sample(5)))
    for rows in (1, 301, 700):
        monkeypatch.setattr(benchmark, "_ROWS", rows)
        assert of_crops.find(luma(sample(5))) == found
    assert found[1] >= MIN_MATCHES


def test_each_set_that_is_configured_counts_and_the_split_does_not(crops: Path) -> None:
    config = configured(f"gate.benchmark=[embedded,{crops}]", f"benchmark=validation,{crops}")
    sets = BenchmarkSets.of(config)
    assert sets.locations == ("embedded", str(crops))
    assert [name for name in sets.features(starmap).names if "/9.png" in name] == [
        f"{crops.name}/9.png"
    ]


def test_a_set_that_changes_has_another_identity(crops: Path, tmp_path: Path) -> None:
    save(opened(crops / "2.png"), tmp_path / "set" / "2.png")
    config = configured(f"benchmark={tmp_path}/set")
    before = BenchmarkSets.of(config).identity
    assert BenchmarkSets.of(config).identity == before
    save(opened(crops / "5.png"), tmp_path / "set" / "4.png")
    assert BenchmarkSets.of(config).identity != before
    assert BenchmarkSets.of(configured()).identity == BenchmarkSets().identity


def test_a_set_in_a_bucket_is_one(crops: Path, s3_url: str) -> None:
    for path in crops.iterdir():
        open_store(s3_url).write(path.name, path.read_bytes())
    assert shown(features(configured(f"gate.benchmark={s3_url}")), sample(9)) == (
        f"{s3_url.rpartition('/')[2]}/9.png"
    )


def test_a_file_that_is_no_image_is_left_to_the_evaluation(crops: Path, tmp_path: Path) -> None:
    save(opened(crops / "2.png"), tmp_path / "set" / "2.png")
    (tmp_path / "set" / "broken.png").write_text("no image")
    of_set = features(configured(f"benchmark={tmp_path}/set"))
    assert of_set.names == ("set/2.png", "set/broken.png")
    assert shown(of_set, sample(2)) == "set/2.png"


def test_a_set_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no benchmark set '.*nosuch'"):
        BenchmarkSets.of(configured(f"gate.benchmark={tmp_path}/nosuch"))


def sources() -> dict[str, Path]:
    """The photos at hand that the embedded crops are of, by name."""
    names = {path.stem.rpartition("-")[0] for path in EMBEDDED_FOLDER.glob("*.webp")}
    photos = {path.stem: path for path in data_directory().glob("photos/*/*.jpg")}
    return {name: photos[name] for name in sorted(names & photos.keys())}


@pytest.mark.slow
def test_the_embedded_crops_are_found_in_their_own_photos_and_in_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the figures that the page tells."""
    embedded, own = features(configured("gate.benchmark=embedded")), sources()
    assert len(own) >= 3
    for name, path in own.items():
        photo, found = opened(path), []
        for factor in (0.25, 0.33, 0.5, 1, 2):
            image, num_matches = embedded.find(luma(as_jpeg(resized(photo, factor), 80)))
            assert image is not None, (name, factor)
            assert image.startswith(f"embedded/{name}-")
            found.append(num_matches)
        assert min(found) >= MIN_MATCHES + 3
        print(f"{name}: {found} points match at 0.25, 0.33, 0.5, 1 and 2 of the size")
    data = data_directory()
    others = [*data.glob("photos/*/*.jpg"), *data.glob("benchmarks/*/*/*_HR.png")]
    others = [path for path in others if path.stem not in own]
    assert len(others) > 200
    monkeypatch.setattr(benchmark, "MIN_MATCHES", 3)
    found = [embedded.find(luma(opened(path)))[1] for path in others]
    print(f"{len(others)} other photos: {max(found)} points match at most")
    assert max(found) <= MIN_MATCHES - 2


def test_the_file_of_a_photo_may_be_of_any_format(crops: Path, tmp_path: Path) -> None:
    Image.fromarray(sample(9)).save(tmp_path / "set.webp", quality=60)
    assert shown(features(configured(f"benchmark={crops}")), opened(tmp_path / "set.webp"))
