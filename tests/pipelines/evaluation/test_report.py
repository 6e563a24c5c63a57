"""The page: what it says, and how it behaves in a real browser."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.evaluation.latency import Cost
from pipelines.evaluation.measure import Failure, ImageResult
from pipelines.evaluation.report import Example, render
from pipelines.evaluation.results import BenchmarkResults, EvaluationResults, by_image
from pipelines.evaluation.statistics import compare
from pipelines.evaluation.summary import metric_facts
from srmodels.latency import Latency
from srmodels.metrics.suite import METRICS
from tests.support.browser import browser, screen  # noqa: F401
from tests.support.results import make_results

LABELS = {"psnr_y_crop4": METRICS["psnr_y"], "lpips_alex": METRICS["lpips_alex"]}
#: PSNR and LPIPS of each method; the images differ by a decibel each.
MEANS = {"bicubic": (28.0, 0.4), "span": (32.0, 0.2), "run:<x>": (30.0, 0.1)}
KEYS = [f"img_{number}" for number in range(6)]


def found(means: dict[str, tuple[float, float]]) -> list[ImageResult]:
    return [
        ImageResult(
            "Set5", key, key, method, {"psnr_y_crop4": psnr + place, "lpips_alex": lpips}
        )
        for place, key in enumerate(KEYS)
        for method, (psnr, lpips) in means.items()
    ]  # fmt: skip


def results_of(images: list[ImageResult], sizes: tuple[int, ...]) -> EvaluationResults:
    methods = list(dict.fromkeys(image.method for image in images))
    scores = {
        method: {label: by_image(images, "Set5", method, label) for label in LABELS}
        for method in methods
    }
    comparisons = {
        other: {
            label: compare(
                scores["run:<x>"][label], scores[other][label], {key: key for key in KEYS},
                higher_is_better=metric.higher_is_better, margin=metric.margin,
            )
            for label, metric in LABELS.items()
        }
        for other in methods
        if other != "run:<x>"
    }  # fmt: skip
    latencies = [Latency(size, 12.5, 12.0, 14.0, 3, 2, peak_bytes=50 * 2**20) for size in sizes]
    benchmark = BenchmarkResults(
        identity="digest", degradation="as the set carries it", num_images=6, num_photos=2,
        summary={
            m: {label: float(np.mean(list(v.values()))) for label, v in s.items()}
            for m, s in scores.items()
        },
        comparisons=comparisons, failures=[Failure("Set5", "img_9", "has no LR image")],
    )  # fmt: skip
    return make_results(
        model="run:<x>", lineage={"commit": "abc"},
        costs={method: Cost(4_370_000, 5.7, 2**20, latencies) for method in methods},
        titles={m: {"span": "SPAN", "run:<x>": "model"}.get(m, m) for m in methods},
        metrics={label: metric_facts(metric, 4) for label, metric in LABELS.items()},
        benchmarks={"Set5": benchmark},
    )  # fmt: skip


def page(means: dict[str, tuple[float, float]] = MEANS, sizes: tuple[int, ...] = (128,)) -> str:
    images = found(means)
    results = results_of(images, sizes)
    levels = {"LR": 40, "bicubic": 80, "span": 120, "run:<x>": 160, "HR": 200}
    pictures = {kind: np.full((64, 64, 3), level, np.uint8) for kind, level in levels.items()}
    curves = [("joint", [(1, 0.5), (2, 0.25)])]
    return render(results, images, [Example("Set5", "img_0", "best", pictures)], curves)


def test_the_page_is_self_contained_and_says_what_was_measured() -> None:
    html = page()
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    assert "http" not in re.sub(r'xmlns[^=]*="[^"]*"|<!DOCTYPE[^>]*>', "", html)
    assert html.count("data:image/webp;base64,") == 5
    assert "run:&lt;x&gt;" in html
    assert "<x>" not in html
    assert "joint: 0.5000 → 0.2500 in 2 steps" in html
    assert "Not measured: img_9 (has no LR image)" in html
    assert "4.37 M" in html
    assert "12.5 ms" in html
    assert "50 MiB" in html
    assert "Set5, 6 images of 2 photos" in html
    assert "side of the LR image" not in html
    assert "side of the LR image" in page(sizes=(144, 360))


@pytest.mark.parametrize(
    ("means", "sentence"),
    [
        (MEANS, "A trade: the model is better than SPAN in one way and worse in another."),
        (MEANS | {"span": (29.0, 0.2)}, "Ship the model: it is better than SPAN."),
        (MEANS | {"span": (32.0, 0.1)}, "Keep SPAN: the model is worse."),
        (MEANS | {"span": (30.0, 0.1)}, "It makes no difference: model and SPAN are equal."),
        ({m: MEANS[m] for m in ("bicubic", "run:<x>")}, "Ship the model: it is better than bicub"),
    ],
)
def test_a_stranger_is_told_which_one_to_ship(means: dict, sentence: str) -> None:
    html = page(means)
    assert sentence in html
    if means is MEANS:
        assert "PSNR-Y -2.00 dB (95 %: -2.00 … -2.00), better on 0% of the images: worse" in html
        assert "LPIPS (alex) -0.100 (95 %: -0.100 … -0.100), better on 100% of the images" in html


def shown(browser: Any, where: float) -> int:  # noqa: F811
    """The level of gray at this part of the viewer's width, as it is on the screen."""
    from selenium.webdriver.common.by import By

    element = browser.find_element(By.CSS_SELECTOR, ".viewer .screen")
    picture = Image.open(BytesIO(element.screenshot_as_png)).convert("L")
    level = picture.getpixel((int(where * picture.width), picture.height // 2))
    assert isinstance(level, int)
    return level


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_in_a_browser_the_slider_moves(
    tmp_path: Path,
    browser: Any,  # noqa: F811
    width: int,
    scheme: str,
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    (tmp_path / "report.html").write_text(page())
    screen(browser, width, 900, scheme)
    browser.get((tmp_path / "report.html").as_uri())
    assert browser.get_log("browser") == []
    # Nothing but tables, which scroll on their own, is wider than the screen.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    corner = Image.open(BytesIO(browser.get_screenshot_as_png())).convert("L").getpixel((2, 2))
    assert (corner < 50) if scheme == "dark" else (corner > 200)

    # The rival at the left, the model at the right of the slider, wherever it is.
    assert (shown(browser, 0.25), shown(browser, 0.75)) == (120, 160)
    slider = browser.find_element(By.CSS_SELECTOR, ".viewer input")
    move = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    for value, levels in (("10", (160, 160)), ("90", (120, 120)), ("50", (120, 160))):
        browser.execute_script(move, slider, value)
        assert (shown(browser, 0.25), shown(browser, 0.75)) == levels
    # The keyboard moves it too, and what lies there is told to those who do not see it.
    slider.send_keys(Keys.ARROW_LEFT)
    assert slider.get_attribute("value") == "49"
    assert slider.get_attribute("aria-valuetext") == "49 % SPAN, the rest model"
    images = browser.find_elements(By.CSS_SELECTOR, ".viewer img")
    assert [image.get_attribute("alt") for image in images] == ["SPAN", "model"]
    # Another picture, by its name and by a click on it.
    left, right = (Select(e) for e in browser.find_elements(By.CSS_SELECTOR, ".viewer select"))
    left.select_by_visible_text("HR")
    assert (shown(browser, 0.25), shown(browser, 0.75)) == (200, 160)
    browser.find_element(By.CSS_SELECTOR, ".pictures img[alt=bicubic]").click()
    assert right.first_selected_option.text == "bicubic"
    assert (shown(browser, 0.25), shown(browser, 0.75)) == (200, 80)
    button = browser.find_element(By.CSS_SELECTOR, ".viewer button")
    for text in ("zoom ×2", "zoom ×4", "zoom ×1"):
        button.click()
        assert button.text == text
    assert browser.get_log("browser") == []
