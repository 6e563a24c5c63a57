"""The manifests are what Kubernetes and KubeRay accept, and keep to the rules of the house."""

import copy
import gzip
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

from pipelines import __version__
from pipelines.config.load import load_config
from tests.conftest import ROOT
from tests.support.jobs import keys_of, takes

FOLDER = ROOT / "infra" / "kubernetes"
SCHEMAS = Path(__file__).parent / "schemas"
#: The oldest Kubernetes that is still maintained, and the newest that the checker knows.
VERSIONS = ("1.34.0", "1.37.0")
JOBS = sorted(path.parent.name for path in (FOLDER / "jobs").glob("*/kustomization.yaml"))
JOBS.remove("base")
TARGETS = [
    "base", "schedules", "overlays/cpu", "overlays/production", *(f"jobs/{job}" for job in JOBS)
]  # fmt: skip
Manifest = dict[str, Any]


def files() -> list[Path]:
    """The manifests as they stand in the folder, without the lists of them."""
    return sorted(p for p in FOLDER.rglob("*.yaml") if p.name != "kustomization.yaml")


def manifests(path: Path) -> list[Manifest]:
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


@cache
def rendered(target: str) -> list[Manifest]:
    """Returns what `kubectl apply -k` would send."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        [program, "kustomize", FOLDER / target], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # such as the name of a field that goes
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def check(manifest: Manifest) -> None:
    """Raises if Kubernetes or KubeRay would refuse a manifest, or drop a field of it."""
    if manifest["apiVersion"].startswith("ray.io/"):
        kuberay(manifest["kind"]).validate(manifest)
        return
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


@cache
def kuberay(kind: str) -> jsonschema.Draft202012Validator:
    """Returns the checker of a resource of KubeRay's."""
    packed = (SCHEMAS / f"{kind}.json.gz").read_bytes()
    return jsonschema.Draft202012Validator(strict(json.loads(gzip.decompress(packed))))


def strict(schema: Any) -> Any:
    """The schema, which Kubernetes reads so that it drops what it does not name, without more."""
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, value in schema.items():
        if key == "properties":
            found[key] = {name: strict(each) for name, each in value.items()}
        elif key in ("anyOf", "oneOf", "allOf"):
            found[key] = [strict(each) for each in value]
        else:
            found[key] = strict(value)
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
        if {"apiVersion", "kind", "metadata", "spec"} <= found["properties"].keys():
            found["properties"]["metadata"] = {"type": "object"}
    return found


def pods(node: Any) -> Iterator[Manifest]:
    """Every pod's spec in a manifest."""
    return (found["spec"] for found in templates(node))


def templates(node: Any) -> Iterator[Manifest]:
    """Every pod's template in a manifest."""
    if isinstance(node, dict):
        if isinstance(node.get("spec"), dict) and "containers" in node["spec"]:
            yield node
        for value in node.values():
            yield from templates(value)
    elif isinstance(node, list):
        for value in node:
            yield from templates(value)


by_file = pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(FOLDER)))
by_target = pytest.mark.parametrize("target", TARGETS)


@by_target
def test_kubernetes_takes_what_is_rendered(target: str) -> None:
    found = rendered(target)
    assert found
    for manifest in found:
        check(manifest)
        broken_rules(manifest)


def test_the_ray_cron_job_is_taken_as_it_stands() -> None:
    [manifest] = manifests(FOLDER / "schedules" / "raycronjob.yaml")
    check(manifest)
    broken_rules(manifest)


@by_file
def test_kubernetes_takes_each_file(path: Path) -> None:
    """Also where there is no kubectl that renders."""
    for manifest in manifests(path):
        check(manifest)


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("RayCluster", ("spec", "enableInTreeAutoscalling")),
        ("RayCluster", ("spec", "headGroupSpec", "template", "spec", "priorityClas")),
        ("Deployment", ("spec", "template", "spec", "containers", 0, "imagePulPolicy")),
    ],
)
def test_the_check_sees_a_misspelt_field(kind: str, place: tuple[Any, ...]) -> None:
    all_of_base = [m for path in (FOLDER / "base").glob("*.yaml") for m in manifests(path)]
    manifest = next(copy.deepcopy(each) for each in all_of_base if each.get("kind") == kind)
    check(manifest)
    node: Any = manifest
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = "x"
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(manifest)


def broken_rules(manifest: Manifest) -> None:
    """Asserts the rules of the house: no root, no `latest`, limits, no secret."""
    assert manifest["kind"] not in ("Secret", "PersistentVolumeClaim")
    for pod in pods(manifest):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] >= 1000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        names = {volume["name"] for volume in pod.get("volumes", ())}
        for volume in pod.get("volumes", ()):
            assert volume.keys() & {"emptyDir", "configMap"}, volume
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", container["image"]), container["image"]
            inner = container["securityContext"]
            assert inner["allowPrivilegeEscalation"] is False
            assert inner["readOnlyRootFilesystem"] is True
            assert inner["capabilities"] == {"drop": ["ALL"]}
            asked, most = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory"} <= asked.keys()
            assert {"cpu", "memory"} <= most.keys()
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= names
            for variable in container.get("env", ()):
                secret = re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|WEBHOOK", variable["name"])
                assert not (secret and "value" in variable), variable["name"]
        mounted = pod.get("automountServiceAccountToken", True)
        # KubeRay's own account for the autoscaler, and nobody else's.
        assert not mounted or (
            "ray-head" in str(pod["containers"]) and "serviceAccountName" not in pod
        )
    text = yaml.safe_dump(manifest)
    assert not re.search(r"://[^/\s:]+:[^/\s@]+@", text), "an address holds a password"


