import torch
from torch import nn

from srmodels.meta import on_meta
from tests.conftest import SMALL, Runner


def test_layers_have_shapes_and_no_values() -> None:
    with on_meta():
        layers = [nn.Conv2d(3, 8, 3), nn.Linear(4, 5), nn.GroupNorm(2, 4), nn.BatchNorm2d(3)]
        weight = torch.empty(2, 3)
        assert nn.init.kaiming_normal_(weight) is weight
    tensors = [tensor for layer in layers for tensor in layer.state_dict().values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert layers[0].weight.shape == (8, 3, 3, 3)  # type: ignore[union-attr]


def test_tensors_with_values_are_drawn_as_ever() -> None:
    torch.manual_seed(0)
    expected = torch.empty(3).normal_()
    with on_meta():
        torch.manual_seed(0)
        drawn = torch.empty(3, device="cpu").normal_()
        filled = nn.init.constant_(torch.empty(3, device="cpu"), 2.0)
    assert torch.equal(drawn, expected)
    assert filled.tolist() == [2.0] * 3


def test_a_configuration_is_checked_without_the_compiler(run_python: Runner) -> None:
    """The import of PyTorch's compiler takes more than a second, and so would every job."""
    code = (
        "import sys; from pipelines.config.load import load_config; "
        f"load_config(['recipe={SMALL}']); print('torch._dynamo' in sys.modules)"
    )
    done = run_python("-c", code)
    assert (done.returncode, done.stdout) == (0, "False\n")
