"""Tells how fast the hardware of a run can be, and how much of its memory the run takes."""

import re
from dataclasses import dataclass

import psutil
import torch

_GIB = 2.0**30


@dataclass(frozen=True)
class _Peak:
    """Dense TFLOPS of a GPU: bf16 and TF32 on its tensor cores, fp32 without them."""

    bf16: float
    tf32: float
    fp32: float


#: Peaks by a pattern of the whole name that torch.cuda.get_device_name returns. A part of the name
#: would not do: the names of a GPU's slice (MIG), a GH200 and a GB200 contain another GPU's name.
#: They are half of the figures that NVIDIA prints with 2:4 sparsity only.
_PEAKS = {
    # "NVIDIA A100 Tensor Core GPU" data sheet; both form factors, 40 and 80 GB.
    r"(NVIDIA )?A100-(SXM4|PCIE)-[48]0GB|NVIDIA A100 80GB PCIe": _Peak(312.0, 156.0, 19.5),
    # "NVIDIA H100 Tensor Core GPU" data sheet, column SXM: 1979 and 989 with sparsity, 67.
    r"NVIDIA H100 80GB HBM3": _Peak(989.5, 494.5, 67.0),
    # The same data sheet's 2022 and 2023 editions, column PCIe: 1513 and 756 with sparsity, 51.
    r"NVIDIA H100 PCIe": _Peak(756.5, 378.0, 51.0),
    # "NVIDIA H200 Tensor Core GPU" data sheet, column SXM: 1979 and 989 with sparsity, 67.
    r"NVIDIA H200": _Peak(989.5, 494.5, 67.0),
    # "NVIDIA L40S" data sheet: 362.05 | 733 and 183 | 366 (the second with sparsity), 91.6.
    r"NVIDIA L40S": _Peak(362.05, 183.0, 91.6),
    # "NVIDIA Blackwell" data sheet, HGX B200 per GPU: 4500 and 2200 with sparsity, 75.
    r"NVIDIA B200": _Peak(2250.0, 1100.0, 75.0),
}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Returns the device's peak in FLOP/s, without sparsity; None for CPUs and unknown GPUs.

    Args:
        precision: "bf16" or "fp32". For "fp32" it is TF32's peak, where torch may use TF32 for
            convolutions (its default) or matrix products.
    """
    if device.type != "cuda":
        return None
    return named_peak_flops(torch.cuda.get_device_name(device), precision, tf32=uses_tf32())


def named_peak_flops(name: str, precision: str, *, tf32: bool) -> float | None:
    """Returns the peak in FLOP/s of the GPU with this name, or None, as `peak_flops` does.

    Args:
        tf32: whether torch may compute fp32 in TF32.
    """
    assert precision in ("bf16", "fp32")
    for pattern, peak in _PEAKS.items():
        if re.fullmatch(pattern, name):
            return 1e12 * (peak.bf16 if precision == "bf16" else peak.tf32 if tf32 else peak.fp32)
    return None


def uses_tf32() -> bool:
    """Tells whether torch may compute fp32 convolutions or matrix products in TF32."""
    convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return "tf32" in (convolution.fp32_precision, torch.backends.cuda.matmul.fp32_precision)


def memory_gib(device: torch.device) -> float:
    """Returns the memory of this process in GiB.

    On a GPU it is the most that torch has allocated so far; on a CPU, the resident set now.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    return float(psutil.Process().memory_info().rss) / _GIB
