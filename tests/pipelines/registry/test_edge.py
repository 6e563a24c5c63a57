"""The gate judges every artifact that the champion has, and each complaint names it."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.config.load import load_config
from pipelines.config.schema import GateConfig
from pipelines.models.bundle import Bundle, load_bundle, seal
from pipelines.models.facts import BundleFacts, EdgeArtifact, QualityLoss, TensorSpec
from pipelines.registry import gate, timing
from pipelines.registry.edge import judge_artifacts, tell_artifacts
from pipelines.registry.evidence import Contender
from pipelines.registry.gate import Decision
from pipelines.registry.timing import time_beside
from srmodels.edge.onnx import OnnxFp32
from srmodels.edge.target import ExportSettings
from srmodels.system import load_system
from tests.conftest import SMALL
from tests.pipelines.models.test_facts import ARTIFACT
from tests.support.bundles import make_bundle

FP32 = replace(ARTIFACT, file="edge/model_fp32.onnx", quality=QualityLoss(
    "psnr_y_crop4", 0.0, -0.01, 0.01, 16, "validation tiles"), other_losses=[])  # fmt: skip
INT8 = replace(ARTIFACT, file="edge/model_int8.onnx")
BOTH = {"onnx_fp32": FP32, "onnx_int8": INT8}


def contender(
    folder: Path,
    edge: dict[str, EdgeArtifact],
    size: int = 1000,
    psnr: float = 30.5,
    **facts: object,
) -> Contender:
    """A bundle with these artifacts, whose files have `size` bytes each."""
    bundle = make_bundle(folder, psnr=psnr)
    (folder / "edge").mkdir()
    for artifact in edge.values():
        (folder / artifact.file).write_bytes(bytes(size))
    seal(folder, replace(bundle.facts, edge=edge, **facts))  # type: ignore[arg-type]
    return Contender.of(load_bundle(folder))


@pytest.fixture
def champion(tmp_path: Path) -> Contender:
    return contender(tmp_path / "champion", BOTH, psnr=30.0)


def decide(new: Contender, old: Contender, **settings: object) -> Decision:
    return gate.decide(new, old, GateConfig(**settings))  # type: ignore[arg-type]


def worse(champion: Contender, **changes: object) -> BundleFacts:
    """The champion's facts, with another `onnx_int8`."""
    edge = champion.facts.edge | {"onnx_int8": replace(INT8, **changes)}  # type: ignore[arg-type]
    return replace(champion.facts, edge=edge)


def test_the_same_artifacts_are_good_enough_and_their_figures_are_told(
    champion: Contender, tmp_path: Path
) -> None:
    decision = decide(contender(tmp_path / "new", BOTH), champion)
    assert decision.promote
    assert decision.reason.endswith(
        "; onnx_fp32 +0% time, +0% size, 0.0000 (0.0000) psnr_y_crop4 lost; onnx_int8 +0% time, "
        "+0% size, 0.0200 (0.0200) psnr_y_crop4 lost, 0.0012 (0.0012) lpips_alex lost"
    )


def test_artifacts_that_a_simulator_ran_are_not_judged_by_time(tmp_path: Path) -> None:
    untimed = {"onnx_int8": replace(INT8, latency=None, latency_ratio=None)}
    old, new = (contender(tmp_path / name, untimed) for name in ("old", "new"))
    assert judge_artifacts(new.facts, old.facts, GateConfig(), {}, {}) == []
    [told] = tell_artifacts(new.facts, old.facts, {})
    assert told.startswith("onnx_int8 not timed, +0% size, ")
    timed = time_beside(load_bundle(tmp_path / "new"), load_bundle(tmp_path / "old"), 1)
    assert timed == {}


