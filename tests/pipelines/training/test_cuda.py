"""Faults that only a GPU shows, looked for on one without values (`tests.support.fake_cuda`).

Each fault is planted first, since a search that finds nothing proves nothing.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from pipelines.config.load import load_config
from pipelines.config.schema import TrainConfig
from pipelines.data.stream import Batch
from pipelines.training.callbacks.ema import EMACallback
from pipelines.training.callbacks.guard import NonFiniteGuard
from pipelines.training.ema import EMA
from pipelines.training.worker import prepare_deepspeed
from srmodels.stage import Stage
from srmodels.system import load_system
from tests.conftest import ROOT, SMALL
from tests.support.fake_cuda import CUDA, MixedDevicesError, WrongTypeError, fake_cuda, moved
from tests.support.training import CPU, join

FP32 = torch.float32
RECIPES = {
    "edge_sd_sr": SMALL,
    "rdsr": ROOT / "tests" / "recipes" / "small_rdsr.yaml",
    "tests.systems.taught": ROOT / "tests" / "recipes" / "taught.yaml",
}
JUDGED = {"lpips_weight": 1.0, "adversarial_weight": 0.1}
OPTIONS: dict[str, dict[str, float]] = {
    "decoder": JUDGED | {"grid_weight": 1.0},
    "perceptual": JUDGED,
    "pixel": {"charbonnier_weight": 1.0, "l2_weight": 1.0, "fft_weight": 1.0},
}
STAGES = [(system, kind) for system in RECIPES for kind in load_system(system).stage_kinds()]


def on_device(*shape: int) -> Tensor:
    return torch.rand(*shape, device=CUDA)


@pytest.mark.parametrize(
    "fault",
    [
        lambda: on_device(3) + torch.rand(3),
        lambda: on_device(2, 2) @ torch.rand(2, 2),
        lambda: nn.functional.conv2d(on_device(1, 3, 8, 8), torch.rand(4, 3, 3, 3)),
        lambda: torch.cat([on_device(3), torch.rand(3)]),
        lambda: on_device(3)[torch.arange(2)],
    ],
    ids=["add", "matmul", "convolution", "cat", "index"],
)
def test_a_cpu_tensor_among_cuda_ones_is_caught(fault: Callable[[], Tensor]) -> None:
    with fake_cuda(), pytest.raises(MixedDevicesError):
        fault()


def test_a_real_tensor_among_cuda_ones_is_caught() -> None:
    real = torch.rand(3)
    with fake_cuda(), pytest.raises(MixedDevicesError):
        on_device(3) - real


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda x: torch.lerp(x, x.bfloat16(), 0.5), "aten.lerp"),
        (lambda x: torch.fft.rfft2(nn.Conv2d(3, 3, 1, device=CUDA)(x)), "BFloat16"),
    ],
    ids=["lerp", "fft"],
)
def test_a_wrong_type_under_autocast_is_caught(fault: Callable[[Tensor], Any], told: str) -> None:
    with fake_cuda(), torch.autocast("cuda", torch.bfloat16):
        x = on_device(1, 3, 8, 8)
        assert nn.Conv2d(3, 3, 1, device=CUDA)(x).dtype == torch.bfloat16
        with pytest.raises(RuntimeError, match=told):
            fault(x)


def test_operands_of_two_types_without_autocast_are_caught() -> None:
    with fake_cuda(), pytest.raises(WrongTypeError, match=r"aten\.mm"):
        torch.mm(on_device(2, 2), on_device(2, 2).bfloat16())


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).all()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: torch.equal(x, x),
        lambda x: torch.rand(3).to(CUDA),
        lambda x: torch.rand(3).to(CUDA, non_blocking=True),
        lambda x: torch.rand(3).pin_memory().to(CUDA),
        lambda x: torch.tensor([1.0], device=CUDA),
        lambda x: x.copy_(torch.rand(3)),
    ],
    ids=[
        "item", "float", "bool", "tolist", "cpu", "equal",
        "to", "not_pinned", "not_asynchronous", "tensor", "copy_",
    ],
)  # fmt: skip
def test_a_host_that_waits_is_caught(fault: Callable[[Tensor], Any]) -> None:
    with fake_cuda() as waits:
        x = on_device(3)
        assert waits == []
        fault(x)
    assert "test_cuda.py, <lambda>" in waits[0]


@pytest.mark.parametrize("fault", [torch.nonzero, lambda x: x[x > 0]], ids=["nonzero", "mask"])
def test_a_shape_that_the_host_waits_for_is_caught(fault: Callable[[Tensor], Any]) -> None:
    with fake_cuda(), pytest.raises(DynamicOutputShapeException):
        fault(on_device(3))


def test_what_does_not_wait_is_not_caught() -> None:
    seeds = torch.arange(3)
    with fake_cuda() as waits:
        x = torch.rand(3).pin_memory().to(CUDA, non_blocking=True)
        x = x * 2 + torch.full((3,), 1.0, device=CUDA)
        assert [int(seed) for seed in seeds] == [0, 1, 2]
        assert float(torch.rand(())) == 1
    assert x.device == CUDA
    assert waits == []


def make_stage(system_name: str, kind: str) -> Stage:
    """A stage with all its losses, on the CPU, with values."""
    system = load_system(system_name)
    settings = [f"recipe={RECIPES[system_name]}"]
    if system_name != "tests.systems.taught":
        settings.append("networks.discriminator={channels: 4}")
    if system_name == "edge_sd_sr":
        settings.append("networks.teacher=true")
    network = system.build(load_config(settings).networks)
    cls = system.stage(kind)
    stage = cls(network, cls.Options(**OPTIONS.get(kind, {}))).train()
    if cls.takes_teacher:
        stage.learn_from(system.build(load_config(settings).networks))
    return stage


class PlainEngine:
    """The part of `deepspeed.initialize` that a turn sees; DeepSpeed itself needs values."""

    def __init__(self, model: Stage, optimizer: torch.optim.Optimizer, config: dict[str, Any]):
        self.module, self.optimizer = model, optimizer
        self.autocast = "torch_autocast" in config

    def __call__(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.autocast):
            losses: dict[str, Tensor] = self.module(x_l, x_h, seeds)
        # bfloat16 would round a loss to three digits.
        assert {name: loss.dtype for name, loss in losses.items()} == dict.fromkeys(losses, FP32)
        return losses

    def backward(self, loss: Tensor) -> None:
        """Gives every weight a gradient, without a backward: torch's own needs a GPU."""
        assert (loss.device, loss.dtype, loss.requires_grad) == (CUDA, FP32, True)
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.empty_like(parameter)

    def step(self) -> None:
        self.optimizer.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    x_h = torch.randint(0, 256, (5, 64, 64, 3), dtype=torch.uint8, generator=generator)
    x_l = x_h[:, ::4, ::4].contiguous()
    seeds = torch.arange(5)
    return Batch(x_l.permute(0, 3, 1, 2), x_h.permute(0, 3, 1, 2), seeds, list("abcde"))


