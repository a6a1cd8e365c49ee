"""Network architectures: the graph, never the width. One file per architecture, its noun and its forward pass."""

from typing import Any, get_args

from widthwise.networks.backend import Net, Population
from widthwise.networks.convnet import ConvNet
from widthwise.networks.mlp import MLP
from widthwise.networks.own import Network
from widthwise.networks.plan import Plan, WeightPlan, plan_of
from widthwise.networks.residual import ResidualMLP
from widthwise.networks.resnet import ResNet
from widthwise.networks.transformer import Transformer
from widthwise.networks.vit import ViT

Architecture = MLP | ResidualMLP | ConvNet | ResNet | Transformer | ViT | Network
NAMES: dict[str, Any] = {noun.__name__: noun for noun in get_args(Architecture)}

__all__ = [
    "MLP",
    "NAMES",
    "Architecture",
    "ConvNet",
    "Net",
    "Network",
    "Plan",
    "Population",
    "ResNet",
    "ResidualMLP",
    "Transformer",
    "ViT",
    "WeightPlan",
    "plan_of",
]
