"""The theory: infinite-width training dynamics."""

from dmft.deep_linear import DeepLinear
from dmft.lazy import Lazy
from dmft.march import March
from dmft.method import Method
from dmft.solve import solve

__all__ = ["DeepLinear", "Lazy", "March", "Method", "solve"]
