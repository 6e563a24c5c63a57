import torch

from srmodels.transfer import to_device
from tests.support.fake_cuda import CUDA, fake_cuda


def test_no_host_waits_for_the_way_to_a_gpu() -> None:
    tensor = torch.arange(3.0)
    with fake_cuda() as waits:
        assert to_device(tensor, CUDA).device == CUDA
    assert waits == []


def test_main_memory_needs_no_copy() -> None:
    tensor = torch.arange(3.0)
    assert to_device(tensor, torch.device("cpu")) is tensor
