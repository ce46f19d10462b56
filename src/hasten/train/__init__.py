"""Training: one Trainer, and objectives that say what it minimises."""

from hasten.train.objectives import (
    Captions,
    Conditional,
    Denoising,
    FlowMatching,
    Labels,
    Objective,
    PooledCaptions,
    Reconstruction,
)
from hasten.train.trainer import Trainer

__all__ = [
    "Captions",
    "Conditional",
    "Denoising",
    "FlowMatching",
    "Labels",
    "Objective",
    "PooledCaptions",
    "Reconstruction",
    "Trainer",
]