def base() -> list[Manifest]:
    return rendered("base")


def test_everything_is_denied_but_what_is_named() -> None:
    policies = {m["metadata"]["name"]: m["spec"] for m in base() if m["kind"] == "NetworkPolicy"}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
            assert rule.get("from") or rule.get("to"), f"{name} is open to everybody"
            for place in rule.get("to", ()):
                # The cloud's metadata, where a machine's own credentials are.
                assert "ipBlock" not in place or "169.254.0.0/16" in place["ipBlock"]["except"]
    outside = [
        place
        for spec in policies.values()
        for rule in spec.get("ingress", ())
        for place in rule["from"]
        if "ipBlock" in place
    ]
    assert not outside  # Only what runs in the cluster: the ingress brings in the rest.


def test_every_pod_is_selected_by_a_policy_and_every_policy_selects_one() -> None:
    """KubeRay adds `ray.io/is-ray-node` to the pods of a cluster."""
    documents = [*base(), *rendered("schedules"), *rendered("jobs/stage1")]
    documents += manifests(FOLDER / "schedules" / "raycronjob.yaml")
    labels = [dict(t["metadata"]["labels"]) for each in documents for t in templates(each)]
    for found in labels:
        if found["app.kubernetes.io/name"].startswith("ray-"):
            found["ray.io/is-ray-node"] = "yes"
    chosen = {
        m["metadata"]["name"]: m["spec"]["podSelector"].get("matchLabels", {})
        for m in documents
        if m["kind"] == "NetworkPolicy"
    }
    own = {name: wanted for name, wanted in chosen.items() if wanted}
    for found in labels:
        assert any(wanted.items() <= found.items() for wanted in own.values()), found
    for name, wanted in own.items():
        assert any(wanted.items() <= found.items() for found in labels), name
    budgets = [m["spec"]["selector"]["matchLabels"] for m in documents if "Budget" in m["kind"]]
    assert len(budgets) == 2
    for wanted in budgets:
        assert any(wanted.items() <= found.items() for found in labels), wanted


def test_names_lead_to_what_is_there() -> None:
    documents = [*base(), *rendered("schedules"), *rendered("jobs/stage1")]
    documents += manifests(FOLDER / "schedules" / "raycronjob.yaml")
    there = {(m["kind"], m["metadata"]["name"]) for m in documents}
    for document in documents:
        for pod in pods(document):
            if "serviceAccountName" in pod:
                assert ("ServiceAccount", pod["serviceAccountName"]) in there
            if "priorityClassName" in pod:
                assert ("PriorityClass", pod["priorityClassName"]) in there
    services = {name for kind, name in there if kind == "Service"} | {"ray-head-svc"}
    assert ("RayCluster", "ray") in there  # so KubeRay makes ray-head-svc, and the secret ray
    [ingress] = [m for m in documents if m["kind"] == "Ingress"]
    for rule in ingress["spec"]["rules"]:
        [path] = rule["http"]["paths"]
        assert path["backend"]["service"]["name"] in services
        assert any(rule["host"] in tls["hosts"] for tls in ingress["spec"]["tls"])
    text = yaml.safe_dump_all(documents)
    assert set(re.findall(r"http://([\w-]+):\d+", text)) <= services


def test_the_secrets_are_those_that_the_page_tells_of() -> None:
    text = "".join(path.read_text() for path in files())
    found = set(re.findall(r"secretRef:\s+name: ([\w-]+)", text))
    found |= set(re.findall(r"secretKeyRef:\s+name: ([\w-]+)", text))
    assert found == {"srmill", "srmill-mlflow", "ray"}
    page = (ROOT / "docs" / "operations.md").read_text()
    for name in ("srmill", "srmill-mlflow"):
        assert f"create secret generic {name} " in page


def test_versions_are_those_of_this_checkout() -> None:
    [cluster] = manifests(FOLDER / "base" / "ray.yaml")
    assert cluster["spec"]["rayVersion"] == ray.__version__
    tags = set()
    for path in FOLDER.rglob("*.yaml"):
        tags |= set(re.findall(r"newTag: (\S+)", path.read_text()))
        tags |= set(re.findall(r"image: \S+?:(\S+)", path.read_text()))
    assert tags == {__version__, f"{__version__}-cuda"}


@pytest.mark.parametrize("job", JOBS)
def test_each_job_takes_the_settings_of_its_manifest(job: str) -> None:
    patches = yaml.safe_load((FOLDER / "jobs" / job / "kustomization.yaml").read_text())["patches"]
    [entry] = [
        each["value"]
        for each in yaml.safe_load(patches[0]["patch"])
        if each["path"] == "/spec/entrypoint"
    ]
    program, *settings = shlex.split(entry)
    assert program == f"/opt/srmill/jobs/{job}.py"
    path = ROOT / "jobs" / f"{job}.py"
    assert path.is_file()
    config = load_config(settings)
    keys = keys_of(path)
    assert all(takes(keys, setting.partition("=")[0]) for setting in settings)
    places = (config.data, config.run.storage, config.output)
    # Nothing that lasts is on a node.
    told = [each.partition("=")[0] for each in settings]
    assert all(
        str(place).startswith("s3://")
        for key, place in zip(("data", "run.storage", "output"), places, strict=True)
        if key in told
    )


def test_every_job_has_a_manifest() -> None:
    assert sorted(path.stem for path in (ROOT / "jobs").glob("*.py")) == JOBS
