"""Prints digests of many degradations and what the CPU was allowed to do, as JSON.

Run by `test_exactness.py` in processes with instruction sets switched off.
"""

import hashlib
import json
import sys

import cv2
import numpy as np

from srmodels.degradation import PRESETS, Draws, degrade

#: OpenCV's number for AVX2; Python has no name for it.
OPENCV_AVX2 = 11


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Flat blocks, slopes and grain `[height, width, 3]`, made of integers only."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    blocks = generator.integers(0, 200, (height // 8 + 1, width // 8 + 1, 3))
    blocks = np.kron(blocks, np.ones((8, 8, 1), np.int64))[:height, :width]
    slope = (np.arange(width)[None, :, None] + 2 * np.arange(height)[:, None, None]) // 4 % 64
    return np.clip(blocks + slope + generator.integers(-9, 10, blocks.shape), 0, 255).astype(
        np.uint8
    )


def digests(samples: int) -> dict[str, str]:
    """One digest per preset, over `samples` crops of different sizes and scales."""
    result = {}
    for name, make in PRESETS.items():
        options = make()
        if hasattr(options, "webp_probability"):
            options.webp_probability = 0.1
        total = hashlib.sha256()
        for number in range(samples):
            scale = (4, 2, 3, 8, 1)[number % 5]
            hr = picture(scale * (8 + number % 23), scale * (24 - number % 17), number)
            generator = np.random.Generator(np.random.Philox(key=number))
            total.update(degrade(hr, scale, options, Draws(generator)).tobytes())
        result[name] = total.hexdigest()
    return result


def control() -> str:
    """Ordinary float32 filtering and exponentials, which do depend on the instruction set."""
    image = picture(64, 64, 0).astype(np.float32) / 255
    kernel = np.exp(-np.linspace(0.1, 2.0, 49)).reshape(7, 7)
    filtered = np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()))
    return hashlib.sha256(filtered.tobytes()).hexdigest()


if __name__ == "__main__":
    cv2.setNumThreads(int(sys.argv[2]))
    features = np._core._multiarray_umath.__cpu_features__
    print(
        json.dumps(
            {
                "opencv_avx2": cv2.checkHardwareSupport(OPENCV_AVX2),
                "ipp": bool(cv2.ipp.useIPP()),
                "numpy_avx2": bool(features["X86_V3"]),
                "control": control(),
                "digests": digests(int(sys.argv[1])),
            }
        )
    )
