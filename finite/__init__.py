"""The experiment: ensembles of networks of finite width, trained exactly as the Problem says."""

from finite.train import train

__all__ = ["train"]
