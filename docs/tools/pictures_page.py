"""Draws docs/images/pictures.webp: the same six parts of photos, as every method shows them.

    python -m docs.tools.pictures_page bicubic span rdsr edge_sd_sr_tiny

The photos are embedded and free of restrictions, and no weights that ship were trained on them.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.data.images import decode_photo
from pipelines.evaluation.methods import Method, open_method
from pipelines.evaluation.pictures import Pixels, enlarge, montage, stack
from pipelines.evaluation.protocol import low_resolution
from pipelines.storage.paths import ROOT

PICTURE = ROOT / "docs" / "images" / "pictures.webp"
#: Photos that `shard.val_source` held out, each with the parts: column and row of the first pixel.
PARTS = {
    "budgie_oakland-zoo-otters.jpg": ((470, 220), (680, 460), (1180, 600)),
    "budgie_tea-gardens.jpg": ((1340, 400), (80, 540), (940, 660)),
}
#: Side of a part in HR pixels; and of what is upscaled around it, so that no border shows.
SIZE, AROUND = 192, 512


def picture(photos: dict[str, Pixels], methods: Sequence[Method]) -> Pixels:
    """Returns the sheet: a row for each part, with the LR image, each method, and the original.

    Args:
        photos: HR photos `[H, W, 3]` by the names in `PARTS`.
    """
    config, rows = load_config([]), []
    for name, photo in photos.items():
        for left, top in PARTS[name]:
            hr = photo[top : top + SIZE, left : left + SIZE]
            y, x = (min(max(0, at - (AROUND - SIZE) // 2), side - AROUND) // 4 * 4
                    for at, side in zip((top, left), photo.shape[:2], strict=True))  # fmt: skip
            around = photo[y : y + AROUND, x : x + AROUND]
            lr = low_resolution(config, around, name)
            part = slice(top - y, top - y + SIZE), slice(left - x, left - x + SIZE)
            nearest = enlarge(lr, config.networks.scale, Image.Resampling.NEAREST)
            shown = {"LR": nearest[part]} | {m.title: m(lr)[part] for m in methods}
            rows.append(montage(shown | {"original": hr}))
    return stack(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="+", help="as in evaluate.compare, in drawing order")
    config = load_config([])
    wanted = parser.parse_args(arguments).methods
    methods = [open_method(ModelReference.parse(name), config) for name in wanted]
    folder = ROOT / "pipelines" / "data" / "sample"
    photos = {name: decode_photo((folder / name).read_bytes(), 150) for name in PARTS}
    Image.fromarray(np.asarray(picture(photos, methods))).save(PICTURE, quality=92, method=6)
    print(f"Picture: {PICTURE}")


if __name__ == "__main__":
    main()
