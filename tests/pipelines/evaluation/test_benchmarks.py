"""Benchmark sets in the layouts that people have them in, and what is wrong with some."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.config.load import load_config
from pipelines.data.dataset import open_dataset
from pipelines.data.set_files import parse_names
from pipelines.errors import UserError
from pipelines.evaluation.benchmarks import Benchmark, open_benchmark
from pipelines.storage.files import file_sha256
from srmodels.degradation.resize import bicubic
from tests.conftest import SMALL, data_directory, write_dataset

LAYOUTS = {
    "SelfExSR": ("image_SRF_4/{}_SRF_4_HR.png", "image_SRF_4/{}_SRF_4_LR.png"),
    "DIV2K": ("DIV2K_valid_HR/{}.png", "DIV2K_valid_LR_bicubic/X4/{}x4.png"),
    "EDSR": ("HR/{}.png", "LR_bicubic/X4/{}.png"),
    "BasicSR": ("GTmod12/{}.png", "LRbicx4/{}.png"),
    "LQ": ("gt/{}.png", "lq/{}.png"),
    "RealSR": ("Canon/Test/4/{}_HR.png", "Canon/Test/4/{}_LR4.png"),
    "StableSR": ("test_HR/{}.png", "test_LR/{}.png"),
}


def image(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def opened(folder: Path, *overrides: str) -> Benchmark:
    return open_benchmark(str(folder), load_config([f"recipe={SMALL}", *overrides]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layouts_that_people_have(layout: str, tmp_path: Path) -> None:
    for number in range(3):
        for pattern, side in zip(LAYOUTS[layout], (48, 12), strict=True):
            save(tmp_path / "set" / pattern.format(f"img_{number}"), image(number, side, 2 * side))
    benchmark = opened(tmp_path / "set")
    assert benchmark.name == "set"
    assert [Path(key).name for key in benchmark.keys] == ["img_0", "img_1", "img_2"]
    assert not benchmark.missing
    for number, key in enumerate(benchmark.keys):
        lr, hr = pickle.loads(pickle.dumps(benchmark)).load(key)
        assert (lr == image(number, 12, 24)).all()
        assert (hr == image(number, 48, 96)).all()


def test_realsr_s_own_files_are_of_one_size(tmp_path: Path) -> None:
    hr, lr = image(0, 50, 49), image(1, 50, 49)
    save(tmp_path / "Nikon_001_HR.png", hr)
    save(tmp_path / "Nikon_001_LR4.png", lr)
    benchmark = opened(tmp_path)
    low, high = benchmark.load("Nikon_001")
    assert (low == bicubic(lr[:48, :48], 4)).all()
    assert (high == hr[:48, :48]).all()
    assert benchmark.degradation == "as the set carries it, reduced where it is as large as HR"


def test_a_set_s_other_scales_are_other_sets(tmp_path: Path) -> None:
    for scale in (2, 4):
        save(tmp_path / f"image_SRF_{scale}" / f"a_SRF_{scale}_HR.png", image(0, 48, 48))
        side = 48 // scale
        save(tmp_path / f"image_SRF_{scale}" / f"a_SRF_{scale}_LR.png", image(1, side, side))
    benchmark = opened(tmp_path)
    assert len(benchmark.keys) == 1
    assert benchmark.load(benchmark.keys[0])[0].shape == (12, 12, 3)


def test_pairs_that_are_none_are_named(tmp_path: Path) -> None:
    for name in "abcd":
        save(tmp_path / "HR" / f"{name}.png", image(0, 48, 48))
        save(tmp_path / "LR" / f"{name}.png", image(1, 12, 12))
    save(tmp_path / "HR" / "lonely.png", image(0, 48, 48))
    save(tmp_path / "LR" / "only.png", image(0, 12, 12))
    save(tmp_path / "LR" / "b.png", image(1, 24, 24))
    (tmp_path / "HR" / "c.png").write_bytes((tmp_path / "HR" / "c.png").read_bytes()[:500])
    (tmp_path / "LR" / "d.png").write_bytes(b"no picture")
    benchmark = opened(tmp_path)
    assert benchmark.missing == [("lonely", "has no LR image"), ("only", "has no HR image")]
    assert benchmark.load("a")[1].shape == (48, 48, 3)
    for key, reason in (
        ("b", "LR is 24x24 px and HR 48x48 px, which is not 4 times as large"),
        ("c", "HR: truncated or corrupt"),
        ("d", "LR: not an image"),
    ):
        with pytest.raises(ValueError, match=reason):
            benchmark.load(key)


def test_what_is_too_little_for_another_lr_pixel_is_cut_off(tmp_path: Path) -> None:
    hr = image(0, 51, 49)
    save(tmp_path / "a_SRF_4_HR.png", hr)
    save(tmp_path / "a_SRF_4_LR.png", image(1, 12, 12))
    assert (opened(tmp_path).load("a")[1] == hr[:48, :48]).all()


def test_photos_alone_are_reduced_by_the_recipe_s_degradation(tmp_path: Path) -> None:
    photo = image(0, 50, 61)
    save(tmp_path / "deep" / "a.png", photo)
    benchmark = opened(tmp_path)
    assert benchmark.keys == ["deep/a.png"]
    assert benchmark.degradation == "bicubic"
    lr, hr = benchmark.load("deep/a.png")
    assert (hr == photo[:48, :60]).all()
    assert (lr == bicubic(np.ascontiguousarray(hr), 4)).all()
    # What is drawn is drawn anew by the name, not by the order.
    random = "degradation.preset=bsrgan"
    first = opened(tmp_path, random).load("deep/a.png")[0]
    save(tmp_path / "a.png", image(1, 48, 48))
    assert (opened(tmp_path, random).load("deep/a.png")[0] == first).all()
    assert (opened(tmp_path, random, "seed=1").load("deep/a.png")[0] != first).any()


def test_the_paper_s_crops(tmp_path: Path) -> None:
    save(tmp_path / "a.png", image(0, 520, 700))
    save(tmp_path / "small.png", image(0, 520, 500))
    benchmark = opened(tmp_path, "evaluate.preset=stablesr")
    assert len(benchmark.keys) == 60
    assert benchmark.degradation == "realsr_diffusion"
    keys = [key for key in benchmark.keys if benchmark.group(key) == "a.png"]
    assert len(keys) == 30
    crops = [benchmark.load(key) for key in keys[:2]]
    assert {(lr.shape, hr.shape) for lr, hr in crops} == {((128, 128, 3), (512, 512, 3))}
    assert (crops[0][1] != crops[1][1]).any()
    assert (benchmark.load(keys[0])[1] == crops[0][1]).all()
    with pytest.raises(ValueError, match="500x520 px, smaller than crops of 512 px"):
        benchmark.load("small.png#0")


def test_the_identity_is_that_of_the_pairs(tmp_path: Path) -> None:
    save(tmp_path / "one" / "a.png", image(0, 48, 48))
    save(tmp_path / "two" / "a.png", image(0, 48, 48))
    first = opened(tmp_path / "one")
    assert opened(tmp_path / "two").identity == first.identity
    for other in ("seed=1", "degradation.preset=bsrgan"):
        assert opened(tmp_path / "one", other).identity != first.identity
    save(tmp_path / "two" / "a.png", image(1, 48, 48))
    assert opened(tmp_path / "two").identity != first.identity


def validation_identity(dataset: Path, *overrides: str) -> str:
    config = load_config([f"recipe={SMALL}", f"data={dataset}", *overrides])
    return open_benchmark("validation", config).identity


def test_the_validation_split_is_its_images_and_not_those_of_training(
    photos: Path, dataset: Path, tmp_path: Path
) -> None:
    whole = open_dataset(str(dataset), load_config([f"recipe={SMALL}"]).stream).manifest
    splits = {sha256: shard.split for shard in whole.shards for sha256 in shard.photos}
    found = {}
    for split in ("train", "val"):
        folder, grown = tmp_path / split / "photos", tmp_path / split / "dataset"
        shutil.copytree(photos, folder)
        held_back = next(path for path in folder.iterdir() if splits[file_sha256(path)] == split)
        held_back.rename(tmp_path / held_back.name)
        before = write_dataset(folder, grown)
        found[split] = [validation_identity(grown)]
        (tmp_path / held_back.name).rename(held_back)
        assert write_dataset(folder, grown).digest != before.digest
        found[split].append(validation_identity(grown))
    # Grown photo by photo or made at once.
    assert found["train"] == [validation_identity(dataset)] * 2
    assert len({validation_identity(dataset), *found["val"]}) == 3
    # The same photos in other tiles, which go by the same names.
    write_dataset(photos, tmp_path / "tiles", "shard.val_tile=96")
    assert validation_identity(tmp_path / "tiles") != validation_identity(dataset)


def test_the_validation_split_is_its_degradation_too(dataset: Path) -> None:
    ways = (
        (),
        ("seed=1",),
        ("networks.scale=2",),
        ("degradation.preset=bsrgan",),
        ("degradation.preset=realesrgan",),
        ("degradation.preset=realesrgan", "degradation.options.second.quality=[60,95]"),
    )
    assert len({validation_identity(dataset, *overrides) for overrides in ways}) == len(ways)


def test_what_is_no_benchmark_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no benchmark set .*nothing is no folder"):
        opened(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no image: expected"):
        opened(tmp_path)
    # Of another scale: not to be taken for HR images.
    save(tmp_path / "a_SRF_2_HR.png", image(0, 48, 48))
    save(tmp_path / "a_SRF_2_LR.png", image(0, 24, 24))
    with pytest.raises(UserError, match=r"low-resolution images \(a_SRF_2_LR.png, …\), but none"):
        opened(tmp_path)


def test_several_sets_are_named_with_commas_or_as_a_list() -> None:
    assert parse_names(None) == ["validation"]
    assert parse_names("a/Set5, b/Set14") == parse_names(["a/Set5", "b/Set14"])
    with pytest.raises(UserError, match="two benchmark sets are called Set5"):
        parse_names("a/Set5,b/Set5")
    with pytest.raises(UserError, match="benchmark names nothing"):
        parse_names("a,,b")


def test_real_sets() -> None:
    benchmark = opened(data_directory() / "benchmarks" / "BSD100")
    assert len(benchmark.keys) == 100
    lr, hr = benchmark.load(benchmark.keys[0])
    assert (bicubic(np.ascontiguousarray(hr), 4)[4:-4, 4:-4] == lr[4:-4, 4:-4]).all()


def test_images_of_one_name_in_several_folders_are_several_images(tmp_path: Path) -> None:
    for number, camera in enumerate(("Canon", "Nikon")):
        save(tmp_path / camera / "HR" / "001.png", image(number, 48, 48))
        save(tmp_path / camera / "LR" / "001.png", image(10 + number, 12, 12))
    benchmark = opened(tmp_path)
    assert benchmark.keys == ["Canon/001", "Nikon/001"]
    for number, key in enumerate(benchmark.keys):
        lr, hr = benchmark.load(key)
        assert (lr == image(10 + number, 12, 12)).all()
        assert (hr == image(number, 48, 48)).all()
    save(tmp_path / "Canon" / "HR" / "001.bmp", image(0, 48, 48))
    with pytest.raises(UserError, match="are the same image of a pair: remove one"):
        opened(tmp_path)


def test_sets_with_their_own_lr_have_no_preset(tmp_path: Path) -> None:
    save(tmp_path / "HR" / "a.png", image(0, 48, 48))
    save(tmp_path / "LR" / "a.png", image(0, 12, 12))
    with pytest.raises(UserError, match=r"brings its own LR images, and evaluate\.preset=stablesr"):
        opened(tmp_path, "evaluate.preset=stablesr")


def test_a_folder_is_called_what_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "mine" / "a.png", image(0, 48, 48))
    monkeypatch.setenv("SRMILL_HOME", str(tmp_path / "mine"))
    assert open_benchmark(".", load_config([f"recipe={SMALL}"])).name == "mine"
