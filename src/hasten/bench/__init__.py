"""The race against other packages at their own best settings."""

from hasten.bench.benching import bench

__all__ = ["bench"]
