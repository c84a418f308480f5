"""Alignment objectives: one file each, all with the contract of `darec.alignment.base`."""

from darec.alignment import darec, distill, kar, linear_teacher, retrieved_graph, rlmrec_con, rlmrec_gen
from darec.alignment.base import OBJECTIVES, Objective, Setting
from schemas.alignment import AlignmentConfig

__all__ = ["Objective", "Setting", "build"]

REGISTERED = (darec, distill, kar, linear_teacher, retrieved_graph, rlmrec_con, rlmrec_gen)


def build(config: AlignmentConfig, setting: Setting) -> Objective:
    """The objective that `config` names."""
    return OBJECTIVES.build(config, setting)
