"""A bundle as MLflow's own kind of model, so that whoever has SRMill can load and serve it.

    model = mlflow.pyfunc.load_model("models:/NAME@champion")
    large = model.predict(images)

`images` and the result are uint8 `[N, H, W, 3]`, RGB. MLflow finds the function below by the file
`MLmodel`; no pickle is involved.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.models.bundle import Bundle, load_bundle
from srmodels.tiling import run_tiled
from srmodels.upscale import to_pixels, to_tensor

FILE = "MLmodel"


def write_description(directory: Path) -> None:
    """Writes `MLmodel` into the folder of a bundle that is not sealed yet."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    images = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))])
    flavor = {"loader_module": __name__}
    described = {
        "flavors": {"python_function": flavor},
        "signature": ModelSignature(inputs=images, outputs=images).to_dict(),
    }
    (directory / FILE).write_text(yaml.safe_dump(described))


def _load_pyfunc(path: str) -> "Upscaler":
    """Returns the bundle in a folder, ready to upscale. MLflow calls it."""
    return Upscaler(load_bundle(Path(path)))


class Upscaler:
    """Upscales images with the networks of a bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self._network = bundle.network()
        self._tiling = self._network.tiling(bundle.facts.tile)

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> NDArray[np.uint8]:
        """Returns the images `[N, scale·H, scale·W, 3]`, uint8, of images `[N, H, W, 3]`, uint8.

        Raises:
            UserError: they have another type or shape.
        """
        pixels = np.asarray(images)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or not pixels.size:
            raise UserError(
                f"the images are {pixels.dtype} {list(pixels.shape)}: give uint8 [N, H, W, 3], RGB."
            )
        return np.stack([self._upscaled(image) for image in pixels])

    @torch.inference_mode()
    def _upscaled(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        network = self._network
        x = run_tiled(network, to_tensor(image), scale=network.scale, tiling=self._tiling)
        return to_pixels(x)
