"""Solvable models of learning: scaling laws, richness, step sizes, batches, narrow networks."""

from dmft.scaling.lazy_rich import UpdateSizes, update_sizes
from dmft.scaling.spectral_moments import effective_dimension, plugin_moments, spectral_moments, spectrum_of_moments

__all__ = [
    "UpdateSizes",
    "effective_dimension",
    "plugin_moments",
    "spectral_moments",
    "spectrum_of_moments",
    "update_sizes",
]
