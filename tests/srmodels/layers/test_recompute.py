import copy

import pytest
import torch

from pipelines.config.load import load_config
from srmodels.edge_sd_sr.system import SYSTEM
from srmodels.layers import recompute_in_backward
from srmodels.stage import Stage
from tests.conftest import SMALL


def make_stage(kind: str) -> Stage:
    torch.manual_seed(0)
    network = SYSTEM.build(load_config([f"recipe={SMALL}", "networks.teacher=true"]).networks)
    return SYSTEM.stages[kind](network, SYSTEM.stages[kind].Options())


def loss_and_saved_bytes(stage: Stage) -> tuple[torch.Tensor, int]:
    generator = torch.Generator().manual_seed(0)
    x_l = torch.rand(2, 3, 16, 16, generator=generator)
    x_h = torch.rand(2, 3, 64, 64, generator=generator)
    storages = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = stage(x_l, x_h, torch.arange(2))["loss"]
    loss.backward()
    return loss.detach(), sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("kind", sorted(SYSTEM.stages))
def test_recomputing_saves_memory_and_changes_no_bit_of_loss_and_gradients(kind: str) -> None:
    plain = make_stage(kind)
    recomputed = copy.deepcopy(plain)
    recompute_in_backward(recomputed.network.checkpointed_modules())
    loss, saved = loss_and_saved_bytes(plain)
    same_loss, fewer = loss_and_saved_bytes(recomputed)
    assert torch.equal(same_loss, loss)
    assert fewer < saved
    gradients = dict(plain.named_parameters())
    assert any(p.grad is not None for p in gradients.values())
    for name, parameter in recomputed.named_parameters():
        expected = gradients[name].grad
        assert (parameter.grad is None) == (expected is None), name
        assert expected is None or torch.equal(parameter.grad, expected), name


def test_weights_keep_their_names_and_values() -> None:
    stage = make_stage("joint")
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    recompute_in_backward(stage.network.checkpointed_modules())
    after = stage.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_module_is_not_wrapped_twice() -> None:
    modules = make_stage("joint").network.checkpointed_modules()
    recompute_in_backward(modules)
    with pytest.raises(AssertionError, match="is recomputed already"):
        recompute_in_backward(modules)
