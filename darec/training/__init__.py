"""Training: one loop for every backbone, objective and loss."""

from darec.training.trainer import Trained, Trainer, train

__all__ = ["Trained", "Trainer", "train"]
