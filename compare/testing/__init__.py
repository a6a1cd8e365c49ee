"""Checks of scaling laws for pytest: at a stated rate of false alarms, and silent only where a wrong law would be seen."""

from compare.testing.agreement import assert_agrees
from compare.testing.consistency import Consistency, assert_consistent_across_widths
from compare.testing.scaling import Scaling, assert_scaling
from compare.testing.strategies import Spectrum, problems, spectra, tasks
from compare.testing.verdict import CannotTell

__all__ = [
    "CannotTell",
    "Consistency",
    "Scaling",
    "Spectrum",
    "assert_agrees",
    "assert_consistent_across_widths",
    "assert_scaling",
    "problems",
    "spectra",
    "tasks",
]
