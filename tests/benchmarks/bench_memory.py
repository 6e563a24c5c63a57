"""Measures how much memory `srmill upscale` takes for each further pixel of the result.

Each measurement is a process of its own, and the figure is the kernel's high-water mark. Two
pictures of different heights are compared, so that the weights and the program do not count.
The pictures are noise.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

WIDTH, LOW, HIGH, SCALE = 128, 1024, 5120, 4
PROGRAM = """
import sys
from pathlib import Path
from pipelines.cli import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert not done.code, done.code
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize(
    "options",
    [(".png",), (".png", "adain"), (".png", "wavelet"), (".jpg",), (".webp",)],
    ids=" ".join,
)
def test_bytes_per_pixel(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRMILL_HOME", str(ROOT))
    suffix, *fix = options
    high = HIGH if suffix != ".webp" else 4000  # WebP holds no more than 16383 px

    def peak(height: int) -> int:
        source, target = tmp_path / f"{height}.png", tmp_path / f"{height}-large{suffix}"
        pixels = np.random.default_rng(0).integers(0, 256, (height, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(source)
        command = ["upscale", str(source), str(target), "--model", "edge_sd_sr_tiny"]
        command += [f"--color-fix={name}" for name in fix]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *command],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return 1024 * int(done.stdout.split()[-1])

    grown = peak(high) - peak(LOW)
    pixels = (high - LOW) * WIDTH * SCALE**2
    print(f"\n{' '.join(options)}: {grown / pixels:.2f} bytes per pixel of the result")
