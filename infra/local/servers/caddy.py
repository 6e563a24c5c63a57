"""Caddy, the one door of the full platform: TLS in front of MLflow, the job server and S3."""

from collections.abc import Mapping
from pathlib import Path

from infra.local.servers.server import Server, answers, environment_of, without_credentials
from pipelines.storage.files import whole_file

PORTS = {"TLS of MLflow": 5443, "TLS of Ray": 8443, "TLS of S3": 8334}
#: The port of what is behind each door.
_BEHIND = {"TLS of MLflow": "MLflow", "TLS of Ray": "dashboard", "TLS of S3": "S3"}
_GLOBAL = """{{
	admin off
	persist_config off
	auto_https disable_redirects
	skip_install_trust
	default_bind 127.0.0.1
	storage file_system "{storage}"
	log {{
		level WARN
	}}
}}
"""
_DOOR = """
https://127.0.0.1:{door}, https://localhost:{door} {{
	tls internal
	reverse_proxy 127.0.0.1:{port}
}}
"""


def caddy(home: Path, ports: Mapping[str, int], log: Path) -> Server:
    """Returns the proxy of a home. Its certificates are those of an authority of its own, which it
    makes once and which the clients trust."""
    folder = home / "work" / "tls"
    settings, root = folder / "Caddyfile", folder / "pki" / "authorities" / "local" / "root.crt"
    url = door(ports, "MLflow")

    def prepare() -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        doors = [_DOOR.format(door=ports[tls], port=ports[of]) for tls, of in _BEHIND.items()]
        settings.write_text("".join([_GLOBAL.format(storage=folder), *doors]))

    return Server(
        "TLS",
        ("caddy", "run", "--config", str(settings), "--adapter", "caddyfile"),
        without_credentials(environment_of(home)),
        log,
        url,
        # MLflow may not run yet: the door says so, and is open.
        answers=lambda: root.exists() and answers(f"{url}/health", ca=root) is not None,
        prepare=prepare,
        settle=lambda: _write_trusted(root, trusted(home)),
    )


def door(ports: Mapping[str, int], name: str) -> str:
    """Returns the address of the door to MLflow, Ray or S3."""
    return f"https://127.0.0.1:{ports[f'TLS of {name}']}"


def trusted(home: Path) -> Path:
    """Returns the file of the authorities that clients trust: the usual ones, and this one."""
    return home / "work" / "ca.pem"


def _write_trusted(root: Path, path: Path) -> None:
    import certifi

    # Jobs may read the file at any moment.
    with whole_file(path) as file:
        file.write_text(f"{Path(certifi.where()).read_text()}\n{root.read_text()}")
