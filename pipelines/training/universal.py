"""Converts DeepSpeed's files, so that another number of ranks than wrote them can load them."""

import argparse
import io
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from filelock import FileLock

from pipelines.storage.files import new_directory


def universal_copy(checkpoint: Path, tags: Sequence[str], target: Path) -> Path:
    """Copies the engine folders of a ZeRO checkpoint into DeepSpeed's universal format.

    The format is that of arXiv 2406.18820. One process of a node makes the copy, and the others
    wait for it.

    Args:
        checkpoint: folder that holds the engine files of every rank.
        tags: names of the engine folders in it.
        target: node-local folder for the copy.

    Returns:
        `target`.
    """
    from deepspeed.checkpoint import ds_to_universal

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not target.exists():
            with new_directory(target) as folder:
                for tag in tags:
                    settings = argparse.Namespace(
                        input_folder=str(checkpoint / tag),
                        output_folder=str(folder / tag),
                        num_extract_workers=1,
                        num_merge_workers=1,
                        keep_temp_folder=False,
                        strict=True,
                        inject_missing_state=False,
                    )
                    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                        ds_to_universal.main(settings)
    return target
