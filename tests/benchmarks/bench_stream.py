"""How fast one loader thread prepares samples, by degradation, as ratios in one run."""

import time
from itertools import islice
from pathlib import Path

from pipelines.data.manifest import Manifest
from pipelines.data.stream import CropSettings, TrainingStream
from srmodels.degradation import PRESETS


def test_samples_per_second_by_degradation(dataset: Path) -> None:
    manifest = Manifest.load(dataset)
    rates: dict[str, list[float]] = {preset: [] for preset in PRESETS}
    for _ in range(5):  # alternating, so that a noisy neighbour hits both
        for preset in PRESETS:
            stream = TrainingStream(
                dataset, manifest, CropSettings(128, 4, preset), seed=0, batch_size=8, threads=1
            )
            start = time.perf_counter()
            for _ in islice(iter(stream), 10):
                pass
            rates[preset].append(80 / (time.perf_counter() - start))
    base = sorted(rates["bicubic"])[2]
    for preset, values in rates.items():
        median = sorted(values)[2]
        print(f"\n{preset:<12} {median:7.1f} samples/s, {median / base:.2f} of bicubic", end="")
    print()
