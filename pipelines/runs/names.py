"""Names runs, and finds the checkpoints of a run by its name."""

from pipelines.config.schema import Config
from pipelines.runs.checkpoint import Checkpoints
from pipelines.storage.node_folder import NodeFolder
from pipelines.storage.store import open_store


def run_name(config: Config, stage: str) -> str:
    """Returns the fixed name of a stage's run."""
    return f"{config.run.name}-{stage}"


def run_checkpoints(config: Config, name: str) -> Checkpoints:
    """Returns the checkpoints of the run `name`; reads nothing yet.

    Raises:
        UserError: `run.storage` or `run.scratch` cannot hold them.
    """
    policy = config.stream.policy
    location = f"{config.run.storage.rstrip('/')}/{name}"
    return Checkpoints(open_store(location, policy=policy), NodeFolder.of(config.run.scratch))
