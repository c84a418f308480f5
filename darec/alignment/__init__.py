"""Alignment objectives: one file each, all with the contract of `darec.alignment.base`."""

from darec.alignment.base import Objective
from darec.alignment.darec import DaRec
from darec.alignment.distill import Distill
from darec.alignment.kar import KAR
from darec.alignment.linear_teacher import LinearTeacher
from darec.alignment.rlmrec_con import RLMRecCon
from darec.alignment.rlmrec_gen import RLMRecGen
from darec.model.interactions import Interactions, Representations
from schemas.alignment import (
    AlignmentConfig,
    DaRecConfig,
    DistillConfig,
    KARConfig,
    LinearTeacherConfig,
    RLMRecConConfig,
    RLMRecGenConfig,
)

__all__ = ["Objective", "build"]


def build(
    config: AlignmentConfig, text: Representations, interactions: Interactions, dim: int, out_dim: int
) -> Objective:
    """The objective that `config` names, for input rows of width `dim` and final representations of width `out_dim`."""
    match config:
        case DaRecConfig():
            return DaRec(config, text, interactions, out_dim)
        case RLMRecConConfig():
            return RLMRecCon(config, text, out_dim)
        case RLMRecGenConfig():
            return RLMRecGen(config, text, dim, out_dim)
        case KARConfig():
            return KAR(config, text, dim)
        case DistillConfig():
            return Distill(config, text)
        case LinearTeacherConfig():
            return LinearTeacher(config, text, interactions)
