"""Training: one loop for every backbone, objective and loss."""

from darec.training.trainer import DivergedError, Trained, Trainer, train

__all__ = ["DivergedError", "Trained", "Trainer", "train"]
