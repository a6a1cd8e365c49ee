"""Solvable models of learning: scaling laws, richness, step sizes, batches, narrow networks."""

from dmft.scaling.branching import BranchingPosterior, branch_kernels, branching_posterior
from dmft.scaling.critical_batch import critical_batch, sgd_risk, steps_to_target
from dmft.scaling.dynamics import train
from dmft.scaling.errors import Errors
from dmft.scaling.feature_learning import FeatureFlow, feature_flow, train_features
from dmft.scaling.frontier import Frontier, frontier
from dmft.scaling.graph_kernel import GraphKernel, graph_kernel, normalized_adjacency
from dmft.scaling.laplace import flow, residuals
from dmft.scaling.lazy_rich import UpdateSizes, update_sizes
from dmft.scaling.learning_rates import PhasePortrait, largest_rate, phase_portrait, time_to_learn
from dmft.scaling.onset import noisy_curve, noisy_features, onset_of_variance
from dmft.scaling.power_law import power_law
from dmft.scaling.random_features import optimal_ridge, random_features, resolution
from dmft.scaling.spectral_moments import effective_dimension, plugin_moments, spectral_moments, spectrum_of_moments

__all__ = [
    "BranchingPosterior",
    "Errors",
    "FeatureFlow",
    "Frontier",
    "GraphKernel",
    "PhasePortrait",
    "UpdateSizes",
    "branch_kernels",
    "branching_posterior",
    "critical_batch",
    "effective_dimension",
    "feature_flow",
    "flow",
    "frontier",
    "graph_kernel",
    "largest_rate",
    "noisy_curve",
    "noisy_features",
    "normalized_adjacency",
    "onset_of_variance",
    "optimal_ridge",
    "phase_portrait",
    "plugin_moments",
    "power_law",
    "random_features",
    "residuals",
    "resolution",
    "sgd_risk",
    "spectral_moments",
    "spectrum_of_moments",
    "steps_to_target",
    "time_to_learn",
    "train",
    "train_features",
    "update_sizes",
]
