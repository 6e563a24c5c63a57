from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.models.cost import network_cost
from pipelines.training.cost import training_cost
from srmodels.cost import crops, measure
from srmodels.layers import recompute_in_backward
from srmodels.network import SRNetwork
from srmodels.stage import ParameterGroup, Stage
from srmodels.system import load_system
from tests.conftest import SMALL

STAGES = ("autoencoder", "joint", "decoder")


class TinyNetwork(SRNetwork):
    scale, size_multiple = 1, 1

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 4, 3, padding=1)
        self.narrow = nn.Conv2d(4, 3, 1)

    def forward(self, x_l: Tensor) -> Tensor:
        x: Tensor = self.narrow(self.wide(x_l).relu())
        return x

    def inference_modules(self) -> dict[str, nn.Module]:
        return dict(self.named_children())


class TinyAttention(TinyNetwork):
    def forward(self, x_l: Tensor) -> Tensor:
        tokens = self.wide(x_l).flatten(2).transpose(1, 2).contiguous()[:, None]
        mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
        x: Tensor = self.narrow(mixed[:, 0].transpose(1, 2).unflatten(2, x_l.shape[2:]))
        return x


class TinyStage(Stage):
    @dataclass
    class Options:
        pass

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("all", list(self.network.parameters()))]

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.network(x_l) - x_h).square().mean()}


def config(*arguments: str) -> Config:
    return load_config([f"recipe={SMALL}", *arguments])


def real_stage(config: Config, name: str) -> Stage:
    torch.manual_seed(0)
    system, stage = load_system(config.system), config.stages[name]
    return system.stage(stage.kind)(system.build(config.networks), stage.options)


def test_flops_and_saved_bytes_are_those_counted_by_hand() -> None:
    stage, pixels = TinyStage(TinyNetwork(), TinyStage.Options()), 8 * 8
    found = measure(stage, crops(1, 8, 1), bf16=False, watch=[stage.network.wide])
    wide, narrow = 2 * 3 * 4 * 9, 2 * 4 * 3
    # Backward costs each convolution a forward for its weights, and one more for its input,
    # except where the input is the image.
    assert found.flops == pixels * (wide + narrow + wide + 2 * narrow)
    # x_l, the ReLU's output (which is the next layer's input) and the difference to x_h.
    assert found.saved_bytes == 4 * pixels * (3 + 4 + 3)
    assert found.largest_module_bytes == 4 * pixels * 3


@pytest.mark.parametrize("fake", [False, True])
def test_attention_counts_and_never_keeps_its_matrix(fake: bool) -> None:
    pixels = 8 * 8
    with FakeTensorMode() if fake else nullcontext():
        stage = TinyStage(TinyAttention(), TinyStage.Options())
        found = measure(stage, crops(1, 8, 1), bf16=False)
    wide, narrow, product = 2 * 3 * 4 * 9, 2 * 4 * 3, 2 * pixels * 4
    # Two products forward; backward computes the scores again and has two products for each.
    assert found.flops == pixels * (2 * wide + 3 * narrow + (2 + 5) * product)
    # As above, with tokens and their mixture for the ReLU's output, and a log-sum per token.
    assert found.saved_bytes == 4 * pixels * (3 + 4 + 4 + 1 + 3)


def test_autocast_halves_activations_and_keeps_copies_of_the_weights() -> None:
    stage, pixels = TinyStage(TinyNetwork(), TinyStage.Options()), 8 * 8
    copies = 2 * (3 * 4 * 9 + 4 * 3)
    for samples in (1, 2):
        found = measure(stage, crops(samples, 8, 1), bf16=True)
        assert found.saved_bytes == copies + samples * pixels * (2 * 3 + 2 * 4 + 4 * 3)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_measured_stage_costs_what_it_costs_on_real_tensors(name: str, precision: str) -> None:
    settings = config(f"train.precision={precision}")
    cost = training_cost(settings, name)
    stage = real_stage(settings, name)
    assert cost.flops == measure(stage, crops(1, 64, 4), bf16=precision == "bf16").flops
    saved = measure(stage, crops(3, 64, 4), bf16=precision == "bf16").saved_bytes
    # A norm's statistics are bf16 on fake tensors and fp32 on real ones.
    tolerance = 0 if precision == "fp32" else 0.01
    assert cost.activation_bytes(3) == pytest.approx(saved, rel=tolerance, abs=0)


@pytest.mark.parametrize("name", STAGES)
def test_recomputation_is_measured_with_its_largest_module(name: str) -> None:
    plain = training_cost(config(), name)
    cost = training_cost(config("train.activation_checkpointing=true"), name)
    stage = real_stage(config(), name)
    modules = stage.network.checkpointed_modules()
    largest = measure(stage, crops(2, 64, 4), bf16=False, watch=modules).largest_module_bytes
    recompute_in_backward(modules)
    real = measure(stage, crops(2, 64, 4), bf16=False)
    assert largest > 0
    assert cost.activation_bytes(2) == real.saved_bytes + largest
    assert 2 * cost.flops == real.flops
    assert plain.flops < cost.flops < 1.4 * plain.flops
    assert cost.model_flops == plain.model_flops == plain.flops


def test_recomputation_pays_where_there_are_many_blocks() -> None:
    plain = training_cost(load_config([]), "joint")
    less = training_cost(load_config(["train.activation_checkpointing=true"]), "joint")
    assert less.activation_bytes(4) < 0.6 * plain.activation_bytes(4)


def test_nothing_is_allocated() -> None:
    settings = config()
    settings.stages["decoder"].train.crop = 2**16  # x_h alone takes 48 GiB
    assert training_cost(settings, "decoder").bytes_per_sample > 2**34


def test_shapes_that_do_not_fit_are_refused_in_a_sentence() -> None:
    settings = config()
    settings.stages["joint"].train.crop = 72
    with pytest.raises(UserError) as error:
        training_cost(settings, "joint")
    message = str(error.value)
    assert message.startswith(
        "stage 'joint' cannot train on x_l [1, 3, 18, 18] and x_h [1, 3, 72, 72] ("
    )
    assert message.endswith("change stages.joint.train.crop or the networks.")
    assert "\n" not in message


def test_inference_costs_what_it_costs_on_real_tensors() -> None:
    settings = config()
    cost = network_cost(settings.system, settings.networks, settings.export.tile)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), torch.no_grad():
        counter = torch.utils.flop_counter.FlopCounterMode(display=False)
        network = load_system(settings.system).build(settings.networks)
        with counter:
            network(torch.rand(1, 3, cost.tile, cost.tile))
    assert cost.total_gmacs == counter.get_total_flops() / 2e9
    assert sum(cost.gmacs.values()) == pytest.approx(cost.total_gmacs)
    shipped = network.inference_modules().values()
    assert cost.total_parameters == sum(p.numel() for m in shipped for p in m.parameters())
