"""The theory: infinite-width training dynamics."""

from dmft import scaling, spectra
from dmft.deep_linear import DeepLinear
from dmft.fluctuations import fluctuations
from dmft.lazy import Lazy
from dmft.march import March
from dmft.method import Method
from dmft.solve import solve
from dmft.two_layer import TwoLayer

__all__ = ["DeepLinear", "Lazy", "March", "Method", "TwoLayer", "fluctuations", "scaling", "solve", "spectra"]
