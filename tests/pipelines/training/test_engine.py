"""Real DeepSpeed engines on real ranks: every ZeRO stage, uneven shares, other numbers of ranks."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipelines.config.load import load_config
from pipelines.config.schema import GroupConfig, TrainConfig
from pipelines.data.stream import Batch
from pipelines.training.local import join_group
from pipelines.training.worker import prepare_deepspeed
from srmodels.network import SRNetwork
from srmodels.stage import ParameterGroup, Stage
from tests.conftest import ROOT, SMALL
from tests.support.processes import run_ranks
from tests.support.training import CPU, join

if TYPE_CHECKING:
    from pipelines.training.engine import Engine

STEPS, SAVED = 4, 2
# Not a multiple of two ranks, nor of micro-batches of two.
BATCH = 5
RDSR = ROOT / "tests" / "recipes" / "small_rdsr.yaml"


def batch(step: int, rank: int, world_size: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    x_h = torch.randint(0, 256, (BATCH, 3, 64, 64), dtype=torch.uint8, generator=generator)
    mine = list(range(rank, BATCH, world_size))
    return Batch(
        x_l=x_h[mine, :, ::4, ::4].contiguous(),
        x_h=x_h[mine],
        seeds=torch.tensor([100 * step + i for i in mine]),
        keys=[f"{step}-{i}" for i in mine],
    )


def train_all(rank: int, world_size: int, folder: str, resume: bool) -> None:
    """Trains as one rank, with each ZeRO stage in turn. Rank 0 writes the results down."""
    join(rank, world_size, Path(folder, f"store-{world_size}-{resume}"))
    torch.set_num_threads(1)
    prepare_deepspeed(CPU)
    for zero_stage in (0, 1, 2, 3):
        place = Path(folder) / f"zero-{zero_stage}"
        told = train_one(place, zero_stage, resume=resume)
        if rank == 0:
            (place / f"{world_size}-{'again' if resume else 'first'}.json").write_text(
                json.dumps(told)
            )


def train_one(place: Path, zero_stage: int, *, resume: bool) -> dict[str, list[float]]:
    from pipelines.training.build import build_stage
    from pipelines.training.ema import EMA
    from pipelines.training.engine import Engine
    from pipelines.training.universal import universal_copy

    rank, world_size = dist.get_rank(), dist.get_world_size()
    config = load_config(
        [
            f"recipe={SMALL}",
            f"train.batch_size={BATCH}",
            f"train.zero_stage={zero_stage}",
            "train.micro_batch_size=2",
            "stages.joint.train.groups.lr_encoder.learning_rate=5e-4",
        ]
    )
    universal = resume and world_size == 1 and zero_stage > 0
    weights = load_file(place / "model.safetensors") if resume else None
    stage = build_stage(config, "joint", weights)
    engine = Engine(stage, config.stages["joint"].train, CPU, universal=universal)
    ema = EMA(engine.trained, half_life=2)
    if resume:
        engine.load(universal_copy(place, engine.tags, place / "copy") if universal else place)
        ema.load_state_dict(load_file(place / "ema.safetensors"))
    told: dict[str, list[float]] = {"losses": [], "norms": [], "rates": []}
    for step in range(SAVED if resume else 0, STEPS):
        outcome = engine.step(batch(step, rank, world_size), step)
        assert outcome.applied
        ema.update()
        loss = outcome.losses["loss"].clone()
        dist.all_reduce(loss)
        told["losses"].append(loss.item() / world_size)
        told["norms"].append(engine.gradient_norms[""])
        told["rates"] += engine.learning_rates.values()
        if step + 1 == SAVED and not resume:
            engine.save(place)
            save(place, engine.weights(), ema.state_dict())
    averaged, live = ema.state_dict(), engine.weights()
    told["sums"] = [value.double().sum().item() for value in (*live.values(), *averaged.values())]
    return told


def save(place: Path, weights: dict[str, Tensor], averaged: dict[str, Tensor]) -> None:
    if dist.get_rank() == 0:
        save_file(weights, place / "model.safetensors")
        save_file(averaged, place / "ema.safetensors")
    dist.barrier()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of two ranks, of two ranks that resumed, and of one rank that resumed."""
    folder = tmp_path_factory.mktemp("ranks")
    for zero_stage in (0, 1, 2, 3):
        (folder / f"zero-{zero_stage}").mkdir()
    for world_size, resume in ((2, False), (2, True), (1, True)):
        run_ranks(train_all, (world_size, str(folder), resume), world_size)
    return folder


