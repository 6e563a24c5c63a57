import os
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from pipelines import tracking
from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.job import NOT_PROMOTED
from pipelines.models.bundle import FILE_NAME, load_bundle, seal
from pipelines.models.load import fetch, load_model
from pipelines.registry import register
from pipelines.storage.files import file_sha256
from pipelines.storage.folders import new_folder
from pipelines.storage.store import open_store
from tests.conftest import ROOT, SMALL
from tests.pipelines.models.test_facts import ARTIFACT
from tests.support.bundles import make_bundle


def config_for(bundle: Path | str, *extra: str) -> Config:
    return load_config([f"recipe={SMALL}", f"bundle={bundle}", *extra])


def run_of(version: str) -> str:
    """Returns the address of the artifacts of the run that a version came of."""
    client = tracking.connect()
    run_id = client.get_model_version("small", version).run_id
    return str(client.get_run(str(run_id)).info.artifact_uri)


def aliases() -> dict[str, str]:
    client = tracking.connect()
    return {k: str(v) for k, v in client.get_registered_model("small").aliases.items()}


def test_versions_aliases_and_the_gate(tmp_path: Path) -> None:
    make_bundle(tmp_path / "first", psnr=30.0)
    make_bundle(tmp_path / "worse", psnr=29.5)
    make_bundle(tmp_path / "better", psnr=30.5)
    assert register.run(config_for(tmp_path / "first")) == "1"
    assert aliases() == {"champion": "1"}
    assert register.run(config_for(tmp_path / "worse")) == "2"
    assert aliases() == {"champion": "1"}
    assert register.run(config_for(tmp_path / "better")) == "3"
    assert aliases() == {"champion": "3", "previous": "1"}
    # The same bundle again is the same version.
    assert register.run(config_for(tmp_path / "first")) == "1"
    assert aliases() == {"champion": "3", "previous": "1"}
    tags = tracking.connect().get_model_version("small", "2").tags
    assert tags["srmill.gate"].startswith(
        "worse by psnr_y_crop4, better by none: psnr_y_crop4 -0.5"
    )
    for version, verdict in (("2", "Not promoted"), ("3", "Promoted")):
        page = mlflow.artifacts.load_text(f"{run_of(version)}/gate/decision.html")
        assert f'<p class="sentence">{verdict}</p>' in page

    config = config_for(tmp_path / "first")
    for reference, psnr in (("models:/small@champion", 30.75), ("models:/small/2", 29.75)):
        facts = load_bundle(fetch(ModelReference.parse(reference), config.mlflow)).facts
        assert facts.metrics.means()["validation/psnr_y_crop4"] == psnr
        model = load_model(ModelReference.parse(reference), config)
        assert model.provenance == facts.provenance
        version = "models:/small/3" if psnr > 30 else "models:/small/2"
        assert (str(model.version), model.parent_version) == (version, version)
    for reference in ("models:/small@nosuch", "models:/small/9", "models:/nosuch@champion"):
        with pytest.raises(UserError, match="has no model"):
            load_model(ModelReference.parse(reference), config)


