"""The whole chain, step by step: shard, the stages, evaluate, export, register. Each resumes."""

from pipelines.retrain.steps import Step, chain
from pipelines.retrain.work import follow, plan, run

__all__ = ["Step", "chain", "follow", "plan", "run"]
