"""Training: one Trainer, and objectives that say what it minimises."""

from hasten.train.objectives import (
    Captions,
    Denoising,
    FlowMatching,
    Labels,
    Objective,
    Packed,
    PooledCaptions,
    Reconstruction,
)
from hasten.train.trainer import Trainer

__all__ = [
    "Captions",
    "Denoising",
    "FlowMatching",
    "Labels",
    "Objective",
    "Packed",
    "PooledCaptions",
    "Reconstruction",
    "Trainer",
]
