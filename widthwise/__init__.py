"""The nouns that theory, experiment and comparison share; nothing here computes physics."""

from widthwise import schedules, tasks
from widthwise.activation import Activation
from widthwise.architecture import MLP
from widthwise.estimate import Estimate
from widthwise.loss import Loss
from widthwise.parameterization import Parameterization
from widthwise.problem import Problem
from widthwise.result import Result, Status, Unsolved
from widthwise.tasks import Task
from widthwise.training import GradientDescent
from widthwise.trajectory import Trajectory
from widthwise.version import __version__

__all__ = [
    "MLP",
    "Activation",
    "Estimate",
    "GradientDescent",
    "Loss",
    "Parameterization",
    "Problem",
    "Result",
    "Status",
    "Task",
    "Trajectory",
    "Unsolved",
    "__version__",
    "schedules",
    "tasks",
]
