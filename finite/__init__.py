"""The experiment: ensembles of networks of finite width, trained exactly as the Problem says."""

from finite.coordinate_check import CoordinateCheck, coordinate_check
from finite.train import train

__all__ = ["CoordinateCheck", "coordinate_check", "train"]
