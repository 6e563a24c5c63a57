"""Networks and stages from a configuration: with weights, and with shapes alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.models.build import build_network, build_trained, network_on_meta, stage_on_meta
from srmodels.network import SRNetwork
from srmodels.system import load_system
from tests.conftest import SMALL

RDSR = Path(SMALL).with_name("small_rdsr.yaml")


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config([f"recipe={SMALL}", "stages.decoder.networks.decoder.channels=[16]"])


def random_network(config: Config) -> SRNetwork:
    torch.manual_seed(3)
    return load_system(config.system).build(config.networks).eval()


def same_picture(one: SRNetwork, other: SRNetwork) -> bool:
    x_l = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.allclose(one(x_l), other(x_l), atol=1e-5)


def test_a_network_is_built_from_the_weights_that_ship(config: Config) -> None:
    network = random_network(config)
    built = build_network(config, network.inference_state_dict())
    assert same_picture(built, network)
    assert not built.training
    assert built.decoder.layers[0].weight.is_contiguous(  # type: ignore[union-attr,index]
        memory_format=torch.channels_last
    )


def test_weights_of_other_networks_are_refused(config: Config) -> None:
    weights: dict[str, Tensor] = random_network(config).inference_state_dict()
    weights.pop(next(iter(weights)))
    with pytest.raises(UserError, match=r"do not fit the network: 1 tensors differ.*export again"):
        build_network(config, weights)


def test_a_run_has_more_weights_than_ship(config: Config) -> None:
    network = random_network(config)
    assert network.state_dict().keys() > network.inference_state_dict().keys()
    assert same_picture(build_trained(config, network.state_dict()), network)


def test_the_branches_of_a_run_are_fused() -> None:
    config = load_config([f"recipe={RDSR}", "networks.decoder.conv=ecb"])
    network = random_network(config)
    built = build_trained(config, network.state_dict())
    assert built.fused
    assert not network.fused
    assert same_picture(built, network)
    again = build_network(config, built.inference_state_dict())
    assert same_picture(again, network)


def test_networks_and_stages_on_meta_have_no_values(config: Config) -> None:
    network = network_on_meta(config.system, config.networks)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    real = random_network(config).state_dict()
    assert {n: w.shape for n, w in network.state_dict().items()} == {
        n: w.shape for n, w in real.items()
    }
    stage = stage_on_meta(config, "joint")
    assert stage.training
    assert stage.teacher is None
    assert all(parameter.is_meta for parameter in stage.parameters())


def test_a_stage_has_the_networks_of_its_own(config: Config) -> None:
    widths = {
        name: stage_on_meta(config, name).network.state_dict()["decoder.layers.0.weight"].shape[0]
        for name in ("joint", "decoder")
    }
    assert widths == {"joint": 8, "decoder": 16}
