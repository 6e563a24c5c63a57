"""Names a folder that every node has for itself: for what waits there, or can be fetched again."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from pipelines.storage.paths import resolve


@dataclass(frozen=True)
class NodeFolder:
    """A folder of whichever node reads `path`; can be pickled.

    An absolute path is the same on every node. A relative one starts from the node's own
    SRMILL_HOME. On the driver's node, and on a node without SRMILL_HOME, it starts from the
    driver's home. (A worker has no other home: its current directory is a copy of the code, which
    Ray deletes.)

    Attributes:
        location: the folder as it is configured.
        first: the folder of the driver's node, absolute.
        node: the driver's node.
    """

    location: str
    first: Path
    node: str

    @classmethod
    def of(cls, location: str | Path) -> "NodeFolder":
        """Describes a folder on the driver's node.

        Raises:
            UserError: the location is no path, see `resolve`.
        """
        return cls(str(location), resolve(location), socket.gethostname())

    @property
    def path(self) -> Path:
        """The absolute path of this node's folder, which need not exist.

        Raises:
            UserError: the home directory of this node's user, in a location with `~`, is unknown.
        """
        if socket.gethostname() == self.node or not os.environ.get("SRMILL_HOME"):
            return self.first
        return resolve(self.location)
