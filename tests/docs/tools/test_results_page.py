"""docs/results.md is what the command makes of the stored results."""

import json
import shutil
from pathlib import Path

from docs.tools.results_page import PAGE, STORED, page


def test_the_page_was_written_by_the_command() -> None:
    assert PAGE.read_text() == page(STORED), "run `make results`"


def test_ours_and_published_rows_stand_beside_each_other(tmp_path: Path) -> None:
    stored = tmp_path / "results"
    shutil.copytree(STORED, stored)
    path = sorted(stored.glob("*.json"))[0]
    results = json.loads(path.read_text())
    results["benchmarks"]["Set5"]["summary"][results["model"]]["psnr_y_crop4"] = 12.345
    path.write_text(json.dumps(results))
    written = page(stored)
    [ours] = [line for line in written.splitlines() if "12.35 dB" in line or "12.34 dB" in line]
    assert ours.startswith(f"| **{results['model']}** |")
    assert "| *CARN, published* | 1.59 M | 32.13 dB | 0.8937 |" in written
