"""The verdict: variance, bias, kernels and significance between Results, theory or experiment alike."""

from compare import testing
from compare.alignment import alignment, alignment_of_runs
from compare.deviations import deviations
from compare.gap import Gap, Gaps, gap
from compare.power_law import PowerLaw, fit_power_law
from compare.significance import Agreement, Statistic, agrees, extrapolate
from compare.spectral import SpectralComparison, spectral
from compare.static_kernel import KernelPredictors, static_kernel
from compare.width_scaling import WidthScaling, width_scaling

__all__ = [
    "Agreement",
    "Gap",
    "Gaps",
    "KernelPredictors",
    "PowerLaw",
    "SpectralComparison",
    "Statistic",
    "WidthScaling",
    "agrees",
    "alignment",
    "alignment_of_runs",
    "deviations",
    "extrapolate",
    "fit_power_law",
    "gap",
    "spectral",
    "static_kernel",
    "testing",
    "width_scaling",
]
