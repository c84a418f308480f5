"""Backbones that are trained: one file each, all with the contract of `darec.backbones.base`.

Models that are computed are in `darec.closed_form`.
"""

from darec.backbones import autocf, dccf, gccf, lightgcn, mf, ngcf, sgl, simgcl
from darec.backbones.base import BACKBONES, Backbone
from darec.model.propagation import Adjacency
from schemas.backbones import BackboneConfig

__all__ = ["Backbone", "build"]

REGISTERED = (autocf, dccf, gccf, lightgcn, mf, ngcf, sgl, simgcl)


def build(config: BackboneConfig, adjacency: Adjacency, n_users: int, dim: int) -> Backbone:
    """The backbone that `config` names, over the graph `adjacency`, for input rows of width `dim`."""
    return BACKBONES.build(config, adjacency, n_users, dim)
