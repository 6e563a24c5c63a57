import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from srmodels import system as module
from srmodels.randomness import per_sample_normal, per_sample_uniform
from srmodels.stages import PixelStage
from srmodels.system import load_system, own_packages, system_names

CPU = torch.device("cpu")

#: Packages' names, since Python keeps what it has imported once.
NAMES = (f"own_system_{number}" for number in itertools.count())
GOOD = "from srmodels.rdsr.system import SYSTEM\n"

Writer = Callable[..., str]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """Writes a package with these modules into the current directory; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(module, "_own_packages", {})
    modules = set(sys.modules)

    def write(**modules: str) -> str:
        name = next(NAMES)
        (tmp_path / name).mkdir()
        for stem, text in ({"__init__": ""} | modules).items():
            (tmp_path / name / f"{stem}.py").write_text(text)
        return name

    yield write
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_systems_are_found_by_their_folder() -> None:
    assert "edge_sd_sr" in system_names()
    assert load_system("edge_sd_sr").name == "edge_sd_sr"


def test_an_unknown_system_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no system 'nosuch': use one of .*edge_sd_sr"):
        load_system("nosuch")


def test_a_module_of_the_current_directory_is_a_system(package: Writer, tmp_path: Path) -> None:
    name = package(network=GOOD)
    assert load_system(f"{name}.network").name == "rdsr"
    assert own_packages() == [tmp_path / name]
    load_system("rdsr")
    assert own_packages() == [tmp_path / name]
    # Processes that load data are given the path of the one that starts them.
    assert sys.path[-1] == str(tmp_path)


def test_installed_modules_come_before_the_current_directory(
    package: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = package(network="SYSTEM = None\n")
    elsewhere = tmp_path / "site-packages" / name
    elsewhere.mkdir(parents=True)
    (elsewhere / "network.py").write_text(GOOD)
    (elsewhere / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(elsewhere.parent))
    load_system(f"{name}.network")
    assert own_packages() == [elsewhere]


def refusal(name: str) -> str:
    """Returns the message for a system that cannot be used, which is one sentence."""
    with pytest.raises(ValueError, match=r"\.$") as error:
        load_system(name)
    assert error.value.__suppress_context__ or error.value.__context__ is None
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_module_that_is_not_there(package: Writer) -> None:
    assert "no system 'no_such.system' (No module named 'no_such')" in refusal("no_such.system")
    name = package()
    found = refusal(f"{name}.network")
    assert f"(No module named '{name}.network'): run the job in the folder that holds" in found


def test_a_name_without_a_dot_is_never_imported(package: Writer) -> None:
    assert "there is no system 'os': use one of edge_sd_sr" in refusal("os")
    name = package(__init__="raise AssertionError('imported')")
    assert f"there is no system '{name}'" in refusal(name)


def test_a_module_without_a_system(package: Writer) -> None:
    assert "the module 'os.path' " in refusal("os.path")
    name = package(network="SYSTEM = 3\n")
    assert f"SYSTEM in the module '{name}.network' is of type int" in refusal(f"{name}.network")


def test_a_mistake_inside_the_module_is_told_with_its_place(
    package: Writer, tmp_path: Path
) -> None:
    texts = {
        "value": ("import torch\n\nfirst = 1 / 0\n", "3: ZeroDivisionError: division by zero."),
        "library": (
            "import json\n\n\njson.loads('')\n",
            "4: json.decoder.JSONDecodeError: Expecti",
        ),
        "missing": ("import no_such\n", "1: ModuleNotFoundError: No module named 'no_such'."),
        "syntax": ("x = 1\ndef broken(:\n", "2: SyntaxError: invalid syntax."),
    }
    name = package(**{stem: text for stem, (text, _) in texts.items()})
    for stem, (_, message) in texts.items():
        place = f"{tmp_path / name / stem}.py, line {message}"
        expected = f"the system '{name}.{stem}' cannot be imported: {place}"
        assert refusal(f"{name}.{stem}").startswith(expected)


@pytest.mark.parametrize("name", ["edge_sd_sr", "f2srgan", "rdsr", "spandrel"])
def test_every_system_has_the_shared_stages(name: str) -> None:
    system = load_system(name)
    assert system.stage_kinds() == [*system.stages, "distill", "pixel", "prune", "quantize"]
    assert system.stage("pixel") is PixelStage
    with pytest.raises(ValueError, match=rf"of stage 'warp': {name} has .*quantize\."):
        system.stage("warp")


def test_a_stage_of_its_own_wins() -> None:
    class Own(PixelStage):
        pass

    system = load_system("rdsr")
    changed = replace(system, stages={**system.stages, "pixel": Own})
    assert changed.stage("pixel") is Own
    assert changed.stage_kinds().count("pixel") == 1


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    seeds = torch.tensor([5, 6, 7])
    batch = per_sample_normal(seeds, (3, 2), device=CPU)
    alone = per_sample_normal(seeds[1:2], (3, 2), device=CPU)
    assert torch.equal(batch[1:2], alone)
    assert not torch.equal(batch[0], batch[1])
    assert not torch.equal(alone, per_sample_normal(seeds[1:2], (3, 2), stream=1, device=CPU))
    assert torch.equal(
        per_sample_uniform(seeds, device=CPU)[2:], per_sample_uniform(seeds[2:], device=CPU)
    )


def test_seeds_without_values_draw_noise_without_values() -> None:
    seeds = torch.arange(3, device="meta")
    assert per_sample_normal(seeds, (2, 4), device=seeds.device).is_meta
    assert per_sample_normal(seeds, (2, 4), device=seeds.device).shape == (3, 2, 4)
    assert per_sample_uniform(seeds, device=seeds.device).is_meta
    assert per_sample_uniform(seeds, device=seeds.device).shape == (3,)
    with FakeTensorMode():
        fake = torch.arange(3)
        assert isinstance(per_sample_normal(fake, (2, 4), device=CPU), FakeTensor)
        assert per_sample_normal(fake, (2, 4), device=CPU).shape == (3, 2, 4)
        assert isinstance(per_sample_uniform(fake, device=CPU), FakeTensor)
