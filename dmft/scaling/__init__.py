"""Solvable models of learning: scaling laws, richness, step sizes, batches, narrow networks."""

from dmft.scaling.branching import BranchingPosterior, branch_kernels, branching_posterior
from dmft.scaling.lazy_rich import UpdateSizes, update_sizes
from dmft.scaling.learning_rates import PhasePortrait, largest_rate, phase_portrait, time_to_learn
from dmft.scaling.spectral_moments import effective_dimension, plugin_moments, spectral_moments, spectrum_of_moments

__all__ = [
    "BranchingPosterior",
    "PhasePortrait",
    "UpdateSizes",
    "branch_kernels",
    "branching_posterior",
    "effective_dimension",
    "largest_rate",
    "phase_portrait",
    "plugin_moments",
    "spectral_moments",
    "spectrum_of_moments",
    "time_to_learn",
    "update_sizes",
]
