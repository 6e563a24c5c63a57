"""Weights that others trained, by name: from a folder of safetensors, else from their homes."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

#: Names a folder with `<name>.safetensors`; it is looked at first.
FOLDER = "SRFORGE_WEIGHTS"


@dataclass(frozen=True)
class Source:
    """Where a state dict is published. `prefix`: of the names that are used of it."""

    url: str
    prefix: str = ""
    check_hash: bool = False


_TORCHVISION = "https://download.pytorch.org/models"
_LPIPS = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"
)
SOURCES = {
    "alexnet_features": Source(f"{_TORCHVISION}/alexnet-owt-7be5be79.pth", "features.", True),
    "vgg16_features": Source(f"{_TORCHVISION}/vgg16-397923af.pth", "features.", True),
    "lpips_alex_heads": Source(f"{_LPIPS}/alex.pth"),
    "lpips_vgg_heads": Source(f"{_LPIPS}/vgg.pth"),
}


def pretrained(name: str) -> dict[str, Tensor]:
    """The weights called `name` in fp32, in main memory.

    They come from `$SRFORGE_WEIGHTS/<name>.safetensors` if that exists, else from torch hub's
    cache, else from the web.

    Raises:
        ValueError: they are in none of these places, or damaged.
    """
    source = SOURCES[name]
    folder = os.environ.get(FOLDER)
    path = Path(folder) / f"{name}.safetensors" if folder else None
    if path is not None and path.is_file():
        try:
            weights = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} cannot be read ({error}): get it again.") from None
    else:
        try:
            weights = torch.hub.load_state_dict_from_url(
                source.url,
                map_location="cpu",
                progress=False,
                check_hash=source.check_hash,
                weights_only=True,
            )
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"the weights '{name}' cannot be had from {source.url} ({error}): put "
                f"{name}.safetensors into a folder and name it in ${FOLDER}, or run this once "
                "with access to that address."
            ) from None
    return {n: w.float() for n, w in weights.items() if n.startswith(source.prefix)}
