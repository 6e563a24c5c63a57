"""Real engines with each optimizer: one step and many, a resumed run, and what cannot resume."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines.config.load import load_config
from pipelines.config.schema import TrainConfig
from pipelines.errors import UserError
from pipelines.training.local import join_group
from pipelines.training.worker import prepare_deepspeed
from srmodels.lion import Lion
from srmodels.optimizers import OPTIMIZERS
from tests.conftest import SMALL
from tests.pipelines.training.test_engine import BATCH, CPU, Generator, Pair, batch

PLAIN = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.2),
    "lion": lambda p: Lion(p, lr=0.1, weight_decay=0.2),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.2),
}


def settings(**changes: Any) -> TrainConfig:
    return TrainConfig(
        batch_size=BATCH, learning_rate=0.1, weight_decay=0.2, warmup_steps=0,
        schedule="constant", gradient_clip=1e9, **changes,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _group() -> None:
    join_group(cuda=False)
    prepare_deepspeed(CPU)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_steps_as_plain_pytorch_would(name: str, zero_stage: int) -> None:
    from pipelines.training.engine import Engine

    torch.manual_seed(0)
    network, plain = Pair(), Pair()
    plain.load_state_dict(network.state_dict())
    engine = Engine(Generator(network, None), settings(optimizer=name, zero_stage=zero_stage), CPU)
    stage = Generator(plain, None)
    optimizer = PLAIN[name](plain.generator.parameters())
    for step in range(3):
        data = batch(step, 0, 1)
        assert engine.step(data, step).applied
        optimizer.zero_grad()
        stage(data.x_l / 255, data.x_h / 255, data.seeds)["loss"].backward()
        optimizer.step()
    found = engine.weights()
    for key, weight in plain.generator.state_dict(prefix="generator.").items():
        torch.testing.assert_close(found[key], weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize("zero_stage", [0, 2])
@pytest.mark.parametrize("name", ["lion", "sgd"])
def test_resuming_is_bit_identical(name: str, zero_stage: int, tmp_path: Path) -> None:
    from pipelines.training.engine import Engine

    def engine(weights: dict[str, torch.Tensor] | None = None) -> Engine:
        torch.manual_seed(0)
        network: nn.Module = Pair()
        if weights is not None:
            network.load_state_dict(weights)
        train = settings(optimizer=name, zero_stage=zero_stage)
        return Engine(Generator(network, None), train, CPU)  # type: ignore[arg-type]

    whole = engine()
    for step in range(4):
        if step == 2:
            whole.save(tmp_path)
            save_file(whole.weights(), tmp_path / "model.safetensors")
        whole.step(batch(step, 0, 1), step)
    again = engine(load_file(tmp_path / "model.safetensors"))
    again.load(tmp_path)
    for step in (2, 3):
        again.step(batch(step, 0, 1), step)
    expected = whole.weights()
    assert all(torch.equal(value, expected[key]) for key, value in again.weights().items())


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_a_run_that_changes_its_memory_format_goes_on_as_it_would_have(
    name: str, before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fused kernels, which GPUs use, read a moment in the order of its weight's memory."""
    from pipelines.training.engine import Engine

    kind = OPTIMIZERS[name]
    fused = replace(kind, create=lambda groups, lr, cuda: kind.create(groups, lr, True))
    monkeypatch.setitem(OPTIMIZERS, name, fused)

    def engine(weights: dict[str, torch.Tensor] | None, channels_last: bool) -> Engine:
        torch.manual_seed(0)
        network: nn.Module = Pair()
        network.generator = nn.Conv2d(3, 3, 3, padding=1)  # of a kernel that has an order
        if weights is not None:
            network.load_state_dict(weights)
        train = settings(optimizer=name, channels_last=channels_last)
        return Engine(Generator(network, None), train, CPU)  # type: ignore[arg-type]

    whole = engine(None, before)
    for step in range(4):
        if step == 2:
            whole.save(tmp_path)
            save_file(whole.weights(), tmp_path / "model.safetensors")
        whole.step(batch(step, 0, 1), step)
    again = engine(load_file(tmp_path / "model.safetensors"), not before)
    again.load(tmp_path)
    for step in (2, 3):
        again.step(batch(step, 0, 1), step)
    expected = whole.weights()
    for key, value in again.weights().items():
        torch.testing.assert_close(value, expected[key], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["lion", "sgd"])
def test_another_number_of_ranks_is_refused_where_it_cannot_work(name: str) -> None:
    from pipelines.training.build import build_engine

    class Stopped(SimpleNamespace):
        """A checkpoint of three ranks."""

        run = SimpleNamespace(name="small-joint")

        def state(self) -> Any:
            return SimpleNamespace(world_size=3)

        def live_weights(self) -> None:
            raise AssertionError("it is refused before anything is built")

    config = load_config([f"recipe={SMALL}", f"train.optimizer={name}", "train.zero_stage=1"])
    with pytest.raises(UserError) as error:
        build_engine(config, "joint", CPU, resume=Stopped())  # type: ignore[arg-type]
    assert str(error.value) == (
        "run 'small-joint' was trained by 3 workers, and under ZeRO 1 the state of "
        f"optimizer={name} cannot be shared out among 1: set train.workers=3."
    )


def test_deepspeeds_converter_knows_adams_moments_alone(tmp_path: Path) -> None:
    """`can_be_reshaped` relies on this. A converter that learns more may be used for more."""
    from pipelines.training.engine import Engine
    from pipelines.training.universal import universal_copy

    engine = Engine(Generator(Pair(), None), settings(optimizer="lion", zero_stage=1), CPU)
    engine.step(batch(0, 0, 1), 0)
    engine.save(tmp_path / "saved")
    with pytest.raises(KeyError, match="exp_avg_sq"):
        universal_copy(tmp_path / "saved", engine.tags, tmp_path / "copy")


def test_a_range_of_workers_is_refused_where_they_could_not_change() -> None:
    elastic = [f"recipe={SMALL}", "train.workers=[1,2]", "train.optimizer=lion"]
    load_config(elastic)
    load_config([*elastic, "train.zero_stage=1", "train.optimizer=adam"])
    with pytest.raises(UserError, match=r"state of optimizer=lion belongs to one number of work"):
        load_config([*elastic, "train.zero_stage=1"])
