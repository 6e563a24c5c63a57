"""Converts and quantises for LiteRT, run by an interpreter that has litert-torch.

    python litert_tools.py convert MODEL.pt2 RESULT.tflite
    python litert_tools.py quantise MODEL.tflite RESULT.tflite RECIPE [IMAGES.npy]

litert-torch cannot be installed beside SRMill: its packages need others' older versions. So this
file uses nothing of SRMill.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def convert(model: str, result: str) -> None:
    """Writes a program of torch.export as a LiteRT model."""
    import litert_torch
    import torch

    program = torch.export.load(model)
    module: Any = program.module(check_guards=False)
    # A graph of torch.export refuses to be set to eval mode, in which it is.
    module.train = lambda mode=True: module
    litert_torch.convert(module, program.example_inputs[0]).export(result)


def quantise(model: str, result: str, name: str, images: str | None = None) -> None:
    """Writes a LiteRT model in int8.

    Args:
        name: name of a recipe of ai_edge_quantizer.
        images: a file of inputs `[N, 3, h, w]`, for recipes that calibrate.
    """
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    found = quantizer.Quantizer(model)
    found.load_quantization_recipe(getattr(recipe, name)())
    calibration = None
    if images is not None:
        [(signature, names)] = Interpreter(model).get_signature_list().items()
        [argument] = names["inputs"]
        data = [{argument: image[None]} for image in np.load(images)]
        calibration = found.calibrate({signature: data})
    found.quantize(calibration).export_model(result, overwrite=True)


if __name__ == "__main__":
    tool = convert if sys.argv[1] == "convert" else quantise
    tool(*sys.argv[2:])
    assert Path(sys.argv[3]).is_file()
    print(version("litert-torch"), version("ai-edge-quantizer"))
