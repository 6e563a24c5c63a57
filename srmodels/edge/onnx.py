"""ONNX: the inference path at a fixed tile size, loaded again and compared with PyTorch."""

import logging
import statistics
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srmodels.system import SRNetwork


@dataclass(frozen=True)
class Parity:
    """How far an artifact is from PyTorch: values in [0, 1], signal-to-noise in dB."""

    max_error: float
    sqnr_db: float
    num_images: int


@dataclass(frozen=True)
class Latency:
    """Wall time of one tile on this machine's CPU."""

    median_ms: float
    min_ms: float
    max_ms: float
    runs: int
    threads: int


def export_onnx(network: SRNetwork, path: Path, tile: int, opset: int) -> None:
    """Writes `network` for LR tiles `[1, 3, tile, tile]` in [0, 1]; input `x_l`, output `x_h`.

    Raises:
        ValueError: `tile` is not a multiple of the network's `size_multiple`.
    """
    if tile % network.size_multiple:
        raise ValueError(f"the tile ({tile}) must be a multiple of {network.size_multiple}.")
    network.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.for_tile(tile),
            (torch.zeros(1, 3, tile, tile),),
            str(path),
            dynamo=True,
            external_data=False,
            opset_version=opset,
            input_names=["x_l"],
            output_names=["x_h"],
            verbose=False,
        )


class OnnxRunner:
    """Runs an ONNX file on the CPU; call it with a tensor like the network itself."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Its threads would spin after a run and take the cores from whatever comes next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # An arena would keep what a run took, for good.
        options.enable_cpu_mem_arena = False
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, x_l: Tensor) -> Tensor:
        (x_h,) = self.session.run(None, {"x_l": x_l.numpy()})
        return torch.from_numpy(np.asarray(x_h))


def check_parity(network: SRNetwork, runner: OnnxRunner, images: list[Tensor]) -> Parity:
    """Runs both on real LR tiles `[1, 3, tile, tile]` and measures the difference."""
    assert images
    network.eval()
    worst, noise, signal = 0.0, 0.0, 0.0
    with torch.inference_mode():
        for x_l in images:
            reference: NDArray[np.float64] = network(x_l).double().numpy()
            error = runner(x_l).double().numpy() - reference
            worst = max(worst, float(np.abs(error).max()))
            noise += float((error**2).sum())
            signal += float((reference**2).sum())
    sqnr = float("inf") if noise == 0 else 10 * float(np.log10(signal / noise))
    return Parity(worst, round(sqnr, 1), len(images))


def measure_latency(path: Path, x_l: Tensor, runs: int, threads: int) -> Latency:
    """Median wall time of `runs` runs after three to warm up, on `threads` threads."""
    runner = OnnxRunner(path, threads)
    times = []
    for _ in range(runs + 3):
        start = time.perf_counter()
        runner(x_l)
        times.append((time.perf_counter() - start) * 1000)
    times = times[3:]
    return Latency(
        round(statistics.median(times), 2),
        round(min(times), 2),
        round(max(times), 2),
        runs,
        threads,
    )
