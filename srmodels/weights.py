"""Finds and reads weights that others trained.

They lie in a file, in a folder, or on the Hugging Face hub. Others have a name here and are
published on the web.
"""

import os
import zipfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

#: diffusers' name for the weights of a model.
FILE = "diffusion_pytorch_model.safetensors"

#: The environment variable with the folder of `<name>.safetensors` or `<name>.npz`. It comes first.
FOLDER = "SRMILL_WEIGHTS"


@dataclass(frozen=True)
class Source:
    """The place where a state dict is published.

    Attributes:
        prefix: start of the names of the tensors that are used; the others are left out.
        sha256: the first digits of the file's sha256; torch hub checks them.
        local: ending of the file's name in the folder `$SRMILL_WEIGHTS`.
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


def find_weights(source: str, component: str) -> Path:
    """Returns the safetensors file that `source` names.

    Args:
        source: a .safetensors file; a folder with diffusers' weights in it or in its subfolder
            `component`; or OWNER/NAME on the hub, with the weights in one of the same two places.
            They are downloaded once to huggingface_hub's cache (its environment variables hold).
        component: the name of this model in a diffusers pipeline: `vae` or `unet`.

    Raises:
        ValueError: there are no weights, or the hub cannot be reached.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        for candidate in (path / FILE, path / component / FILE):
            if candidate.is_file():
                return candidate
        raise ValueError(
            f"the folder {source} holds no {FILE}, nor does its subfolder {component}."
        )
    owner, _, name = source.partition("/")
    if not owner.strip(".~") or not name or "/" in name or path.suffix == ".safetensors":
        raise ValueError(
            f"there is no '{source}': give a .safetensors file, a folder in diffusers' layout, or "
            "OWNER/NAME on the Hugging Face hub."
        )
    return _download_from_hub(source, component)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file in fp32, in main memory.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return {name: weight.float() for name, weight in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): get it again.") from None


def weights_folder() -> Path | None:
    """Returns the folder that `$SRMILL_WEIGHTS` names, if it is set.

    Raises:
        ValueError: the variable names no folder.
    """
    value = os.environ.get(FOLDER)
    if not value:
        return None
    if not Path(value).is_dir():
        raise ValueError(f"${FOLDER} is '{value}', which is no folder: correct it, or unset it.")
    return Path(value).absolute()


def is_at_hand(name: str) -> bool:
    """Returns True if `pretrained` would find these weights without the web.

    Raises:
        ValueError: `$SRMILL_WEIGHTS` names no folder.
    """
    return local_file(name) is not None or _cached(name).is_file()


def local_file(name: str) -> Path | None:
    """Returns the file in the folder `$SRMILL_WEIGHTS` that `pretrained` would read, if there is
    one.

    Raises:
        ValueError: the variable names no folder.
    """
    folder = weights_folder()
    path = folder / f"{name}{SOURCES[name].local}" if folder else None
    return path if path is not None and path.is_file() else None


def pretrained(name: str) -> dict[str, Tensor]:
    """Returns the weights called `name`, in main memory, in fp32.

    Weights that are published in fp64 stay in fp64.

    They come from the folder `$SRMILL_WEIGHTS` if they are there, else from torch hub's cache,
    else from the web.

    Raises:
        ValueError: they are in none of these places, or damaged.
    """
    source, path = SOURCES[name], local_file(name)
    if path is None:
        path = _cached(name)
        if not path.is_file():
            _download(name, path)
    weights = _READERS[path.suffix](path)
    wanted = {n: w for n, w in weights.items() if n.startswith(source.prefix)}
    return {n: w if w.dtype == torch.float64 else w.float() for n, w in wanted.items()}


def _cached(name: str) -> Path:
    # A name of its own: the cache is shared with all that use torch hub.
    source = SOURCES[name]
    file = f"srmill-{name}{'-' * bool(source.sha256)}{source.sha256}{Path(source.url).suffix}"
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def _download_from_hub(repository: str, component: str) -> Path:
    from huggingface_hub import errors, hf_hub_download

    failures: tuple[type[Exception], ...] = (
        OSError,
        errors.HfHubHTTPError,
        *errors.HfHubHTTPError.__bases__,  # the HTTP client's own
        errors.HFValidationError,
        errors.XetDownloadError,
    )
    unreachable = ""
    for subfolder in (None, component):
        try:
            return Path(hf_hub_download(repository, FILE, subfolder=subfolder))
        except errors.RemoteEntryNotFoundError:
            continue
        except failures as error:
            # The other place may be in the cache all the same.
            unreachable = str(error).partition("\n")[0] or type(error).__name__
    if not unreachable:
        raise ValueError(
            f"{repository} on the hub holds no {FILE}, nor does its folder {component}."
        )
    raise ValueError(
        f"{repository} cannot be had from the Hugging Face hub ({unreachable}): run this once with "
        "access to it, or name a local folder with the same files."
    )


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