@pytest.fixture
def plain_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process group has nobody to talk to, and DeepSpeed is as little as a turn needs."""
    join()
    prepare_deepspeed(CPU)
    monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: None)
    monkeypatch.setattr("deepspeed.initialize", lambda **given: [
        PlainEngine(given["model"], given["optimizer"], given["config"])
    ])  # fmt: skip


@pytest.mark.parametrize(("system", "kind"), STAGES)
def test_no_stage_mixes_devices_or_types_or_lets_the_host_wait(
    system: str, kind: str, plain_engine: None
) -> None:
    """But for the norm of a turn's gradients, which decides whether the step is taken."""
    from pipelines.training.engine import Engine
    from pipelines.training.loop import train

    stage, data = make_stage(system, kind), batch()
    with fake_cuda() as waits:
        moved(stage)
        if stage.teacher is not None:
            moved(stage.teacher)
        settings = TrainConfig(batch_size=5, micro_batch_size=2, precision="bf16")
        engine = Engine(stage, settings, CUDA)
        callbacks = [NonFiniteGuard(0), EMACallback(EMA(engine.averaged, 20.0))]
        assert waits == []
        train(engine, [data, data], callbacks, first_step=0, steps=2)
    norm = "pipelines/training/turn.py, _clip: aten._local_scalar_dense.default"
    assert waits == [norm] * 2 * len(engine.turns)