@pytest.mark.parametrize(
    ("edge", "reason"),
    [
        (BOTH | {"onnx_int8": replace(INT8, latency_ratio=0.8)},
         "onnx_int8 is 60% slower (gate.max_slowdown=0.25); its images: better by psnr_y_crop4"),
        (BOTH | {"onnx_int8": replace(INT8, quality=replace(INT8.quality, loss=0.7, low=0.6,
                                                            high=0.8))},
         "onnx_int8 loses 0.7000 of psnr_y_crop4 beside PyTorch, 95 % 0.6000 … 0.8000, the "
         "champion's 0.0200 (gate.max_extra_loss=2.5); its images: better by"),
        (BOTH | {"onnx_int8": replace(INT8, other_losses=[replace(INT8.other_losses[0],
                                                                  loss=0.02)])},
         "onnx_int8 loses 0.0200 of lpips_alex beside PyTorch, the champion's 0.0012 (gate.max_ex"),
        ({"onnx_int8": INT8}, "it lacks onnx_fp32, which the champion has; its images: better by"),
        ({"onnx_int8": replace(INT8, latency_ratio=0.8)},
         "it lacks onnx_fp32, which the champion has; onnx_int8 is 60% slower (gate.max_slowdown="),
    ],
    ids=["slower", "worse", "worse by LPIPS", "missing", "both"],
)  # fmt: skip
def test_a_better_model_with_a_worse_artifact_is_refused(
    champion: Contender, tmp_path: Path, edge: dict[str, EdgeArtifact], reason: str
) -> None:
    candidate = contender(tmp_path / "new", edge)
    decision = decide(candidate, champion)
    assert not decision.promote
    assert decision.reason.startswith(reason)
    generous = {"max_slowdown": 1, "max_extra_loss": 100, "allow_missing": True}
    assert decide(candidate, champion, **generous).promote


def test_a_larger_artifact_is_refused(champion: Contender, tmp_path: Path) -> None:
    candidate = contender(tmp_path / "new", BOTH, size=1200)
    decision = decide(candidate, champion)
    assert not decision.promote
    assert decision.reason.startswith(
        "onnx_fp32 is 20% larger (gate.max_growth=0.1); onnx_int8 is 20% larger (gate.max_growth="
    )
    assert decide(candidate, champion, max_growth=0.2).promote
    assert decide(contender(tmp_path / "a little", BOTH, size=1100), champion).promote


def test_a_larger_network_is_slower_although_its_artifact_keeps_up_with_it(
    champion: Contender, tmp_path: Path
) -> None:
    twice = contender(tmp_path / "twice", BOTH, gmacs=2 * champion.facts.gmacs)
    assert decide(twice, champion).reason.startswith("onnx_fp32 is 100% slower")
    # For an LR tile twice as wide, four times the multiply-adds are the same network.
    facts = {"gmacs": 4 * champion.facts.gmacs, "tile": 2 * champion.facts.tile}
    assert decide(contender(tmp_path / "wider", BOTH, **facts), champion).promote


def test_a_timing_by_turns_counts_more_than_two_exports(champion: Contender) -> None:
    slow = worse(champion, latency_ratio=5.0)
    assert judge_artifacts(slow, champion.facts, GateConfig(), {}, {"onnx_int8": 0.1}) == []
    [told] = judge_artifacts(champion.facts, champion.facts, GateConfig(), {}, {"onnx_fp32": 0.5})
    assert told == "onnx_fp32 is 50% slower (gate.max_slowdown=0.25)"


def exported(folder: Path, *settings: str) -> Bundle:
    """A bundle with a real artifact of a network that was never trained."""
    config = load_config([f"recipe={SMALL}", *settings])
    network = load_system(config.system).build(config.networks).fuse().eval()
    bundle = make_bundle(folder)
    (folder / "edge").mkdir()
    OnnxFp32().export(network, folder / FP32.file, ExportSettings(config.export.tile))
    lost = replace(ARTIFACT, file="edge/model_int8.onnx")
    (folder / lost.file).write_bytes(b"no graph")
    edge = {"onnx_fp32": FP32, "onnx_int8": lost}
    seal(folder, replace(bundle.facts, edge=edge, tile=config.export.tile))
    return load_bundle(folder)


