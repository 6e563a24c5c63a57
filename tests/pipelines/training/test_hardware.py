import pytest
import torch

from pipelines.training.hardware import memory_gib, named_peak_flops, peak_flops, uses_tf32


@pytest.mark.parametrize(
    ("name", "bf16", "tf32", "fp32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 156e12, 19.5e12),
        ("A100-PCIE-40GB", 312e12, 156e12, 19.5e12),
        ("NVIDIA A100 80GB PCIe", 312e12, 156e12, 19.5e12),
        ("NVIDIA H100 80GB HBM3", 989.5e12, 494.5e12, 67e12),
        ("NVIDIA H100 PCIe", 756.5e12, 378e12, 51e12),
        ("NVIDIA H200", 989.5e12, 494.5e12, 67e12),
        ("NVIDIA L40S", 362.05e12, 183e12, 91.6e12),
        ("NVIDIA B200", 2250e12, 1100e12, 75e12),
    ],
)
def test_known_gpus_have_their_data_sheet_s_figures(
    name: str, bf16: float, tf32: float, fp32: float
) -> None:
    assert named_peak_flops(name, "bf16", tf32=False) == pytest.approx(bf16)
    assert named_peak_flops(name, "fp32", tf32=True) == pytest.approx(tf32)
    assert named_peak_flops(name, "fp32", tf32=False) == pytest.approx(fp32)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GH200 480GB",
        "NVIDIA GB200",
        "NVIDIA H200 MIG 1g.18gb",
        "NVIDIA H100 NVL",
        "Tesla T4",
    ],
)
def test_a_gpu_that_is_not_known_has_no_figure(name: str) -> None:
    assert named_peak_flops(name, "bf16", tf32=True) is None


def test_the_cpu_has_no_figure_but_memory() -> None:
    assert peak_flops(torch.device("cpu"), "fp32") is None
    before = memory_gib(torch.device("cpu"))
    held = torch.ones(64, 2**20)
    assert memory_gib(torch.device("cpu")) - before == pytest.approx(0.25, abs=0.05)
    del held


def test_tf32_is_used_as_torch_is_configured() -> None:
    convolution, product = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = convolution.fp32_precision, product.fp32_precision
    try:
        for pair, expected in {
            ("ieee", "ieee"): False,
            ("tf32", "ieee"): True,
            ("ieee", "tf32"): True,
        }.items():
            convolution.fp32_precision, product.fp32_precision = pair
            assert uses_tf32() is expected
    finally:
        convolution.fp32_precision, product.fp32_precision = before
