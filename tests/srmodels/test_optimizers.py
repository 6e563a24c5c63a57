import pytest
import torch
from torch import nn

from srmodels.lion import Lion
from srmodels.optimizers import MOMENTUM, OPTIMIZERS, fit_state


def quadratic(weight: torch.Tensor) -> torch.Tensor:
    """A loss whose gradient differs in size and sign from weight to weight."""
    return (torch.tensor([3.0, -0.5, 0.01]) * (weight - 1).square()).sum()


def test_lion_follows_the_papers_algorithm() -> None:
    """Algorithm 2, number by number, in plain Python."""
    lr, beta1, beta2, decay = 0.05, 0.9, 0.99, 0.3
    weight = nn.Parameter(torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64))
    optimizer = Lion([weight], lr=lr, weight_decay=decay)
    w, m = weight.tolist(), [0.0] * 3
    slopes = [6.0, -1.0, 0.02]
    for _ in range(25):
        optimizer.zero_grad()
        quadratic(weight).backward()
        optimizer.step()
        for i in range(3):
            g = slopes[i] * (w[i] - 1)
            c = beta1 * m[i] + (1 - beta1) * g
            w[i] -= lr * ((c > 0) - (c < 0) + decay * w[i])
            m[i] = beta2 * m[i] + (1 - beta2) * g
        assert weight.tolist() == pytest.approx(w, rel=1e-6)


def test_lion_leaves_what_has_no_gradient() -> None:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = Lion(weights, lr=0.1, weight_decay=0.1)
    assert optimizer.step(lambda: float(weights[0].sum().backward() or 7.0)) == 7.0
    assert weights[0].tolist() == pytest.approx([0.89, 0.89])
    assert weights[1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_keeps_as_many_moments_as_it_says(name: str) -> None:
    weight = nn.Parameter(torch.zeros(3))
    groups = [{"params": [weight], "name": "all", "weight_decay": 0.1}]
    optimizer = OPTIMIZERS[name].create(groups, 0.1, False)
    quadratic(weight).backward()
    optimizer.step()
    kept = [value for value in optimizer.state[weight].values() if value.shape == weight.shape]
    assert len(kept) == OPTIMIZERS[name].num_moments
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0].get("momentum", MOMENTUM) == MOMENTUM == 0.9


@pytest.mark.parametrize("fused", [False, True])
def test_weights_that_loaded_one_step_counter_get_one_each(fused: bool) -> None:
    """DeepSpeed's universal checkpoints hold one, and fused kernels take fp32 alone."""
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.AdamW(weights, lr=0.1, fused=fused)
    shared = torch.tensor(4)
    for weight in weights:
        optimizer.state[weight] = {
            "step": shared,
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": torch.zeros_like(weight),
        }
    fit_state(optimizer)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    steps = [optimizer.state[weight]["step"] for weight in weights]
    assert [step.item() for step in steps] == [5, 5]
    assert {step.dtype for step in steps} == {torch.float32}
