"""The fixed names of runs, and where the checkpoints of each lie."""

from pipelines.config.schema import Config
from pipelines.runs.checkpoint import Checkpoints
from pipelines.storage.paths import resolve
from pipelines.storage.store import open_store


def run_name(config: Config, stage: str) -> str:
    """The fixed name of a stage's run."""
    return f"{config.run.name}-{stage}"


def run_checkpoints(config: Config, name: str) -> Checkpoints:
    """The checkpoints of the run called `name`. Nothing is read yet."""
    policy = config.stream.policy
    location = f"{config.run.storage.rstrip('/')}/{name}"
    return Checkpoints(open_store(location, policy=policy), resolve(config.run.scratch))
