from dataclasses import replace
from pathlib import Path

import numpy as np

from docs.tools.ablations_table import (
    BEGIN,
    END,
    Row,
    Scores,
    figure,
    interval,
    load_scores,
    table,
    write,
)
from srmodels.latency import Latency


def scores() -> Scores:
    base = np.full((2, 3, 2), 0.5)
    other = base + np.array([1.0, -0.25])
    return Scores(("psnr_y", "ssim_y"), base[0] / 2, (Row("base", base), Row("changed", other)))


def test_the_table_compares_every_arm_with_the_first() -> None:
    assert table(scores()).splitlines() == [
        "| | PSNR-Y | SSIM-Y |",
        "|---|---|---|",
        "| bicubic | 0.2500 | 0.2500 |",
        "| base | 0.5000 | 0.5000 |",
        "| changed | 1.5000 (+1.0000 … +1.0000) | 0.2500 (-0.2500 … -0.2500) |",
    ]


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "work" / "grid.json"
    scores().save(path)
    assert table(load_scores(path)) == table(scores())
    assert load_scores(path).metrics == ("psnr_y", "ssim_y")


def test_latencies_become_a_figure_and_are_read_as_they_were_written(tmp_path: Path) -> None:
    slow, fast = (Latency.of(144, [ms, ms + 1], 2) for ms in (9.0, 3.0))
    timed = replace(scores(), latencies={"slow one": [slow], "fast one": [fast]}, machine="a CPU")
    timed.save(tmp_path / "grid.json")
    found = load_scores(tmp_path / "grid.json")
    assert (found.latencies, found.machine) == (timed.latencies, "a CPU")
    drawn = figure(found)
    assert drawn.startswith("<svg")
    assert all(f">{title}<" in drawn or f"<!-- {title} -->" in drawn for title in timed.latencies)


def test_an_interval_holds_the_mean() -> None:
    differences = np.random.default_rng(1).normal(0.2, 0.1, (3, 50))
    low, high = interval(differences)
    assert low < differences.mean() < high
    assert high - low < 0.1


def test_only_the_table_of_a_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(page, "new")
    assert page.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
