"""Counts what a step of a stage costs, before anything starts."""

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.models.build import stage_on_meta
from pipelines.training.teacher import Teacher, teacher_on_meta
from srmodels import cost
from srmodels.cost import TrainingCost


def training_cost(config: Config, name: str, teacher: Teacher | None = None) -> TrainingCost:
    """Returns the cost of a stage's last step, when all of its losses count.

    The forward pass of the teacher counts, unless the teacher is others' network. A group lasso,
    which is a few operations for each weight, does not.

    Args:
        teacher: the teacher that was found; None: the one that the configuration names.

    Raises:
        UserError: the stage's networks and its crops do not fit together.
    """
    train, stage = config.stages[name].train, stage_on_meta(config, name)
    teaches = teacher.on_meta() if teacher else teacher_on_meta(config, name)
    if teaches is not None:
        stage.learn_from(teaches)
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
        raise  # The stage's code reads values: no setting can mend that.
    except (RuntimeError, ValueError) as error:
        x_l, x_h = [1, 3, *[train.crop // stage.network.scale] * 2], [1, 3, train.crop, train.crop]
        raise UserError(
            f"stage '{name}' cannot train on x_l {x_l} and x_h {x_h} "
            f"({str(error).splitlines()[0].rstrip('.')}): change stages.{name}.train.crop or the "
            "networks."
        ) from None
