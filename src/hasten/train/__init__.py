"""Training: one Trainer, and objectives that say what it minimises."""

from hasten.train.objectives import Captions, Denoising, Labels, Objective, Reconstruction
from hasten.train.trainer import Trainer

__all__ = ["Captions", "Denoising", "Labels", "Objective", "Reconstruction", "Trainer"]
