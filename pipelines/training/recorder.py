"""Records the values, pictures and files of a run, by step."""

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
    """A place for the records of a run.

    No method raises, and none but `close` waits: a record must neither end a run nor slow it down.
    A warning names the records that are lost.

    The steps of one name only grow. A resumed run repeats the steps since its checkpoint, and the
    records that exist for these steps stay as they are.
    """

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Records the values of one step, by name."""

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        """Records a picture as PNG. A slash in its name makes a folder."""

    def file(self, path: Path, folder: str) -> None:
        """Copies a local file into the run's `folder`. The file must not change any more."""

    def close(self) -> None:
        """Ends the recording. It may take a while; a second call does nothing."""


class Recorders:
    """Several recorders, each of which gets every record."""

    def __init__(self, *recorders: Recorder) -> None:
        self._recorders = recorders

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        for recorder in self._recorders:
            recorder.metrics(values, step)

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        for recorder in self._recorders:
            recorder.picture(name, image, step)

    def file(self, path: Path, folder: str) -> None:
        for recorder in self._recorders:
            recorder.file(path, folder)

    def close(self) -> None:
        for recorder in self._recorders:
            recorder.close()


def picture_path(name: str, step: int) -> PurePosixPath:
    """Returns the path of a picture among a run's files, one for each name and step."""
    return PurePosixPath("pictures", f"{name}-{step:06d}.png")


class JSONLinesRecorder:
    """A file with one JSON object per call, for runs without MLflow.

    A line is `{"time": …, "step": 10, "metrics": {"train/loss": 0.1}}`; or it has `"picture"` or
    `"file"`, with a path relative to the file's folder. JSON has neither NaN nor infinity, so null
    stands for them.

    Args:
        path: the file. An existing one is continued. A last line that a killed process left
            unfinished is removed.
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
