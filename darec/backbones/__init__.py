"""Backbones: one file each, all with the contract of `darec.backbones.base`."""

from collections.abc import Callable

from darec.backbones.autocf import AutoCF
from darec.backbones.base import Backbone
from darec.backbones.dccf import DCCF
from darec.backbones.gccf import GCCF
from darec.backbones.lightgcn import LightGCN
from darec.backbones.mf import MF
from darec.backbones.ngcf import NGCF
from darec.backbones.sgl import SGL
from darec.backbones.simgcl import SimGCL
from darec.model.propagation import Adjacency
from schemas.backbones import (
    AutoCFConfig,
    BackboneConfig,
    DCCFConfig,
    GCCFConfig,
    LightGCNConfig,
    MFConfig,
    NGCFConfig,
    SGLConfig,
    SimGCLConfig,
)
from schemas.section import Section

__all__ = ["Backbone", "build"]

_BACKBONES: dict[type[Section], Callable[..., Backbone]] = {
    MFConfig: MF,
    LightGCNConfig: LightGCN,
    NGCFConfig: NGCF,
    GCCFConfig: GCCF,
    SGLConfig: SGL,
    SimGCLConfig: SimGCL,
    DCCFConfig: DCCF,
    AutoCFConfig: AutoCF,
}


def build(config: BackboneConfig, adjacency: Adjacency, n_users: int, dim: int) -> Backbone:
    """The backbone that `config` names, over the graph `adjacency`, for input rows of width `dim`."""
    return _BACKBONES[type(config)](config, adjacency, n_users, dim)
