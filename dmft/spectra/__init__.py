"""Spectra of kernels: where they come from, and what regression and training with a kernel make of them."""

from dmft.spectra.closed_forms import ntk, rbf, sphere
from dmft.spectra.dynamics import StaticTraining, moving_loss, static_training
from dmft.spectra.krylov import KernelMatrix, TraceEstimate, top, trace_of
from dmft.spectra.learning_curves import LearningCurve, learning_curve, plateaus
from widthwise import KernelSpectra, Spectrum

of = KernelSpectra.of

__all__ = [
    "KernelMatrix",
    "KernelSpectra",
    "LearningCurve",
    "Spectrum",
    "StaticTraining",
    "TraceEstimate",
    "learning_curve",
    "moving_loss",
    "ntk",
    "of",
    "plateaus",
    "rbf",
    "sphere",
    "static_training",
    "top",
    "trace_of",
]
