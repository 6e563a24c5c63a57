"""The gate's frozen benchmark: the crops that come with SRMill, other sets, and their digests."""

import pickle
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.data.images import decode_photo
from pipelines.data.set_files import EMBEDDED_FOLDER
from pipelines.data.sources import SAMPLE
from pipelines.errors import UserError
from pipelines.evaluation import evaluate
from pipelines.evaluation.benchmarks import open_benchmark
from pipelines.evaluation.frozen import evaluated_names, open_frozen, open_set
from pipelines.evaluation.results import from_csv
from pipelines.storage.store import open_store
from tests.conftest import SMALL
from tests.support.bundles import make_bundle

#: Of the crops and their degradation. Champions were measured on these images: a change of them
#: makes every gate measure anew.
EMBEDDED_DIGEST = "7bfec3c5c2daf44a5d35d6ff5152f9b88769e8af7504eee5c3c0552644c797da"


def config_for(*arguments: object) -> Config:
    return load_config([f"recipe={SMALL}", *map(str, arguments)])


def opened(*arguments: object) -> list[str]:
    return [found.identity for found in open_frozen(config_for(*arguments))]


def test_the_embedded_crops_are_enough_to_decide_and_never_change() -> None:
    [found] = open_frozen(config_for("gate.benchmark=embedded"))
    assert (found.name, found.identity) == ("embedded", EMBEDDED_DIGEST)
    assert len(found.keys) >= 30
    photos = {found.group(key) for key in found.keys}
    assert len(photos) == 15
    for key in found.keys:
        lr, hr = pickle.loads(pickle.dumps(found)).load(key)
        assert (lr.shape, hr.shape) == ((56, 56, 3), (224, 224, 3))
    credits = (EMBEDDED_FOLDER / "CREDITS.md").read_text()
    rows = re.findall(r"^\| (\S+) \| .* \| (CC0 1\.0|public domain)(?:, .*)? \| `\w{16}…` \|$",
                      credits, re.MULTILINE)  # fmt: skip
    assert {photo for photo, _ in rows} == photos
    size = sum(path.stat().st_size for path in EMBEDDED_FOLDER.iterdir())
    assert size < 3_000_000


def _details(path: Path, reduction: float) -> NDArray[np.float32]:
    """The details of a photo, in luma, at 1/`reduction` of its size."""
    pixels = cv2.cvtColor(decode_photo(path.read_bytes(), 10), cv2.COLOR_RGB2GRAY)
    size = [round(side / reduction) for side in pixels.shape[::-1]]
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.asarray(small - cv2.GaussianBlur(small, (0, 0), 3), np.float32)


def _likeness(crop: Path, photo: NDArray[np.float32]) -> float:
    """How much a crop looks like the part of a photo that it looks most like, 1 at most, whatever
    the photo was reduced by before it was cut."""
    found = []
    for scale in (0.6, 0.75, 1.0, 1.25, 1.536, 2.0):
        part = _details(crop, 4 / scale)
        if min(photo.shape) > part.shape[0]:
            found.append(cv2.matchTemplate(photo, part, cv2.TM_CCOEFF_NORMED).max())
    return float(max(found))


@pytest.mark.slow
def test_no_crop_is_of_a_photo_that_trains(tmp_path: Path) -> None:
    """By content: the best place of each crop in each of the sample photos."""
    photos = {path.name: _details(path, 4) for path in sorted(SAMPLE.glob("*.jpg"))}
    crops = sorted(EMBEDDED_FOLDER.glob("*.webp"))
    likeness = {
        (crop.name, name): _likeness(crop, photo)
        for crop in crops
        for name, photo in photos.items()
    }
    assert max(likeness.values()) < 0.65, max(likeness, key=likeness.__getitem__)

    # A crop of one of them, of another size and cut from elsewhere, would be found.
    name = "krank_level-11.jpg"
    pixels = decode_photo((SAMPLE / name).read_bytes(), 10)
    smaller = cv2.resize(pixels, None, fx=0.65, fy=0.65, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "crop.png"), smaller[200:424, 300:524, ::-1])
    assert _likeness(tmp_path / "crop.png", photos[name]) > 0.75


