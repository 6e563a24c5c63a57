"""The file for Ray's cluster launcher is one that the launcher takes."""

from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import ROOT

PATH = ROOT / "infra" / "vms" / "aws.yaml"


def config() -> dict[str, Any]:
    found = yaml.safe_load(PATH.read_text())
    assert isinstance(found, dict)
    return found


def test_the_launcher_takes_it() -> None:
    prepared = prepare_config(config())
    validate_config(prepared)
    # What the launcher fills in itself would install another Ray.
    assert "pip install" not in yaml.safe_dump(prepared)


def test_the_launcher_sees_a_misspelt_key() -> None:
    wrong = config() | {"head_start_comands": []}
    with pytest.raises(jsonschema.ValidationError, match="head_start_comands"):
        validate_config(prepare_config(wrong))


def test_nothing_of_it_is_open() -> None:
    """Ray asks for its token, the dashboard is the head's own, and disks are encrypted."""
    found = config()
    starts = [found["head_start_ray_commands"][-1], found["worker_start_ray_commands"][-1]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert found["provider"]["use_internal_ips"] is True
    for node in found["available_node_types"].values():
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert all(d["Ebs"]["Encrypted"] for d in node["node_config"]["BlockDeviceMappings"])
    spot = found["available_node_types"]["gpu"]["node_config"]
    assert spot["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "AWS_SECRET" not in PATH.read_text()
