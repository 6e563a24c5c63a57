import re

import numpy as np

from pipelines.evaluation.report import render

RESULTS = {
    "model": "run:<x>", "recipe": "r", "weights_sha256": "w", "manifest": "m", "scale": 4,
    "degradation": "bicubic", "num_images": 1, "protocol": "p",
    "summary": {
        "bicubic": {"psnr_y_crop4": 30.0, "ssim_y_crop4": 0.9},
        "run:<x>": {"psnr_y_crop4": 30.5, "ssim_y_crop4": 0.89},
    },
    "images": [{"key": "a", "method": "run:<x>", "psnr": 30.5, "ssim": 0.89}],
}  # fmt: skip


def test_the_page_is_self_contained_and_says_what_was_measured() -> None:
    page = render(
        RESULTS,
        {"a": {kind: np.zeros((4, 4, 3), np.uint8) for kind in ("LR", "run:<x>", "HR")}},
        [("joint", [(1, 0.5), (2, 0.25)])],
    )
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "http" not in re.sub(r'xmlns[^=]*="[^"]*"|<!DOCTYPE[^>]*>', "", page)
    assert page.count("data:image/png;base64,") == 3
    assert "run:&lt;x&gt;" in page
    assert "<x>" not in page
    assert re.search(r'class="good">\+0\.50 dB', page)
    assert re.search(r'class="bad">-0\.0100', page)
    assert "joint: 0.5000 → 0.2500 in 2 steps" in page
