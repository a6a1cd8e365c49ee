"""Solvable models of scaling laws: the loss of random features in features, samples and time."""

from dmft.scaling.dynamics import train
from dmft.scaling.errors import Errors
from dmft.scaling.feature_learning import FeatureFlow, feature_flow, train_features
from dmft.scaling.frontier import Frontier, frontier
from dmft.scaling.laplace import flow, residuals
from dmft.scaling.power_law import power_law
from dmft.scaling.random_features import optimal_ridge, random_features, resolution

__all__ = [
    "Errors",
    "FeatureFlow",
    "Frontier",
    "feature_flow",
    "flow",
    "frontier",
    "optimal_ridge",
    "power_law",
    "random_features",
    "residuals",
    "resolution",
    "train",
    "train_features",
]
