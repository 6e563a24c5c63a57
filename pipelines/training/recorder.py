"""Where callbacks put what they measure: values, pictures and files of a run, by step."""

import json
import logging
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from PIL import Image

log = logging.getLogger(__name__)


class Recorder(Protocol):
    """Takes what a run has to show.

    No method raises or waits for anybody: a run must neither end nor slow down over what is told
    about it. What does not arrive is named in a warning.

    The steps of one name only grow: a resumed run repeats the steps since its checkpoint, and what
    is recorded for them already stays as it is.
    """

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Values of one step by name, as they are now."""

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        """A picture, kept as PNG. Slashes in a name make folders."""

    def file(self, path: Path, folder: str) -> None:
        """A copy of a local file, under the run's `folder`. The file must not change any more."""

    def close(self) -> None:
        """Nothing follows. The only method that may take a while; a second call does nothing."""


def picture_path(name: str, step: int) -> PurePosixPath:
    """Where a picture is kept among a run's files: one place for a (name, step)."""
    return PurePosixPath("pictures", f"{name}-{step:06d}.png")


class JSONLinesRecorder:
    """A file with one JSON object per call, for runs without MLflow; pictures and files beside it.

    `{"time": …, "step": 10, "metrics": {"train/loss": 0.1}}`, or `"picture"` or `"file"` with where
    it lies from there. JSON knows no NaN and no infinity: they are written as null.

    Args:
        path: the file. One that is there already is continued, without the line that a killed
            process may have left unfinished.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: dict[str, int] = {}
        self._warned = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._take_up()
        except (OSError, ValueError) as error:
            self._failed(error)

    def _take_up(self) -> None:
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        for line in map(json.loads, whole.splitlines()):
            for name in [*line.get("metrics", ()), line.get("picture")]:
                if name is not None:
                    self._last[name] = max(line["step"], self._last.get(name, -1))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        fresh = {
            name: value if math.isfinite(value) else None
            for name, value in values.items()
            if step > self._last.get(name, -1)
        }
        if fresh:
            self._last |= dict.fromkeys(fresh, step)
            self._write({"step": step, "metrics": fresh})

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        place = str(picture_path(name, step))
        if place in self._last:
            return
        self._last[place] = step
        try:
            target = self._path.parent / place
            target.parent.mkdir(parents=True, exist_ok=True)
            image.save(target)
        except OSError as error:
            return self._failed(error)
        self._write({"step": step, "picture": place})

    def file(self, path: Path, folder: str) -> None:
        target = self._path.parent / folder / path.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (target.exists() and target.samefile(path)):
                shutil.copyfile(path, target)
        except OSError as error:
            return self._failed(error)
        self._write({"file": f"{folder}/{path.name}"})

    def close(self) -> None:
        pass

    def _write(self, entry: dict[str, Any]) -> None:
        try:
            with self._path.open("a") as file:
                file.write(json.dumps({"time": time.time(), **entry}) + "\n")
        except OSError as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not self._warned:
            log.warning("cannot record to %s (%s): what fails is lost", self._path, error)
        self._warned = True