def test_artifacts_are_timed_by_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = exported(tmp_path / "small")
    large = exported(tmp_path / "large", "networks.decoder={channels: [96], num_blocks: [4]}")
    slower = time_beside(large, small, 5)
    assert slower.keys() == {"onnx_fp32"}  # the other one does not run
    assert slower["onnx_fp32"] > 1
    assert "Not timed beside the champion's: onnx_int8 (" in capsys.readouterr().out
    assert time_beside(small, large, 5)["onnx_fp32"] < -0.5
    # On a busy machine, too, and however few turns are asked for, nothing is slower than itself.
    assert time_beside(small, exported(tmp_path / "same"), 1)["onnx_fp32"] < 0.25
    assert time_beside(make_bundle(tmp_path / "none"), small, 5) == {}


def test_what_the_interval_holds_and_what_is_new_is_no_complaint(champion: Contender) -> None:
    unsure = replace(INT8.quality, loss=0.3, low=-0.1, high=0.7)
    for better in ({"quality": unsure}, {"latency_ratio": 0.1}, {"latency_ratio": 0.62}):
        assert (
            judge_artifacts(worse(champion, **better), champion.facts, GateConfig(), {}, {}) == []
        )
    more = replace(champion.facts, edge=BOTH | {"onnx_fp16": FP32})
    assert judge_artifacts(more, champion.facts, GateConfig(), {}, {}) == []
    nan = replace(INT8.quality, loss=float("nan"), low=None, high=None)
    assert judge_artifacts(worse(champion, quality=nan), champion.facts, GateConfig(), {}, {})


def test_a_loss_that_the_model_s_gain_makes_up_for_is_no_complaint(
    champion: Contender, tmp_path: Path
) -> None:
    """0.3 dB more are lost, of 0.5 dB that the model is better by; LPIPS is not measured."""
    lossy = replace(INT8, quality=replace(INT8.quality, loss=0.32, low=0.31, high=0.33))
    edge = BOTH | {"onnx_int8": lossy}
    assert decide(contender(tmp_path / "better", edge, psnr=30.5), champion).promote
    for number, psnr in enumerate((30.2, 30.0)):
        decision = decide(contender(tmp_path / str(number), edge, psnr=psnr), champion)
        assert decision.reason.startswith("onnx_int8 loses 0.3200 of psnr_y_crop4 beside PyTorch")
    gains = {"lpips_alex": 0.05}
    blurred = replace(INT8.other_losses[0], loss=0.05)
    facts = worse(champion, other_losses=[blurred])
    assert judge_artifacts(facts, champion.facts, GateConfig(), gains, {}) == []
    assert judge_artifacts(facts, champion.facts, GateConfig(), {"lpips_alex": -0.05}, {})


def test_why_an_artifact_is_missing_is_told(champion: Contender) -> None:
    left_out = {"onnx_int8": "onnx_int8 loses 0.200 dB of psnr_y."}
    facts = replace(champion.facts, edge={"onnx_fp32": FP32}, left_out=left_out)
    [told] = judge_artifacts(facts, champion.facts, GateConfig(), {}, {})
    assert told == "it lacks onnx_int8, which the champion has (onnx_int8 loses 0.200 dB of psnr_y)"


def test_an_artifact_is_all_of_its_files(tmp_path: Path) -> None:
    edge = {
        "ncnn_fp16": replace(ARTIFACT, file="edge/model_fp16.ncnn.param"),
        "onnx_fp16": replace(ARTIFACT, file="edge/model_fp16.onnx"),
        "litert_fp32": replace(ARTIFACT, file="edge/model_fp32.tflite"),
        "onnx_fp32": FP32,
    }
    made = contender(tmp_path, edge)
    (tmp_path / "edge" / "model_fp16.ncnn.bin").write_bytes(bytes(500))
    seal(tmp_path, made.facts)
    facts = load_bundle(tmp_path).facts
    sizes = {target: sum(file.bytes for file in facts.files_of(target)) for target in edge}
    assert sizes == {
        "ncnn_fp16": 1500, "onnx_fp16": 1000, "litert_fp32": 1000, "onnx_fp32": 1000,
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 3, 32, 24), (3, 32, 24)])
def test_a_timed_tile_is_of_the_size_that_the_artifact_takes(shape: tuple[int, ...]) -> None:
    """Tiles of ncnn have no batch."""
    assert timing._tile(replace(ARTIFACT, input=TensorSpec("x", shape))).shape == (1, 3, 32, 24)
