"""Times images in tiles of 128 px beside the tiles that networks of any size get.

pytest -s tests/benchmarks/bench_tiles.py
"""

import pytest
import torch

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.models.load import load_model
from srmodels.latency import Latency, num_threads, time_by_turns
from srmodels.tiling import Tiling, run_tiled


@pytest.mark.parametrize("size", [144, 360, 480, 720])
def test_tiles(size: int) -> None:
    network = load_model(ModelReference.parse("rdsr"), load_config(["model=rdsr"])).network
    x_l = torch.rand(1, 3, size, size)

    def call(tiling: Tiling) -> None:
        run_tiled(network, x_l, scale=4, tiling=tiling)

    ways = {"tiles of 128 px": Tiling(128, 32), "now": network.tiling(128)}
    torch.set_num_threads(num_threads())
    with torch.inference_mode():
        times = time_by_turns({n: lambda t=t: call(t) for n, t in ways.items()}, runs=5)
    found = {name: Latency.of(size, times[name], num_threads()) for name in ways}
    told = ", ".join(
        f"{name} {found[name].median_ms:.0f} ms ({tiling.count(size, size)} tiles)"
        for name, tiling in ways.items()
    )
    print(f"\n{size} px: {told}")
