"""Backbones: one file each, all with the contract of `darec.backbones.base`."""

from darec.backbones.base import Backbone
from darec.backbones.lightgcn import LightGCN
from darec.backbones.mf import MF
from darec.propagation import Adjacency
from schemas.backbones import BackboneConfig, LightGCNConfig, MFConfig

__all__ = ["Backbone", "build"]


def build(config: BackboneConfig, adjacency: Adjacency, n_users: int, dim: int) -> Backbone:
    """The backbone that `config` names, over the graph `adjacency`, for input rows of width `dim`."""
    match config:
        case MFConfig():
            return MF(adjacency, n_users, dim)
        case LightGCNConfig():
            return LightGCN(config, adjacency, n_users, dim)
