"""Every command of README.md and docs/ is one that exists, with arguments that it takes."""

import importlib.util
import os
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click import ClickException

from infra.local.servers.caddy import PORTS
from pipelines.cli import command as srmill
from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.errors import UserError
from pipelines.triggers.hook import PATH
from srmodels import system
from tests.conftest import ROOT
from tests.docs.commands import (
    LANGUAGES,
    NEEDS,
    PAGES,
    Fence,
    commands_in_text,
    fences,
    shell_fences,
    spans,
    unquoted,
    words,
)
from tests.extras.test_edge_cpp import NEEDED, ONNX
from tests.support.jobs import keys_of, takes
from tests.test_your_own_network import write_files

#: The characters that zsh or bash expands, redirects or splits at, and `#`, which begins no comment
#: in an interactive zsh.
EXPANDED = re.compile(r"[][*?{}()<>|&;!#~^`]|(?<!\S)=")
#: What only recipes used to set: a job takes these keys too, though `--help` does not list them.
RECIPE = ("networks", "init", "stages", "stage1", "stage2")
ALL = [fence for page in PAGES for fence in shell_fences(page)]
by_name = pytest.mark.parametrize("fence", ALL, ids=str)
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Parses a command with what would run it, in a folder with the files of the own network."""
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(system, "_own_packages", {})
    monkeypatch.delitem(sys.modules, "my_sr", raising=False)
    monkeypatch.delitem(sys.modules, "my_sr.network", raising=False)

    def check(command: str) -> None:
        program, *arguments = words(command) or [""]
        _check(program.removeprefix(".venv/bin/"), arguments)

    return check


OTHERS = {
    ".", "cp", "curl", "docker", "journalctl", "kubectl", "openssl", "prometheus", "systemctl",
}  # fmt: skip
#: What builds the programs of infra/edge, and one of these programs.
UPSCALE = ("work/edge-cpp/upscale", "work/edge-cpp-onnx/upscale")
NATIVE = {"apt-get", "cmake", "gradle", "pip", *UPSCALE}


def _check(program: str, arguments: list[str]) -> None:
    match program, arguments:
        case "make", [target, *_]:
            assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case "export", [*settings]:
            assert all(re.match(r"[A-Z_]+=", setting) for setting in settings)
        case "ray", rest:
            _check_ray(rest)
        case "python", ["-m", module, *_]:
            assert importlib.util.find_spec(module)
        case "python", [path, *_] if path.startswith("infra/"):
            assert (ROOT / path).is_file()
        case path, [] if path.startswith("infra/"):
            assert os.access(ROOT / path, os.X_OK)
        case "python", rest:
            _check_job(rest)
        case "torchrun", rest:
            _check_training(rest)
        case "mlflow", ["models", "serve", *rest]:
            from mlflow.models.cli import serve

            assert serve.make_context("serve", rest).params["model_uri"].startswith("models:/")
        case "srmill", rest:
            _check_srmill(rest)
        case name, _ if name in OTHERS | NATIVE:
            (_check_native if name in NATIVE else _check_others)(program, arguments)
        case _:
            _check_job([program, *arguments])


def _check_ray(arguments: list[str]) -> None:
    match arguments:
        case ["job", "submit", *rest]:
            _check_job(_entrypoint(rest))
        case ["up" | "down" | "attach", path]:
            assert (ROOT / path).is_file()
        case _:
            assert arguments == ["get-auth-token", "--generate"]


def _check_srmill(arguments: list[str]) -> None:
    parsed = srmill._parser().parse_args(arguments)
    if getattr(parsed, "model", None):
        ModelReference.parse(parsed.model)
    if "job" in parsed:
        _check_job([parsed.job, *parsed.settings])
    elif "settings" in parsed and "source" not in parsed:
        load_config(parsed.settings)
    elif "settings" in parsed:
        _check_job(["jobs/retrain.py", f"source={parsed.source}", *parsed.settings])


def _check_others(program: str, arguments: list[str]) -> None:
    match program, arguments:
        case ".", [path]:
            assert path in ("work/platform.env", "infra/containers/client.sh")
        case "prometheus", ["--config.file=infra/monitoring/prometheus.yml", *_]:
            assert (ROOT / "infra" / "monitoring" / "prometheus.yml").is_file()
        case "openssl", [command, *_]:
            assert command in ("genpkey", "pkey", "pkeyutl")
        case "docker", ["compose", "-f", path, "build" | "up" | "ps", *_]:
            assert (ROOT / path).is_file()
        case "kubectl", _:
            _check_kubectl(arguments)
        case "cp", [*paths, "/etc/systemd/system/"]:
            assert all((ROOT / path).is_file() for path in paths)
        case "curl", [*_, address] if address.endswith("/users/create"):
            assert "--cacert" in arguments
            assert (
                address == f"https://127.0.0.1:{PORTS['TLS of MLflow']}/api/2.0/mlflow/users/create"
            )
        case "curl", [*_, address]:
            assert address == f"http://127.0.0.1:8787{PATH}"
        case "systemctl" | "journalctl", [*_, name]:
            unit = ROOT / "infra" / "schedules" / "systemd" / name
            assert name == "daemon-reload" or unit.is_file()
        case _:
            raise AssertionError(f"{program} with {arguments} is no command that this test knows")


def _check_native(program: str, arguments: list[str]) -> None:
    match program, arguments:
        case "apt-get", ["install", *packages]:
            assert " ".join(packages) == NEEDED
        case "pip", ["install", "-e", extra]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert extra.removeprefix(".[").removesuffix("]") in extras["optional-dependencies"]
        case "cmake", ["-S", source, "-B", "work/edge-cpp"]:
            assert (ROOT / source / "CMakeLists.txt").is_file()
        case "cmake", ["-S", source, "-B", "work/edge-cpp-onnx", runtime]:
            assert runtime == f"-DRUNTIME={ONNX.runtime}"
            assert (ROOT / source / "CMakeLists.txt").is_file()
        case "cmake", ["--build", "work/edge-cpp" | "work/edge-cpp-onnx", "--parallel", _]:
            pass
        case "gradle", ["-p", folder, "assembleDebug", bundles]:
            script = (ROOT / folder / "app" / "build.gradle.kts").read_text()
            assert bundles.startswith("-Pbundles=")
            assert 'gradleProperty("bundles")' in script
        case "work/edge-cpp/upscale", [bundle, "photo.jpg", "large.png"]:
            assert bundle.startswith("work/")
        case "work/edge-cpp-onnx/upscale", ["work/app", "photo.jpg", "large.png", "--target", name]:
            assert name in ONNX.targets
        case _:
            raise AssertionError(f"{program} with {arguments} is no command that this test knows")


def _check_kubectl(arguments: list[str]) -> None:
    match arguments:
        case ["apply", "-f", path]:
            assert (ROOT / path).is_file()
        case ["apply" | "diff", "-k", path] | ["replace", "--force", "-k", path]:
            assert (ROOT / path / "kustomization.yaml").is_file()
        case ["-n", "srmill", "get", _] | ["-n", "srmill", "delete", "raycluster", "ray"]:
            pass
        case ["-n", "srmill", "create", "secret", "generic", name, _]:
            manifests = (ROOT / "infra" / "kubernetes").rglob("*.yaml")
            named = re.compile(rf"secretRef:\s+name: {name}$", re.MULTILINE)
            assert any(named.search(each.read_text()) for each in manifests)
        case _:
            raise AssertionError(f"kubectl with {arguments} is no command that this test knows")


def _entrypoint(arguments: list[str]) -> list[str]:
    """Returns the job that `ray job submit` is to start; Ray itself parses the options."""
    from ray.dashboard.modules.job.cli import submit

    return list(submit.make_context("submit", list(arguments)).params["entrypoint"])


def _check_training(arguments: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args(arguments)
    assert parsed.module
    assert parsed.training_script == "pipelines.training"
    _check_settings(parsed.training_script_args, ROOT / "pipelines" / "training" / "__main__.py")


def _check_job(command: list[str]) -> None:
    path, *settings = command
    found = re.fullmatch(r"(?:jobs|\$JOBS)/(\w+\.py)", path)
    assert found, f"{path} is no command that this test knows"
    job = ROOT / "jobs" / found[1]
    assert job.exists(), path
    _check_settings(settings, job)


def _check_settings(arguments: Sequence[str], job: Path) -> None:
    settings = [a for a in arguments if a not in {"--help", "--dry-run", "--dry-run=full"}]
    load_config(settings)
    taken = (*keys_of(job), *RECIPE)
    unknown = [key for key in (s.partition("=")[0] for s in settings) if not takes(taken, key)]
    assert unknown == [], f"the job does not say in its --help that it takes {unknown}"


@by_page
def test_every_fence_names_its_language_and_what_it_needs(page: Path) -> None:
    for fence in fences(page):
        assert fence.language in LANGUAGES, fence
        assert fence.info in {fence.language, f"{fence.language} needs={fence.needs}"}, fence
        assert fence.needs is None or (fence.language == "sh" and fence.needs in NEEDS), fence


@by_page
def test_no_command_hides_in_a_fence_of_text(page: Path) -> None:
    hidden = re.compile(r"(\S+=\S* )*(make \w|(\.venv|\$JOBS|jobs)/\S+ .*[=-]|torchrun |srmill )")
    for fence in fences(page):
        if fence.language == "text":
            assert not [line for line in fence.text.splitlines() if hidden.match(line)], fence


@by_name
def test_no_shell_expands_a_command(fence: Fence) -> None:
    """A variable outside of quotes would be split in bash, if it held a space."""
    for command in fence.commands:
        assert EXPANDED.findall(unquoted(command)) == [], command
        assert "$" not in unquoted(command).removeprefix("$JOBS/"), command


def test_no_shell_expands_a_setting_in_the_text_of_the_readme() -> None:
    settings = [span for span in spans(PAGES[0]) if re.match(r"'?[a-z][\w.]*=", span)]
    assert len(settings) > 10
    assert [span for span in settings if EXPANDED.findall(unquoted(span))] == []


@by_name
def test_every_command_of_a_fence_is_one_that_exists(
    fence: Fence, check: Callable[[str], None]
) -> None:
    assert fence.commands
    for command in fence.commands:
        check(command)


@by_page
def test_every_command_in_the_text_is_one_that_exists(
    page: Path, check: Callable[[str], None]
) -> None:
    for command in commands_in_text(page):
        check(command)


@pytest.mark.parametrize(
    "command",
    [
        "make nothing",
        "jobs/stage3.py data=work/mine",
        "jobs/stage1.py train.stpes=3",
        "jobs/register.py data=work/mine",  # a key of the schema, but not of this job
        "torchrun -m pipelines.training stage=joint verify=true",
        ".venv/bin/ray job submit --working-dir . -- jobs/stage1.py train.steps=many",
        ".venv/bin/ray job submit --wrking-dir . -- jobs/stage1.py",
        ".venv/bin/srmill upscale photo.jpg large.png --modle rdsr",
        ".venv/bin/srmill watch photos --fotos 3",
        "srmill watch photos train.stpes=3",
        "kubectl apply -f infra/kubernetes/schedules/nosuch.yaml",
        "systemctl enable --now nosuch.timer",
        "pip install srmill",
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str, check: Callable[[str], None]) -> None:
    with pytest.raises((AssertionError, UserError, SystemExit, ClickException)):
        check(command)


@pytest.mark.parametrize(
    "command", ["a x=[1]", "a b # c", "a {1,2}", "a *.png", "a =ls", "a 'x' `b`", "a c=~/x"]
)
def test_a_command_that_a_shell_expands_is_found(command: str) -> None:
    assert EXPANDED.findall(unquoted(command))


@pytest.mark.parametrize("command", ["a 'x=[1]'", 'a "x={b: c}"', "A=1 b c=d:e@f --g=h/i.j"])
def test_a_quoted_command_is_not(command: str) -> None:
    assert EXPANDED.findall(unquoted(command)) == []
