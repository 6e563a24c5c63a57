"""Models on benchmark sets that they never saw, against bicubic, as Markdown.

By default the model that ships; MODELS="a b …" names others, as `--model` does. Needs SRFORGE_DATA,
and SRFORGE_WEIGHTS for LPIPS.
"""

import os
import statistics

import numpy as np
import pytest
from PIL import Image

from pipelines import cli
from pipelines.config import load_config
from pipelines.registry.models import load_model
from tests.conftest import ROOT, data_directory
from tests.support.quality import bicubic, pairs, scores, upscaler


@pytest.mark.parametrize("name", ["Set5", "BSD100"])
def test_quality_at_x4(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRFORGE_HOME", str(ROOT))
    config = load_config([])
    references = os.environ.get("MODELS", cli.default_model(config)).split()
    methods = {"bicubic": bicubic}
    methods |= {reference: upscaler(load_model(reference, config)) for reference in references}
    rows: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
    for low, hr in pairs(data_directory(), name):
        for method, upscale in methods.items():
            rows[method].append(scores(upscale(low), hr))
    columns = list(rows["bicubic"][0])
    print(f"\n\n| {name} ×4 | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for method, found in rows.items():
        means = {column: statistics.fmean(row[column] for row in found) for column in columns}
        print(f"| {method} | {' | '.join(f'{value:.4f}' for value in means.values())} |")


def test_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes work/quality/: bicubic, the models and the original of a few photos, side by side."""
    monkeypatch.setenv("SRFORGE_HOME", str(ROOT))
    config = load_config([])
    references = os.environ.get("MODELS", cli.default_model(config)).split()
    methods = [bicubic, *(upscaler(load_model(reference, config)) for reference in references)]
    folder = ROOT / "work" / "quality"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (low, hr) in enumerate(pairs(data_directory(), "BSD100", every=12)):
        images = [*(method(low) for method in methods), hr]
        Image.fromarray(np.hstack(images)).save(folder / f"BSD100-{number}.png")
    print(f"\nlook at {folder}")
