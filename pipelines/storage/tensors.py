"""Writes tensors as safetensors, with the rights that the user's other files have."""

import os
import stat
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes contiguous tensors by name; replaces an older file.

    Raises:
        OSError: the file system refuses.
    """
    # safetensors renames a file of tempfile's, which nobody else may read, whatever the umask is.
    with path.open("wb") as file:
        mode = os.fstat(file.fileno()).st_mode
    save_file(tensors, path)
    path.chmod(stat.S_IMODE(mode))
