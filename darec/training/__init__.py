"""Training: one loop for every backbone, objective and loss."""

from darec.model.propagation import Adjacency
from darec.training.run import train
from darec.training.trainer import DivergedError, Trained, Trainer

__all__ = ["Adjacency", "DivergedError", "Trained", "Trainer", "train"]
