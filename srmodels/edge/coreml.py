"""Exports the inference path to Core ML's format, and computes the file's program with PyTorch.

Core ML itself runs on Apple's systems alone.
"""

import contextlib
import io
import json
import logging
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    logging.getLogger("coremltools").setLevel(logging.CRITICAL)  # of what it lacks on Linux
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load as load_program

from srmodels.edge.graph import example, exported_program
from srmodels.edge.mil import Program
from srmodels.edge.target import EdgeTarget, ExportSettings, Runner
from srmodels.network import SRNetwork

#: What a package consists of; the first is its table of contents.
_CONTENTS, _DATA = "Manifest.json", "Data/com.apple.CoreML"
_MODEL, _WEIGHTS = f"{_DATA}/model.mlmodel", f"{_DATA}/weights/weight.bin"
#: The key of the metadata that holds the day of the conversion.
_DATE = "com.github.apple.coremltools.conversion_date"


class CoreMlFp16(EdgeTarget):
    """A package (`.mlpackage`, a folder) of an ML program in fp16, for iOS 17 and macOS 14, or
    newer. Input and output are `x_l` and `x_h` in fp32."""

    file = f"model_fp16.mlpackage/{_CONTENTS}"
    exact = False
    simulated = True

    @property
    def files(self) -> tuple[str, ...]:
        package = Path(self.file).parent
        return self.file, *(str(package / name) for name in (_MODEL, _WEIGHTS))

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        # Core ML has neither operator.
        without = [torch.ops.aten.addcmul, torch.ops.aten.add.Tensor]
        program = exported_program(network, settings.tile, without)
        with TemporaryDirectory() as folder, _quiet():
            made = Path(folder) / "made.mlpackage"
            try:
                model = coremltools.convert(
                    program,
                    convert_to="mlprogram",
                    minimum_deployment_target=coremltools.target.iOS17,
                    compute_precision=coremltools.precision.FLOAT16,
                    outputs=[coremltools.TensorType(name="x_h", dtype=np.float32)],
                )
                # Else the file would be another one each day.
                model.user_defined_metadata.pop(_DATE, None)
                model.save(str(made))
            except Exception as error:  # Its errors are of many classes.
                raise ValueError(f"coremltools cannot convert it ({error})") from error
            if not (made / _WEIGHTS).is_file():
                raise ValueError("the network has no weights")
            _name_parts(made / _CONTENTS)
            for name in (_CONTENTS, _MODEL, _WEIGHTS):  # it writes notes for debuggers, too
                (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(made / name, path.parent / name)
        try:
            CoreMlRunner(path).run(*example(settings.tile))
        except ValueError as error:
            raise ValueError(f"what coremltools made of it cannot be checked: {error}") from error
        return {
            **{name: version(name) for name in ("torch", "coremltools")},
            "run by": "PyTorch, operator by operator, not by Core ML",
        }

    def load(self, path: Path, threads: int = 0) -> "CoreMlRunner":
        return CoreMlRunner(path)


class CoreMlRunner(Runner):
    """A loaded program, whose operators PyTorch computes, each result rounded to fp16.

    Raises:
        ValueError: the files are no such program, or it has an operator that is not known here.
    """

    def __init__(self, path: Path) -> None:
        package = path.parent
        try:
            with _quiet():
                spec = coremltools.utils.load_spec(str(package))
                weights = str((package / _WEIGHTS).parent)
                found = load_program(spec, spec.specificationVersion, weights)
            self.program = Program(found.functions["main"])
        except Exception as error:  # Its errors are of many classes.
            why = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"{path} is no program of Core ML that can be run here ({why[:200]})"
            ) from error

    def run(self, x_l: Tensor) -> Tensor:
        return self.program.run({"x_l": x_l})["x_h"]


def _name_parts(contents: Path) -> None:
    """Gives the parts of a package identifiers that are the same each time."""
    text = contents.read_text()
    entries: dict[str, Any] = json.loads(text)["itemInfoEntries"]
    for identifier, part in entries.items():
        text = text.replace(identifier, str(uuid.uuid5(uuid.NAMESPACE_URL, part["path"])))
    contents.write_text(text)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
