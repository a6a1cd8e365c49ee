"""The nouns that theory, experiment and comparison share; nothing here computes physics."""

from widthwise import schedules, tasks
from widthwise.activation import Activation
from widthwise.estimate import Estimate
from widthwise.fluctuations import Fluctuations
from widthwise.kernel_descent import kernel_descent
from widthwise.kernel_spectra import KernelSpectra
from widthwise.loss import Loss
from widthwise.networks import MLP, ConvNet, Network, ResidualMLP, ResNet, Transformer, ViT
from widthwise.parameterization import Parameterization
from widthwise.problem import Problem
from widthwise.result import Result, Status, Unsolved
from widthwise.spectrum import Spectrum
from widthwise.tasks import Task
from widthwise.training import Adam, GradientDescent, Optax
from widthwise.trajectory import Trajectory
from widthwise.version import __version__

__all__ = [
    "MLP",
    "Activation",
    "Adam",
    "ConvNet",
    "Estimate",
    "Fluctuations",
    "GradientDescent",
    "KernelSpectra",
    "Loss",
    "Network",
    "Optax",
    "Parameterization",
    "Problem",
    "ResNet",
    "ResidualMLP",
    "Result",
    "Spectrum",
    "Status",
    "Task",
    "Trajectory",
    "Transformer",
    "Unsolved",
    "ViT",
    "__version__",
    "kernel_descent",
    "schedules",
    "tasks",
]
