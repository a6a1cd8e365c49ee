"""Solvable models of learning: scaling laws, richness, step sizes, batches, narrow networks."""

from dmft.scaling.branching import BranchingPosterior, branch_kernels, branching_posterior
from dmft.scaling.critical_batch import critical_batch, sgd_risk, steps_to_target
from dmft.scaling.graph_kernel import GraphKernel, graph_kernel, normalized_adjacency
from dmft.scaling.lazy_rich import UpdateSizes, update_sizes
from dmft.scaling.learning_rates import PhasePortrait, largest_rate, phase_portrait, time_to_learn
from dmft.scaling.onset import noisy_curve, noisy_features, onset_of_variance
from dmft.scaling.spectral_moments import effective_dimension, plugin_moments, spectral_moments, spectrum_of_moments

__all__ = [
    "BranchingPosterior",
    "GraphKernel",
    "PhasePortrait",
    "UpdateSizes",
    "branch_kernels",
    "branching_posterior",
    "critical_batch",
    "effective_dimension",
    "graph_kernel",
    "largest_rate",
    "noisy_curve",
    "noisy_features",
    "normalized_adjacency",
    "onset_of_variance",
    "phase_portrait",
    "plugin_moments",
    "sgd_risk",
    "spectral_moments",
    "spectrum_of_moments",
    "steps_to_target",
    "time_to_learn",
    "update_sizes",
]