def test_the_frozen_set_depends_on_the_degradation_and_not_on_the_training(photos: Path) -> None:
    for name in ("embedded", photos):
        before = opened(f"gate.benchmark={name}")
        assert opened(f"gate.benchmark={name}", "seed=7", "evaluate.preset=stablesr") == before
        assert opened(f"gate.benchmark={name}", "degradation.preset=bsrgan") != before


def test_a_set_of_another_digest_is_refused(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "set")
    [digest] = opened(f"gate.benchmark={tmp_path / 'set'}")
    pinned = (f"gate.benchmark=[embedded,{tmp_path / 'set'}]",
              f"gate.digest=[{EMBEDDED_DIGEST},{digest}]")  # fmt: skip
    assert opened(*pinned) == [EMBEDDED_DIGEST, digest]
    next((tmp_path / "set").iterdir()).unlink()
    with pytest.raises(
        UserError, match=rf"set has the digest .*, and gate\.digest pins {digest}: "
    ):
        opened(*pinned)
    with pytest.raises(UserError, match="embedded has the digest"):
        opened("gate.benchmark=embedded", "gate.digest=0")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("gate.benchmark=validation",), "changes with the training set: name embedded"),
        (("gate.benchmark=embedded", "gate.digest=[a,b]"), "pins 2 sets, and gate.benchmark na"),
        (("gate.benchmark=[embedded,embedded]",), "two benchmark sets are called embedded"),
        (("gate.benchmark=no_such",), "there is no benchmark set 'no_such'"),
    ],
)
def test_sets_that_cannot_decide_are_refused_by_the_plan(
    arguments: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        evaluate.plan(config_for("model=rdsr", *arguments))


def test_a_frozen_set_may_be_in_a_bucket(photos: Path, s3_url: str) -> None:
    location, store = f"{s3_url}/sets/three", open_store(f"{s3_url}/sets/three")
    with pytest.raises(UserError, match=rf"{location} holds no image"):
        opened(f"gate.benchmark={location}")
    for path in sorted(photos.iterdir())[:3]:
        store.write_file(path.name, path)
    store.write("README.md", b"no image")
    found = pickle.loads(pickle.dumps(open_set(location, config_for(f"gate.benchmark={location}"))))
    assert (found.name, found.witness) == ("three", None)
    assert list(found.keys) == [path.name for path in sorted(photos.iterdir())[:3]]
    assert found.load(found.keys[0])[1].shape == (200, 300, 3)
    # The same images in a folder are the same set.
    folder = photos.parent / "three"
    for path in sorted(photos.iterdir())[:3]:
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    assert open_benchmark(str(folder), config_for()).identity == found.identity


def test_an_evaluation_measures_on_the_frozen_set_beside_the_validation_split(
    tmp_path: Path, dataset: Path, ran: list, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bundle(tmp_path / "candidate")
    arguments = (
        f"model={tmp_path / 'candidate'}", f"data={dataset}", f"output={tmp_path / 'out'}",
        "gate.benchmark=embedded", "evaluate.metrics=[psnr_y]", "evaluate.latency_sizes=[]",
        "evaluate.num_pictures=0",
    )  # fmt: skip
    assert f"SRMill (gate.digest={EMBEDDED_DIGEST})" in evaluate.plan(config_for(*arguments))
    evaluate.run(config_for(*arguments))
    assert "embedded: 31 images of 15 photos" in capsys.readouterr().out
    rows = from_csv(tmp_path / "out" / "candidate" / "images.csv")
    assert {row.benchmark for row in rows} == {"validation", "embedded"}
    # Whoever names sets gets those, and no others.
    assert evaluated_names(config_for("gate.benchmark=embedded", "benchmark=a,b")) == ["a", "b"]
