"""Finds the cluster that a user names: in a file of the user's, or by its address."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import UserError, told
from pipelines.ray_auth import MODE, TOKEN, TOKEN_PATH
from pipelines.storage.typed import check_depth, first_fault, validated

#: Ray's own variable with the address of a job server.
ADDRESS = "RAY_API_SERVER_ADDRESS"
#: The variable that names another file of clusters, and the usual one.
FILE, USUAL = "SRMILL_CLUSTERS", "~/.config/srmill/clusters.yaml"
_SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY|CREDENTIAL|WEBHOOK|SMTP", re.IGNORECASE)


@dataclass(frozen=True)
class Cluster:
    """A cluster to submit jobs to.

    Attributes:
        address: http(s)://HOST:PORT of its job server.
        token: the file with its token; None leaves it to Ray's own variables.
        ca: the certificates of the authorities that are trusted; None stands for the usual ones.
        variables: variables of each job's environment. Whoever sees a job sees them, so none is
            secret: the cluster's nodes hold the credentials.
    """

    address: str
    token: str | None = None
    ca: str | None = None
    variables: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Returns the variables by which Ray shows the token."""
        if self.token is None:
            return {}
        # Ray prefers a token in TOKEN, which may be another cluster's. An empty one counts as none.
        return {MODE: "token", TOKEN_PATH: str(Path(self.token).expanduser()), TOKEN: ""}


def find_cluster(name: str | None) -> Cluster:
    """Returns the cluster of a name, or at an address; without either the one that Ray's variable
    names.

    Raises:
        UserError: there is none of the name, or its entry is wrong.
    """
    if name is None and not (name := os.environ.get(ADDRESS)):
        raise UserError(
            f"name the cluster: --cluster with a name of {USUAL} or an address, or {ADDRESS}."
        )
    if "://" in name:
        return Cluster(name)
    path = Path(os.environ.get(FILE) or USUAL).expanduser()
    clusters = _read(path)
    if name not in clusters:
        known = ", ".join(sorted(map(told, clusters))) or "none"
        raise UserError(
            f"{path} has no cluster {told(name)} (it has {known}): add it, or correct the name."
        )
    return _checked(clusters[name], f"cluster {told(name)} of {path}")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = check_depth(yaml.safe_load(path.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"cannot read {path} ({' '.join(str(error).split())[:200]}): correct it."
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no clusters: write a name, and its address below it.")
    return found


def _checked(entry: Any, where: str) -> Cluster:
    from pydantic import ValidationError

    try:
        cluster: Cluster = validated(Cluster, entry)
    except ValidationError as error:
        raise UserError(f"{where}: {first_fault(error)}: correct it.") from None
    for name in cluster.variables:
        if _SECRET.search(name):
            raise UserError(
                f"{where} would show {told(name)} to everybody who sees a job: leave it out, and "
                "set it on the cluster's nodes."
            )
    return cluster
