"""Checks of scaling laws for pytest: at a stated rate of false alarms, and silent only where a wrong law would be seen."""

from compare.testing.scaling import Scaling, assert_scaling
from compare.testing.verdict import CannotTell

__all__ = ["CannotTell", "Scaling", "assert_scaling"]
