"""Weights in diffusers' layout: a file, a folder, or a repository of the Hugging Face hub."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

#: What diffusers calls the weights of a model.
FILE = "diffusion_pytorch_model.safetensors"


def find_weights(source: str, part: str) -> Path:
    """The safetensors file that `source` names.

    Args:
        source: a .safetensors file; a folder with diffusers' weights in it or in its subfolder
            `part`; or OWNER/NAME on the hub, with the same two places, which is downloaded once
            to huggingface_hub's cache (its environment variables hold).
        part: what a pipeline calls this model: `vae` or `unet`.

    Raises:
        ValueError: there is nothing, or the hub cannot be reached.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        for candidate in (path / FILE, path / part / FILE):
            if candidate.is_file():
                return candidate
        raise ValueError(f"the folder {source} holds no {FILE}, nor does its subfolder {part}.")
    owner, _, name = source.partition("/")
    if not owner.strip(".~") or not name or "/" in name or path.suffix == ".safetensors":
        raise ValueError(
            f"there is no '{source}': give a .safetensors file, a folder in diffusers' layout, or "
            "OWNER/NAME on the Hugging Face hub."
        )
    return _download(source, part)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file in fp32, in main memory.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return {name: weight.float() for name, weight in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): get it again.") from None


def _download(repository: str, part: str) -> Path:
    from huggingface_hub import errors, hf_hub_download

    failures: tuple[type[Exception], ...] = (
        OSError,
        errors.HfHubHTTPError,
        *errors.HfHubHTTPError.__bases__,  # the HTTP client's own
        errors.HFValidationError,
        errors.XetDownloadError,
    )
    unreachable = ""
    for subfolder in (None, part):
        try:
            return Path(hf_hub_download(repository, FILE, subfolder=subfolder))
        except errors.RemoteEntryNotFoundError:
            continue
        except failures as error:
            # The other place may be in the cache all the same.
            unreachable = str(error).partition("\n")[0] or type(error).__name__
    if not unreachable:
        raise ValueError(f"{repository} on the hub holds no {FILE}, nor does its folder {part}.")
    raise ValueError(
        f"{repository} cannot be had from the Hugging Face hub ({unreachable}): run this once with "
        "access to it, or name a local folder with the same files."
    )
