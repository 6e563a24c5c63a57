"""The champion of the demo on benchmark sets that it never saw, against bicubic, as Markdown.

Run `make demo` first; needs SRFORGE_DATA.
"""

import statistics

import numpy as np
import pytest
from PIL import Image

from pipelines import cli
from pipelines.config import load_config
from pipelines.evaluation.evaluate import upscale
from pipelines.registry.models import load_model
from srmodels.metrics import psnr_y, ssim_y
from tests.conftest import ROOT, data_directory


@pytest.mark.parametrize("name", ["Set5", "BSD100"])
def test_quality_at_x4(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRFORGE_HOME", str(ROOT))
    config = load_config([])
    model = load_model(cli.default_model(config), config)
    rows: dict[str, list[tuple[float, float]]] = {"bicubic": [], model.reference: []}
    for path in sorted((data_directory() / "benchmarks" / name).rglob("*_HR.png")):
        hr = np.asarray(Image.open(path).convert("RGB"))
        low = Image.open(str(path).replace("_HR", "_LR")).convert("RGB")
        bicubic = np.asarray(low.resize(hr.shape[1::-1], Image.Resampling.BICUBIC))
        for method, sr in (
            ("bicubic", bicubic),
            (model.reference, upscale(model, np.asarray(low))),
        ):
            rows[method].append((psnr_y(sr, hr, 4), ssim_y(sr, hr, 4)))
    print(f"\n\n| {name} ×4 | PSNR-Y (crop 4) | SSIM-Y (crop 4) |\n|---|---|---|")
    for method, scores in rows.items():
        psnr, ssim = (statistics.fmean(column) for column in zip(*scores, strict=True))
        print(f"| {method} | {psnr:.2f} dB | {ssim:.4f} |")
