"""What is left at finite width, to order 1/N: covariance over seeds and bias."""

from dmft.fluctuations.solve import fluctuations

__all__ = ["fluctuations"]