def test_a_bundle_is_registered_from_a_bucket(
    tmp_path: Path, s3_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, location = make_bundle(tmp_path / "local"), f"{s3_url}/export/small"
    with pytest.raises(UserError, match=rf"there is no bundle in {location} \(no bundle\.json\)"):
        register.run(config_for(location))
    with new_folder(open_store(location), FILE_NAME, lambda: None) as folder:
        shutil.copytree(bundle.path, folder, dirs_exist_ok=True)
    config = config_for(location)
    assert register.plan(config).startswith(f"register {location} as a version of 'small'")
    assert register.run(config) == "1"
    champion = ModelReference.parse("models:/small@champion")
    assert load_bundle(fetch(champion, config.mlflow)).digest == bundle.digest

    # The same bundle on a disk is the same version.
    capsys.readouterr()
    assert register.run(config_for(bundle.path)) == "1"
    assert "is small version 1 already" in capsys.readouterr().out


def test_a_version_tells_where_it_comes_from(tmp_path: Path) -> None:
    edge = {"onnx_fp32": ARTIFACT}
    bundle = make_bundle(tmp_path / "first")
    (bundle.path / "edge").mkdir()
    (bundle.path / ARTIFACT.file).write_bytes(b"graph")
    (bundle.path / "MODEL_CARD.md").write_text("# A card")
    facts = replace(bundle.facts, edge=edge, artifacts=("onnx_fp32",), parent_version="models:/s/7")
    seal(bundle.path, facts)
    register.run(config_for(bundle.path))
    found = tracking.connect().get_model_version("small", "1")
    assert found.description == "# A card"
    sha256 = file_sha256(bundle.path / ARTIFACT.file)
    told = {name: found.tags[f"srmill.{name}"] for name in ("parent", "artifact.onnx_fp32")}
    assert told == {"parent": "models:/s/7", "artifact.onnx_fp32": sha256}
    for name in ("manifest", "config", "weights", "commit", "recipe"):
        assert found.tags[f"srmill.{name}"]


def test_promotion_can_be_forced_and_forbidden(tmp_path: Path) -> None:
    make_bundle(tmp_path / "first", psnr=30.0)
    make_bundle(tmp_path / "worse", psnr=29.5)
    register.run(config_for(tmp_path / "first", "register.promote=never"))
    assert aliases() == {}
    register.run(config_for(tmp_path / "worse", "register.promote=always"))
    assert aliases() == {"champion": "2"}


def test_a_rejected_or_held_back_version_can_be_promoted_later(tmp_path: Path) -> None:
    make_bundle(tmp_path / "first", psnr=30.0)
    make_bundle(tmp_path / "worse", psnr=29.5)
    register.run(config_for(tmp_path / "first", "register.promote=never"))
    assert register.run(config_for(tmp_path / "first")) == "1"
    assert aliases() == {"champion": "1"}
    register.run(config_for(tmp_path / "worse"))
    assert aliases() == {"champion": "1"}
    assert register.run(config_for(tmp_path / "worse", "register.promote=always")) == "2"
    assert aliases() == {"champion": "2", "previous": "1"}


def test_the_gate_decides_once_about_a_version(tmp_path: Path) -> None:
    for name, psnr in (("first", 30.0), ("worse", 29.5), ("poor", 29.0)):
        make_bundle(tmp_path / name, psnr=psnr)
    register.run(config_for(tmp_path / "first"))
    register.run(config_for(tmp_path / "worse"))
    register.run(config_for(tmp_path / "poor", "register.promote=always"))
    assert aliases() == {"champion": "3", "previous": "1"}
    # It is better than this champion. What was decided before stands all the same.
    assert register.run(config_for(tmp_path / "worse")) == "2"
    assert aliases() == {"champion": "3", "previous": "1"}
    tags = tracking.connect().get_model_version("small", "2").tags
    assert tags["srmill.gate"].startswith("worse by psnr_y_crop4, better by none")


def test_a_refused_version_ends_the_job_with_a_code_of_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "_exit", sys.exit)
    for name, psnr in (("first", 30.0), ("worse", 29.5)):
        make_bundle(tmp_path / name, psnr=psnr)

    def start(name: str, *extra: str) -> tuple[int, str]:
        arguments = [f"recipe={SMALL}", f"bundle={tmp_path / name}", *extra]
        monkeypatch.setattr("sys.argv", ["jobs/register.py", *arguments])
        try:
            runpy.run_path(str(ROOT / "jobs" / "register.py"), run_name="__main__")
        except SystemExit as ended:
            return int(str(ended.code)), capfd.readouterr().err
        return 0, capfd.readouterr().err

    assert start("first")[0] == 0
    for _ in range(2):  # The gate decides once, and says it again.
        code, told = start("worse")
        assert code == NOT_PROMOTED == 3
        assert told.startswith("not promoted: small version 2: worse by psnr_y_crop4, better by no")
        assert "Traceback" not in told
    # Whoever promotes it by hand has overruled the gate.
    assert start("worse", "action=promote", "model=models:/small/2")[0] == 0
    assert start("worse")[0] == 0
    # Not to be promoted is no refusal.
    make_bundle(tmp_path / "other", psnr=29.0)
    assert start("other", "register.promote=never")[0] == 0


def test_a_failing_registry_is_not_an_empty_one(tmp_path: Path) -> None:
    make_bundle(tmp_path / "first", psnr=30.0)
    make_bundle(tmp_path / "worse", psnr=29.5)
    register.run(config_for(tmp_path / "first"))

    def fail(*_: object) -> None:
        raise MlflowException("database is locked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "get_registered_model", fail)
        with pytest.raises(UserError, match=r"could not reach MLflow .* 'database is locked'"):
            register.run(config_for(tmp_path / "worse", "mlflow.retry_seconds=0.01"))
    assert aliases() == {"champion": "1"}