def told(folder: Path, zero_stage: int, name: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = json.loads(
        (folder / f"zero-{zero_stage}" / f"{name}.json").read_text()
    )
    return found


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_resuming_with_as_many_ranks_is_bit_identical(folder: Path, zero_stage: int) -> None:
    first, again = told(folder, zero_stage, "2-first"), told(folder, zero_stage, "2-again")
    assert again["losses"] == first["losses"][SAVED:]
    assert again["norms"] == first["norms"][SAVED:]
    assert again["sums"] == first["sums"]


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_resuming_with_fewer_ranks_differs_by_rounding_alone(folder: Path, zero_stage: int) -> None:
    first, alone = told(folder, zero_stage, "2-first"), told(folder, zero_stage, "1-again")
    # Six times what fp32 resolves; with a wrong Adam step it is more than ten times as much.
    assert alone["losses"] == pytest.approx(first["losses"][SAVED:], rel=1e-6)
    assert alone["norms"] == pytest.approx(first["norms"][SAVED:], rel=1e-6)
    assert alone["rates"] == first["rates"][2 * SAVED :]
    assert alone["sums"] == pytest.approx(first["sums"], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_every_zero_stage_trains_the_same(folder: Path, zero_stage: int) -> None:
    plain, sharded = told(folder, 0, "2-first"), told(folder, zero_stage, "2-first")
    assert sharded["losses"] == pytest.approx(plain["losses"], rel=1e-6)
    assert sharded["norms"] == pytest.approx(plain["norms"], rel=1e-5)
    expected, found = (
        load_file(folder / f"zero-{stage}" / "model.safetensors") for stage in (0, zero_stage)
    )
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-5, msg=name)


def test_groups_have_their_own_rates(folder: Path) -> None:
    for zero_stage in (0, 1, 2, 3):
        unet, lr_encoder = told(folder, zero_stage, "2-first")["rates"][:2]
        assert unet == pytest.approx(2 * lr_encoder)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_weights_are_those_of_all_networks_in_full_precision(folder: Path, zero_stage: int) -> None:
    weights = load_file(folder / f"zero-{zero_stage}" / "model.safetensors")
    from pipelines.training.build import build_stage

    network = build_stage(load_config([f"recipe={SMALL}"]), "joint").network
    expected = network.state_dict()
    assert weights.keys() == expected.keys()
    assert all(weights[name].shape == expected[name].shape for name in weights)
    assert all(value.dtype == torch.float32 for value in weights.values())
    frozen = [name for name in weights if name.startswith(("decoder", "hr_encoder"))]
    assert frozen
    assert all(torch.equal(weights[name], expected[name]) for name in frozen)
    assert not torch.equal(weights["unet.conv_in.weight"], expected["unet.conv_in.weight"])


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_step_without_a_finite_gradient_is_not_taken_and_the_next_one_is(zero_stage: int) -> None:
    join_group(cuda=False)
    prepare_deepspeed(CPU)
    from pipelines.training.build import build_engine

    config = load_config([f"recipe={SMALL}", f"train.zero_stage={zero_stage}"])
    engine, _ = build_engine(config, "joint", CPU)
    before = engine.weights()
    encoder = engine.stage.network.lr_encoder
    hook = encoder.register_forward_hook(lambda module, args, out: (out[0] * torch.nan, out[1]))
    assert not engine.step(batch(0, 0, 1), 0).applied
    assert all(torch.equal(before[name], value) for name, value in engine.weights().items())
    hook.remove()
    assert engine.step(batch(1, 0, 1), 1).applied
    after = engine.weights()
    assert all(bool(torch.isfinite(value).all()) for value in after.values())
    assert any(not torch.equal(before[name], value) for name, value in after.items())


def rdsr(conv: str, zero_stage: int) -> "Engine":
    """The engine of RDSR's first stage."""
    from pipelines.training.build import build_engine

    settings = [f"networks.decoder.conv={conv}", f"train.zero_stage={zero_stage}"]
    config = load_config([f"recipe={RDSR}", f"train.batch_size={BATCH}", *settings])
    return build_engine(config, "prior", CPU)[0]


def test_a_step_that_is_not_taken_leaves_the_statistics_of_batch_norms() -> None:
    """Training would go on with those of the batch, and what ships be nothing."""
    join_group(cuda=False)
    prepare_deepspeed(CPU)
    engine = rdsr("repvgg", 0)
    before = engine.weights()
    layer = engine.stage.network.decoder.body[0]
    hook = layer.register_forward_hook(lambda module, args, out: out * torch.nan)
    assert not engine.step(batch(0, 0, 1), 0).applied
    kept = {name: before[name] for name in engine.statistics}
    assert kept
    assert all(torch.equal(kept[name], value) for name, value in engine.statistics.items())
    hook.remove()
    assert engine.step(batch(1, 0, 1), 1).applied
    for name, value in engine.statistics.items():
        assert torch.isfinite(value).all()
        assert not torch.equal(kept[name], value)


def train_rdsr(rank: int, folder: str) -> None:
    """Trains as one of two ranks, and writes down losses and statistics."""
    join(rank, 2, Path(folder, "store"))
    torch.set_num_threads(1)
    prepare_deepspeed(CPU)
    told = {}
    for conv, zero_stage in (("repvgg", 0), ("ecb", 0), ("ecb", 3)):
        engine, losses = rdsr(conv, zero_stage), []
        for step in range(STEPS):
            loss = engine.step(batch(step, rank, 2), step).losses["loss"].clone()
            dist.all_reduce(loss)
            losses.append(loss.item())
        sums = [value.double().sum().item() for value in engine.statistics.values()]
        told[f"{conv}-{zero_stage}"] = {"losses": losses, "statistics": sums}
    Path(folder, f"{rank}.json").write_text(json.dumps(told))


def test_convolutions_of_branches_train_on_two_ranks(tmp_path: Path) -> None:
    """ECB's, whose kernel reads the weights of layers that it does not call, under ZeRO 3 too."""
    run_ranks(train_rdsr, (str(tmp_path),), 2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["repvgg-0"]["statistics"]
    assert first["ecb-3"]["losses"] == pytest.approx(first["ecb-0"]["losses"], rel=1e-5)
    assert len(set(first["ecb-0"]["losses"])) == STEPS


@pytest.mark.parametrize(
    "setting", ["activation_checkpointing=true", "channels_last=true", "micro_batch_size=1"]
)
def test_what_saves_memory_or_time_trains_the_same(setting: str) -> None:
    join_group(cuda=False)
    prepare_deepspeed(CPU)
    from pipelines.training.build import build_engine

    losses = []
    for settings in ([], [f"train.{setting}"]):
        config = load_config([f"recipe={SMALL}", f"train.batch_size={BATCH}", *settings])
        engine, _ = build_engine(config, "joint", CPU)
        losses.append([engine.step(batch(s, 0, 1), s).losses["loss"].item() for s in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.slow
def test_compiled_networks_train_the_same() -> None:
    test_what_saves_memory_or_time_trains_the_same("compile=true")


class Pair(SRNetwork):
    """A generator that scales the image, and a critic that scores it."""

    scale, size_multiple = 1, 1

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 1, 1)

    def forward(self, x_l: Tensor) -> Tensor:
        x: Tensor = self.generator(x_l)
        return x

    def inference_modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator}


class Generator(Stage):
    network: Pair

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("generator", list(self.network.generator.parameters()))]

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        return {"loss": -self.network.critic(self.network(x_l)).mean()}


class Critic(Stage):
    network: Pair

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("critic", list(self.network.critic.parameters()))]

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        fake, real = self.network(x_l), x_h[..., ::4, ::4]
        return {"loss": self.network.critic(fake).mean() - self.network.critic(real).mean()}


