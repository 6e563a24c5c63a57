"""Tells what a step of a stage costs, before anything starts."""

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.models.build import stage_on_meta
from pipelines.training.teacher import teacher_on_meta
from srmodels import cost
from srmodels.cost import TrainingCost


def training_cost(config: Config, name: str) -> TrainingCost:
    """Returns what a step of a stage costs, as it is when the stage ends, with all of its losses.

    The forward pass of a teacher counts; one of others' networks does not.

    Raises:
        UserError: the stage's networks and its crops do not fit together.
    """
    train, stage = config.stages[name].train, stage_on_meta(config, name)
    if (teacher := teacher_on_meta(config, name)) is not None:
        stage.learn_from(teacher)
    _, samples = train.micro_batches(train.world_size)
    try:
        return cost.training_cost(
            stage,
            crop=train.crop,
            samples=samples,
            step=train.steps,
            bf16=train.precision == "bf16",
            recompute=train.activation_checkpointing,
        )
    except (DataDependentOutputException, DynamicOutputShapeException):
        raise  # the stage's code looks at values: nothing that a configuration can mend
    except (RuntimeError, ValueError) as error:
        x_l, x_h = [1, 3, *[train.crop // stage.network.scale] * 2], [1, 3, train.crop, train.crop]
        raise UserError(
            f"stage '{name}' cannot train on x_l {x_l} and x_h {x_h} "
            f"({str(error).splitlines()[0].rstrip('.')}): change stages.{name}.train.crop or the "
            "networks."
        ) from None
