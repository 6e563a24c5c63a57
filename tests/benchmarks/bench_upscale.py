"""Times `srmill upscale`, which makes bands of a picture while it writes others, and without that.

pytest -s tests/benchmarks/bench_upscale.py
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipelines.cli import photos
from pipelines.config.reference import SHIPPED
from pipelines.data.sources.find import SAMPLE
from srmodels.edge.target import make_target
from srmodels.latency import Latency, num_threads, time_by_turns
from srmodels.tiling import Tiling

PHOTO = SAMPLE / "budgie_casa-mila.jpg"


def one_by_one(bands: Iterator[Image.Image], *_: object) -> Iterator[Image.Image]:
    yield from bands


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("model", ["light_mobile", "rdsr"])
def test_bands_made_ahead(
    model: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make_target("onnx_int8")
    runner = target.load(SHIPPED / model / "edge" / target.file, num_threads())
    task = photos.Task(PHOTO, tmp_path / f"large{suffix}")
    ways = {"one by one": one_by_one, "made ahead": photos.made_ahead}
    sizes = set()

    def call(way: str) -> None:
        monkeypatch.setattr(photos, "made_ahead", ways[way])
        tiling = Tiling.for_tile(128)
        sizes.add(photos.upscale_file(runner.run, 4, task, tiling, max_megapixels=100.0))

    times = time_by_turns({way: lambda way=way: call(way) for way in ways}, runs=7)
    before, now = (Latency.of(0, times[way], num_threads()).median_ms / 1000 for way in ways)
    ((width, height),) = sizes
    print(
        f"\n{model}, {width}x{height} px, {suffix}: {before:.2f} s, {now:.2f} s made ahead, "
        f"ratio {now / before:.2f}"
    )