class Adversarial(Stage):
    def parameter_groups(self) -> list[ParameterGroup]:
        return [group for turn in self.turns().values() for group in turn.parameter_groups()]

    def turns(self) -> dict[str, Stage]:
        return {
            "generator": Generator(self.network, None),
            "critic": Critic(self.network, None),
        }

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        raise AssertionError("its turns are called instead")


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_an_adversarial_stage_takes_two_backwards_as_plain_pytorch_would(zero_stage: int) -> None:
    join_group(cuda=False)
    prepare_deepspeed(CPU)
    from pipelines.training.engine import Engine

    train = TrainConfig(
        batch_size=BATCH, learning_rate=0.1, warmup_steps=0, schedule="constant",
        gradient_clip=1e9, zero_stage=zero_stage, groups={"critic": GroupConfig(learning_rate=0.2)},
    )  # fmt: skip
    torch.manual_seed(0)
    network, plain = Pair(), Pair()
    plain.load_state_dict(network.state_dict())
    engine = Engine(Adversarial(network, None), train, CPU)
    turns = [
        (Generator(plain, None), torch.optim.AdamW(plain.generator.parameters(), lr=0.1)),
        (Critic(plain, None), torch.optim.AdamW(plain.critic.parameters(), lr=0.2)),
    ]
    plain.requires_grad_(True)
    for step in range(3):
        data = batch(step, 0, 1)
        outcome = engine.step(data, step)
        for (part, optimizer), name in zip(turns, ("generator", "critic"), strict=True):
            for group in optimizer.param_groups:
                group["weight_decay"] = 0.0
            plain.zero_grad()
            loss = part(data.x_l / 255, data.x_h / 255, data.seeds)["loss"]
            loss.backward()
            optimizer.step()
            assert outcome.losses[f"{name}/loss"].item() == pytest.approx(loss.item(), abs=1e-6)
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(engine.weights()[name], weight, atol=1e-5, rtol=0)
    assert set(engine.gradient_norms) == {"generator", "critic"}
