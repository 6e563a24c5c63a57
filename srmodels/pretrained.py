"""Weights that others trained, by name: from a folder, else from where they are published."""

import os
import zipfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor

from srmodels.hub import read_weights

#: Names a folder with `<name>.safetensors` or `<name>.npz`; it is looked at first.
FOLDER = "SRMILL_WEIGHTS"


@dataclass(frozen=True)
class Source:
    """Where a state dict is published.

    prefix: of the names that are used of it. sha256: the first digits, as torch hub checks them.
    local: how the file in the folder ends.
    """

    url: str
    prefix: str = ""
    sha256: str = ""
    local: str = ".safetensors"


_TORCHVISION = "https://download.pytorch.org/models"
_LPIPS = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"
)
SOURCES = {
    "alexnet_features": Source(f"{_TORCHVISION}/alexnet-owt-7be5be79.pth", "features.", "7be5be79"),
    "vgg16_features": Source(f"{_TORCHVISION}/vgg16-397923af.pth", "features.", "397923af"),
    "lpips_alex_heads": Source(f"{_LPIPS}/alex.pth"),
    "lpips_vgg_heads": Source(f"{_LPIPS}/vgg.pth"),
    "niqe_pristine": Source(
        "https://raw.githubusercontent.com/XPixelGroup/BasicSR/master/basicsr/metrics/"
        "niqe_pris_params.npz",
        local=".npz",
    ),
}


def weights_folder() -> Path | None:
    """What `$SRMILL_WEIGHTS` names, if it is set.

    Raises:
        ValueError: it names no folder.
    """
    value = os.environ.get(FOLDER)
    if not value:
        return None
    if not Path(value).is_dir():
        raise ValueError(f"${FOLDER} is '{value}', which is no folder: correct it, or unset it.")
    return Path(value).absolute()


def is_at_hand(name: str) -> bool:
    """Whether `pretrained` would find these weights without the web.

    Raises:
        ValueError: `$SRMILL_WEIGHTS` names no folder.
    """
    local = _local(name)
    return (local is not None and local.is_file()) or _cached(name).is_file()


def pretrained(name: str) -> dict[str, Tensor]:
    """The weights called `name`, in main memory, in fp32 (fp64 where that is what is published).

    They come from the folder `$SRMILL_WEIGHTS` if they are there, else from torch hub's cache,
    else from the web.

    Raises:
        ValueError: they are in none of these places, or damaged.
    """
    source, path = SOURCES[name], _local(name)
    if path is None or not path.is_file():
        path = _cached(name)
        if not path.is_file():
            _download(name, path)
    weights = _READERS[path.suffix](path)
    wanted = {n: w for n, w in weights.items() if n.startswith(source.prefix)}
    return {n: w if w.dtype == torch.float64 else w.float() for n, w in wanted.items()}


def _local(name: str) -> Path | None:
    folder = weights_folder()
    return folder / f"{name}{SOURCES[name].local}" if folder else None


def _cached(name: str) -> Path:
    # A name of its own: the cache is shared with all that use torch hub.
    source = SOURCES[name]
    file = f"srmill-{name}{'-' * bool(source.sha256)}{source.sha256}{Path(source.url).suffix}"
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def _download(name: str, path: Path) -> None:
    source = SOURCES[name]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            source.url, str(path), hash_prefix=source.sha256 or None, progress=False
        )
        _READERS[path.suffix](path)
    except (OSError, RuntimeError, HTTPException, ValueError) as error:
        path.unlink(missing_ok=True)
        raise ValueError(
            f"the weights '{name}' cannot be had from {source.url} ({error}): put "
            f"{name}{source.local} into a folder and name it in ${FOLDER}, or run this once with "
            "access to that address."
        ) from None


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise _damaged(path, error) from None
    return weights


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = str(error).partition("\n")[0].partition(". ")[0]
    return ValueError(f"{path} cannot be read ({reason}): get it again.")


_READERS = {".safetensors": read_weights, ".pth": _read_pth, ".npz": _read_npz}
