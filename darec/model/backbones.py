"""Backbones that are trained: one file each, all with the contract of `darec.model.base`.

Models that are computed are in `darec.model.closed_form`.
"""

from darec.model import autocf, dccf, gccf, lightgcn, mf, ngcf, sgl, simgcl
from darec.model.base import BACKBONES, Backbone
from darec.model.propagation import Adjacency
from schemas.backbones import BackboneConfig

__all__ = ["Backbone", "build"]

REGISTERED = (autocf, dccf, gccf, lightgcn, mf, ngcf, sgl, simgcl)


def build(config: BackboneConfig, adjacency: Adjacency, n_users: int, dim: int) -> Backbone:
    """The backbone that `config` names, over the graph `adjacency`, for input rows of width `dim`."""
    return BACKBONES.build(config, adjacency, n_users, dim)
