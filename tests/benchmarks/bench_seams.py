"""Compares the tiled output of a photo with its untiled one, to find out whether tiles show.

It uses the models that ship, and needs SRMILL_DATA.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference, shipped_models
from pipelines.models.load import load_model
from srmodels.tiling import Tiling, run_tiled, tile_starts
from srmodels.upscale import to_pixels, to_tensor
from tests.conftest import ROOT, data_directory


@pytest.mark.parametrize("name", shipped_models())
def test_seams(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRMILL_HOME", str(ROOT))
    model = load_model(ModelReference.parse(name), load_config([]))
    tiling = Tiling.for_tile(model.config.export.tile)
    scale, width, height = model.network.scale, 512, 288
    photo = data_directory() / "photos" / "val" / "budgie_beacon-street-sunset.jpg"
    with Image.open(photo) as image:
        low = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    x_l = to_tensor(np.asarray(low))
    with torch.inference_mode():
        whole = to_pixels(model.network(x_l)).astype(float)
        tiles = run_tiled(model.network, x_l, scale=scale, tiling=tiling)
    tiled = to_pixels(tiles).astype(float)
    starts = tile_starts(width, tiling.tile, tiling.overlap)
    borders = [x * scale - 1 for x in starts[1:]]
    borders += [(x + tiling.tile) * scale - 1 for x in starts[:-1]]
    steps = {
        name: np.abs(np.diff(pixels, axis=1)).mean(axis=(0, 2))[borders].mean()
        for name, pixels in {"tiled": tiled, "untiled": whole}.items()
    }
    psnr = 10 * np.log10(255**2 / ((tiled - whole) ** 2).mean())
    print(
        f"\n{name}: tiled against untiled: {psnr:.1f} dB (RGB); step across the columns "
        f"of tile borders {steps['tiled']:.3f} levels, untiled {steps['untiled']:.3f}"
    )
