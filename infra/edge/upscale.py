#!/usr/bin/env python3
"""Upscales a photo with a bundle's ONNX artifact. It needs numpy, Pillow and onnxruntime alone.

Copy this file into your own program: it shows all that an app has to do. Verify the bundle, cut
tiles that share a quarter, run each, blend where they overlap.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def load(bundle: Path, target: str) -> tuple[onnxruntime.InferenceSession, int, int]:
    """Returns a session for a verified artifact, the side of its tiles, and the scale."""
    facts = json.loads((bundle / "bundle.json").read_text())
    for name, listed in facts["files"].items():
        path = (bundle / name).resolve()
        if not path.is_relative_to(bundle.resolve()):
            raise SystemExit(f"error: bundle.json names {name}, which lies outside the bundle.")
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != listed["sha256"]:
            raise SystemExit(f"error: {name} is missing or damaged: fetch the bundle again.")
    if target not in facts["edge"]:
        raise SystemExit(f"error: the bundle has no {target}; it has {', '.join(facts['edge'])}.")
    artifact = facts["edge"][target]
    if not target.startswith("onnx") or artifact.get("others"):
        raise SystemExit(f"error: {target} is not one ONNX graph: name another artifact.")
    tile = artifact["input"]["shape"][-1] or facts["tile"]
    options = onnxruntime.SessionOptions()
    # Without this, a processor of x86 without VNNI cuts sums of int8 products off.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(bundle / artifact["file"]), options)
    return session, tile, facts["scale"]


def upscale(
    session: onnxruntime.InferenceSession, photo: np.ndarray, tile: int, scale: int
) -> np.ndarray:
    """Returns `[scale·h, scale·w, 3]` uint8 of a photo `[h, w, 3]` uint8."""
    height, width = photo.shape[:2]
    overlap = tile // 4
    missing = [(0, max(0, tile - side)) for side in (height, width)]
    photo = np.pad(photo, [*missing, (0, 0)], "reflect")  # one smaller than a tile is mirrored
    ramp = np.minimum(1, np.arange(0.5, tile * scale) / (overlap * scale))
    ramp = np.minimum(ramp, ramp[::-1])
    window = np.outer(ramp, ramp)[..., None]
    total = np.zeros((photo.shape[0] * scale, photo.shape[1] * scale, 3))
    weight = np.zeros((*total.shape[:2], 1))
    for top in starts(photo.shape[0], tile, overlap):
        for left in starts(photo.shape[1], tile, overlap):
            part = photo[top : top + tile, left : left + tile].transpose(2, 0, 1)[None]
            (x_h,) = session.run(["x_h"], {"x_l": part.astype(np.float32) / 255})
            at = np.s_[top * scale : (top + tile) * scale, left * scale : (left + tile) * scale]
            total[at] += x_h[0].transpose(1, 2, 0) * window
            weight[at] += window
    result = (total / weight)[: height * scale, : width * scale]
    return np.round(result.clip(0, 1) * 255).astype(np.uint8)


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Returns where tiles start along one side; neighbours share at least `overlap` pixels."""
    count = -(-(length - overlap) // (tile - overlap))
    return [min(number * (tile - overlap), length - tile) for number in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, help="directory that srmill fetch wrote")
    parser.add_argument("source", type=Path, help="a photo")
    parser.add_argument("result", type=Path, help="the picture to write")
    parser.add_argument("--target", default="onnx_fp32", help="artifact (default: onnx_fp32)")
    asked = parser.parse_args()
    session, tile, scale = load(asked.bundle, asked.target)
    try:
        opened = Image.open(asked.source, formats=("JPEG", "PNG", "WEBP"))  # noqa: TID251
        photo = ImageOps.exif_transpose(opened).convert("RGB")
    except OSError as error:
        raise SystemExit(f"error: {asked.source} is no photo that can be read ({error}).") from None
    Image.fromarray(upscale(session, np.asarray(photo), tile, scale)).save(asked.result)


if __name__ == "__main__":
    main()
