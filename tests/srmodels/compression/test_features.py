"""Features are compared where networks look, and AFD learns which layers belong together."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from srmodels.compression.features import (
    AttentionBasedDistillation,
    ChannelWiseDistillation,
    attention,
    attention_transfer,
    chosen_layers,
    watched,
)
from srmodels.f2srgan.config import F2SRGANConfig
from srmodels.f2srgan.network import F2SRGAN
from srmodels.stages.distill import DistillStage


def make(trunk: str = "plain", channels: int = 8, num_blocks: int = 6) -> F2SRGAN:
    torch.manual_seed(0)
    return F2SRGAN(F2SRGANConfig(trunk=trunk, channels=channels, num_blocks=num_blocks))


def features(channels: int, seed: int = 1) -> Tensor:
    return torch.randn(3, channels, 5, 6, generator=torch.Generator().manual_seed(seed))


def test_attention_is_where_and_not_what() -> None:
    x = features(4)
    assert attention(x).shape == (3, 30)
    torch.testing.assert_close(attention(x).norm(dim=1), torch.ones(3))
    torch.testing.assert_close(attention(x), attention(7 * x.flip(1)))
    torch.testing.assert_close(
        attention(x)[1], x[1].square().mean(0).flatten() / x[1].square().mean(0).norm()
    )


def test_attention_transfer_is_the_mean_over_pairs() -> None:
    one, other, wide = features(4), features(4, 2), features(9, 3)
    assert attention_transfer([one], [one]).item() == 0
    expected = (attention(one) - attention(wide)).square().mean() / 2
    torch.testing.assert_close(attention_transfer([one, other], [wide, other]), expected)


def test_afd_is_the_papers_sum() -> None:
    torch.manual_seed(0)
    afd = AttentionBasedDistillation([4, 6], [5, 7, 8])
    student, teacher = [features(4), features(6, 2)], [features(c, c) for c in (5, 7, 8)]
    weights = afd.weights(student, teacher)
    assert weights.shape == (3, 3, 2)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 3))
    q = afd.queries[1](teacher[1].mean((2, 3)))
    k = afd.weighing[1](afd.keys[0](student[0].mean((2, 3))))
    match = (q * k).sum(-1) + afd.teacher_places[1] @ afd.student_places[0]
    other = afd.weighing[1](afd.keys[1](student[1].mean((2, 3))))
    match2 = (q * other).sum(-1) + afd.teacher_places[1] @ afd.student_places[1]
    both = torch.stack([match, match2], -1) / 128**0.5
    torch.testing.assert_close(weights[:, 1], both.softmax(-1))
    total = sum(
        weights[:, t, s] * (attention(teacher[t]) - attention(student[s])).square().mean(-1)
        for t in range(3)
        for s in range(2)
    )
    torch.testing.assert_close(afd(student, teacher), total.mean())  # type: ignore[union-attr]


def test_afd_learns_which_layers_belong_together() -> None:
    torch.manual_seed(0)
    afd = AttentionBasedDistillation([4, 4], [4, 4])
    student = [features(4), features(4, 2)]
    teacher = [student[1], student[0]]
    optimizer = torch.optim.Adam(afd.parameters(), lr=0.02)
    for _ in range(50):
        optimizer.zero_grad()
        afd(student, teacher).backward()
        optimizer.step()
    weights = afd.weights(student, teacher)
    assert (weights[:, 0, 1] > 0.9).all()
    assert (weights[:, 1, 0] > 0.9).all()


def test_channel_wise_distillation_is_the_papers_sum() -> None:
    student, teacher = [features(4), features(6, 2)], [features(4, 3), features(6, 4)]
    kl = ChannelWiseDistillation([4, 6], [4, 6], temperature=2.0)
    assert not list(kl.parameters())
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        for sample in range(3):
            for channel in range(s.shape[1]):
                p, q = ((h[sample, channel].flatten() / 2).softmax(0) for h in (t, s))
                divergence = (p * (p / q).log()).sum()
                total += 4 * divergence.item() / (3 * s.shape[1] * 2)
    assert kl(student, teacher).item() == pytest.approx(total, rel=1e-5)
    assert kl(student, student).item() == pytest.approx(0, abs=1e-6)
    # What a channel has in common everywhere says nothing of places.
    assert kl([s + 5 for s in student], student).item() == pytest.approx(0, abs=1e-5)


def test_a_convolution_brings_channels_to_the_teachers_number() -> None:
    torch.manual_seed(0)
    kl = ChannelWiseDistillation([4, 6], [4, 9])
    assert [p.shape for p in kl.parameters()] == [(9, 6, 1, 1), (9,)]
    student, teacher = [features(4), features(6, 2)], [features(4), features(9, 3)]
    optimizer = torch.optim.Adam(kl.parameters(), lr=0.05)
    found = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = kl(student, teacher)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.8 * found[0]


def test_layers_stand_evenly_in_a_network_and_the_last_is_one() -> None:
    assert chosen_layers(make(), [], "student") == {
        "generator.layers.1": 8,
        "generator.layers.3": 8,
        "generator.layers.4": 8,
        "generator.tail": 48,
    }
    assert list(chosen_layers(make(), ["generator.layers.2"], "student")) == ["generator.layers.2"]
    # What is enlarged already is not compared.
    found = chosen_layers(make("separable", num_blocks=2), [], "teacher")
    assert not any("tail" in name or "upsampler.3" in name for name in found)


def test_watched_layers_tell_what_they_returned() -> None:
    network = make()
    with watched(network, ["generator.layers.3", "generator.layers.0"]) as seen:
        network(torch.rand(1, 3, 8, 8))
    assert [s.shape for s in seen] == [(1, 8, 8, 8)] * 2
    expected = network.generator.layers[0](torch.zeros(1, 3, 8, 8))
    with watched(network, ["generator.layers.0"]) as again:
        network(torch.zeros(1, 3, 8, 8))
    assert torch.equal(again[0], expected)
    assert not any(module._forward_hooks for module in network.modules())


def stage(features: str, **options: Any) -> DistillStage:
    made = DistillStage(make(), DistillStage.Options(features=features, **options)).train()
    made.learn_from(make("separable", 12, 3))
    return made


@pytest.mark.parametrize("kind", ["at", "afd", "kl"])
def test_a_student_learns_to_look_where_its_teacher_looks(kind: str) -> None:
    made = stage(kind, teacher_weight=0.0)
    x_l, x_h = torch.rand(2, 3, 12, 12), torch.rand(2, 3, 48, 48)
    optimizer = torch.optim.Adam(made.trained_parameters(), lr=1e-3)
    found = []
    for _ in range(25):
        optimizer.zero_grad()
        losses = made(x_l, x_h, torch.arange(2))
        losses["features"].backward()
        optimizer.step()
        found.append(losses["features"].item())
    assert found[-1] < 0.8 * found[0]
    weight = {"at": 1e3, "afd": 200.0, "kl": 50.0}[kind]
    expected = losses["l1"] + weight * losses["features"]
    torch.testing.assert_close(losses["loss"], expected)


def test_what_a_comparison_learns_of_its_own_is_trained() -> None:
    groups = {group.name: group.parameters for group in stage("afd").parameter_groups()}
    assert groups.keys() == {"generator", "afd"}
    assert sum(parameter.numel() for parameter in groups["afd"]) > 4 * 128 * 128
    assert [group.name for group in stage("at").parameter_groups()] == ["generator"]
    widening = {group.name: group.parameters for group in stage("kl").parameter_groups()}
    assert widening.keys() == {"generator", "kl"}
    # Both last ones have 48 channels, to be shuffled.
    assert [p.shape[:2] for p in widening["kl"] if p.dim() == 4] == [(12, 8)] * 3
    told = DistillStage(make(), DistillStage.Options(features="kl"))
    told.learn_from(make())
    assert [group.name for group in told.parameter_groups()] == ["generator"]


def test_the_temperature_is_that_of_the_options() -> None:
    x_l, x_h, seeds = torch.rand(2, 3, 12, 12), torch.rand(2, 3, 48, 48), torch.arange(2)
    found = []
    for temperature in (1.0, 4.0):
        torch.manual_seed(0)
        options = DistillStage.Options(features="kl", kl_temperature=temperature)
        told = DistillStage(make(), options).train()
        told.learn_from(make(num_blocks=5))
        found.append(told(x_l, x_h, seeds)["features"].item())
    assert found[0] != pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": "fsp"}, "features is 'fsp': use one of none, at, afd, kl"),
        ({"features": "kl", "kl_temperature": 0.0}, "kl_temperature must be greater than 0"),
        ({"features": "kl", "student_layers": ["generator.tail"]}, "features=kl compares layer by"),
        ({"features": "at", "features_weight": -1.0}, "features_weight must be at least 0"),
        ({"features": "none", "teacher_weight": 0.0}, "teacher_weight must be above 0"),
        ({"features": "at", "student_layers": ["body"]}, "'body' is no convolution of the student"),
        ({"features": "at", "student_layers": ["generator.tail"]}, "but 1 of the student and 4"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        stage(**options)
    assert words in str(refused.value)


def test_a_teacher_without_such_layers_is_refused() -> None:
    made = DistillStage(make(), DistillStage.Options(features="at"))
    with pytest.raises(ValueError, match="the teacher has no convolutions of the LR image's size"):
        made.learn_from(nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(3, 3, 3, padding=1)))
