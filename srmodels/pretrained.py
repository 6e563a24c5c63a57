"""Weights that others trained, by name: from a folder of safetensors, else from their homes."""

import os
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from srmodels.hub import read_weights

#: Names a folder with `<name>.safetensors`; it is looked at first.
FOLDER = "SRFORGE_WEIGHTS"


@dataclass(frozen=True)
class Source:
    """Where a state dict is published.

    prefix: of the names that are used of it. sha256: the first digits, as torch hub checks them.
    """

    url: str
    prefix: str = ""
    sha256: str = ""


_TORCHVISION = "https://download.pytorch.org/models"
_LPIPS = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"
)
SOURCES = {
    "alexnet_features": Source(f"{_TORCHVISION}/alexnet-owt-7be5be79.pth", "features.", "7be5be79"),
    "vgg16_features": Source(f"{_TORCHVISION}/vgg16-397923af.pth", "features.", "397923af"),
    "lpips_alex_heads": Source(f"{_LPIPS}/alex.pth"),
    "lpips_vgg_heads": Source(f"{_LPIPS}/vgg.pth"),
}


def weights_folder() -> Path | None:
    """What `$SRFORGE_WEIGHTS` names, if it is set.

    Raises:
        ValueError: it names no folder.
    """
    value = os.environ.get(FOLDER)
    if not value:
        return None
    if not Path(value).is_dir():
        raise ValueError(f"${FOLDER} is '{value}', which is no folder: correct it, or unset it.")
    return Path(value).absolute()


def pretrained(name: str) -> dict[str, Tensor]:
    """The weights called `name` in fp32, in main memory.

    They come from `$SRFORGE_WEIGHTS/<name>.safetensors` if that exists, else from torch hub's
    cache, else from the web.

    Raises:
        ValueError: they are in none of these places, or damaged.
    """
    source, folder = SOURCES[name], weights_folder()
    path = folder / f"{name}.safetensors" if folder else None
    if path is not None and path.is_file():
        weights = read_weights(path)
    else:
        try:
            weights = torch.hub.load_state_dict_from_url(
                source.url,
                map_location="cpu",
                progress=False,
                check_hash=bool(source.sha256),
                # A name of its own: the cache is shared with all that use torch hub.
                file_name=f"srforge-{name}{'-' * bool(source.sha256)}{source.sha256}.pth",
                weights_only=True,
            )
        except (OSError, RuntimeError, EOFError, HTTPException, UnpicklingError) as error:
            raise ValueError(
                f"the weights '{name}' cannot be had from {source.url} ({error}): put "
                f"{name}.safetensors into a folder and name it in ${FOLDER}, or run this once "
                "with access to that address."
            ) from None
    return {n: w.float() for n, w in weights.items() if n.startswith(source.prefix)}
