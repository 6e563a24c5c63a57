"""Programs of Core ML's language, computed by PyTorch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

coremltools = pytest.importorskip("coremltools", reason="pip install -e '.[coreml]'")
mb = pytest.importorskip("coremltools.converters.mil").Builder
mil = pytest.importorskip("srmodels.edge.mil")

SHAPE = (1, 4, 6, 8)
Make = Callable[[Any], Any]
WEIGHT = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(1))
VECTOR = torch.rand(4, generator=torch.Generator().manual_seed(2)) + 0.5
VALUES = VECTOR.numpy()


def program(make: Make) -> Any:
    """Returns the program of a function of `x_l` `[1, 4, 6, 8]`, in fp32."""
    spec, version = mb.TensorSpec(shape=SHAPE), coremltools.target.iOS17

    @mb.program(input_specs=[spec], opset_version=version)  # type: ignore[untyped-decorator]
    def made(x_l: Any) -> Any:
        return make(x_l)

    return mil.Program(made.functions["main"])


def image() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda x: mb.conv(
                x=x, weight=WEIGHT.numpy(), pad_type="custom", pad=[1, 0, 2, 1],
                strides=[2, 1], groups=2,
            ),
            lambda x: F.conv2d(F.pad(x, (2, 1, 1, 0)), WEIGHT, stride=(2, 1), groups=2),
        ),
        (lambda x: mb.gelu(x=x, mode="EXACT"), F.gelu),
        (
            lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
            lambda x: F.gelu(x, approximate="tanh"),
        ),
        (lambda x: mb.leaky_relu(x=x, alpha=0.3), lambda x: F.leaky_relu(x, 0.3)),
        (lambda x: mb.prelu(x=x, alpha=VALUES), lambda x: F.prelu(x, VECTOR)),
        (
            lambda x: mb.batch_norm(
                x=x, mean=VALUES, variance=VALUES, gamma=VALUES, beta=VALUES, epsilon=0.1
            ),
            lambda x: F.batch_norm(x, VECTOR, VECTOR, VECTOR, VECTOR, eps=0.1),
        ),
        (
            lambda x: mb.layer_norm(x=x, axes=[-1], epsilon=0.1),
            lambda x: F.layer_norm(x, (8,), eps=0.1),
        ),
        (lambda x: mb.split(x=x, split_sizes=[1, 3], axis=1)[1], lambda x: x[:, 1:]),
        (lambda x: mb.split(x=x, num_splits=2, axis=3)[0], lambda x: x[..., :4]),
        (
            lambda x: mb.concat(values=mb.split(x=x, num_splits=2, axis=2)[::-1], axis=2),
            lambda x: x.roll(3, 2),
        ),
        (
            lambda x: mb.upsample_bilinear(
                x=x, scale_factor_height=2.0, scale_factor_width=3.0, align_corners=False
            ),
            lambda x: F.interpolate(x, scale_factor=(2, 3), mode="bilinear", align_corners=False),
        ),
        (
            lambda x: mb.upsample_nearest_neighbor(
                x=x, scale_factor_height=2.0, scale_factor_width=3.0
            ),
            lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3),
        ),
        (lambda x: mb.pixel_shuffle(x=x, upscale_factor=2), lambda x: F.pixel_shuffle(x, 2)),
        (
            lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)),
            lambda x: F.pixel_unshuffle(x, 2),
        ),
        (lambda x: mb.matmul(x=x, y=x, transpose_y=True), lambda x: x @ x.mT),
        (lambda x: mb.softmax(x=x, axis=1), lambda x: x.softmax(1)),
        (
            lambda x: mb.reduce_mean(x=x, axes=[2, 3], keep_dims=True),
            lambda x: x.mean((2, 3), True),
        ),
        (lambda x: mb.transpose(x=x, perm=[0, 2, 3, 1]), lambda x: x.permute(0, 2, 3, 1)),
        (lambda x: mb.reshape(x=x, shape=[4, 48]), lambda x: x.reshape(4, 48)),
        (lambda x: mb.expand_dims(x=x, axes=[0, 2]), lambda x: x[None, :, None]),
        (lambda x: mb.clip(x=x, alpha=-0.5, beta=0.25), lambda x: x.clamp(-0.5, 0.25)),
        (lambda x: mb.real_div(x=x, y=4.0), lambda x: x / 4),
        (lambda x: mb.silu(x=mb.square(x=x)), lambda x: F.silu(x * x)),
        (lambda x: mb.maximum(x=x, y=mb.tanh(x=x)), lambda x: torch.maximum(x, x.tanh())),
    ],
)  # fmt: skip
def test_operators_compute_what_pytorch_does(
    make: Make, expected: Callable[[Tensor], Tensor]
) -> None:
    [result] = program(make).run({"x_l": image()}).values()
    torch.testing.assert_close(result, expected(image()), rtol=1e-5, atol=1e-5)


def test_results_are_rounded_as_the_program_says() -> None:
    [result] = program(lambda x: mb.cast(x=x, dtype="fp16")).run({"x_l": image()}).values()
    assert torch.equal(result, image().half().float())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda x: mb.sin(x=x), "operators that are not known here: sin"),
        (lambda x: mb.cast(x=x, dtype="int32"), "results of types that are not known here: int32"),
    ],
)
def test_what_is_not_known_is_refused(make: Make, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        program(make)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: mb.conv(x=x, weight=WEIGHT.numpy(), pad_type="same", groups=2),
        lambda x: mb.upsample_bilinear(x=x, align_corners=True),
        lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
        lambda x: mb.layer_norm(x=x, axes=[1, 2, 3]),
    ],
)
def test_a_setting_that_is_not_known_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="not known here"):
        program(make).run({"x_l": image()})
