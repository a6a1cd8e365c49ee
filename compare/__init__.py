"""The verdict: variance, bias, kernels and significance between Results, theory or experiment alike."""

from compare import testing
from compare.alignment import alignment, alignment_of_runs
from compare.deviations import deviations
from compare.distributions import (
    Distance,
    Similarity,
    attention_distance,
    hsic,
    kernel_similarity,
    preactivations,
    wasserstein,
)
from compare.ensemble import Ensemble, Ensembles, ensemble
from compare.equal_compute import EqualCompute, equal_compute
from compare.fits import Fit, least_squares
from compare.gap import Gap, Gaps, gap
from compare.onset import Onset, onset
from compare.power_law import PowerLaw, fit_power_law
from compare.regimes import Regime, Regimes, regimes
from compare.richardson import Extrapolated, Richardson, richardson
from compare.significance import Agreement, Statistic, agrees, extrapolate
from compare.simplicity import FirstLayer, JointErrors, SwapTest, first_layer, joint_errors, swap_test
from compare.spectral import SpectralComparison, spectral
from compare.static_kernel import KernelPredictors, static_kernel
from compare.to_widest import ToWidest, to_widest
from compare.width_scaling import WidthScaling, width_scaling

__all__ = [
    "Agreement",
    "Distance",
    "Ensemble",
    "Ensembles",
    "EqualCompute",
    "Extrapolated",
    "FirstLayer",
    "Fit",
    "Gap",
    "Gaps",
    "JointErrors",
    "KernelPredictors",
    "Onset",
    "PowerLaw",
    "Regime",
    "Regimes",
    "Richardson",
    "Similarity",
    "SpectralComparison",
    "Statistic",
    "SwapTest",
    "ToWidest",
    "WidthScaling",
    "agrees",
    "alignment",
    "alignment_of_runs",
    "attention_distance",
    "deviations",
    "ensemble",
    "equal_compute",
    "extrapolate",
    "first_layer",
    "fit_power_law",
    "gap",
    "hsic",
    "joint_errors",
    "kernel_similarity",
    "least_squares",
    "onset",
    "preactivations",
    "regimes",
    "richardson",
    "spectral",
    "static_kernel",
    "swap_test",
    "testing",
    "to_widest",
    "wasserstein",
    "width_scaling",
]
