"""Configuration of the search for training settings inside a run."""

from typing import Annotated, Any

from pydantic import Field

from schemas.section import Section, not_hashed


class SearchConfig(Section):
    """Chooses the training settings on validation by successive halving, and keeps the choice for later runs."""

    candidates: dict[Annotated[str, Field(max_length=100)], dict[str, Any]] = Field(default={}, max_length=64)
    """Maps a name to overrides of `train`, such as `alignment.0.weight: 0.1` or `backbone: {name: mf}`. Empty: the
    settings of `train` with the weights of all alignment objectives times 1, 1/4, 1/16 and 0. On sparse data the
    search usually selects a large weight, and on dense data a small one."""
    epochs: int = Field(default=5, ge=1, le=1_000_000)
    """Number of epochs of the first round. The better half of the candidates enters the next round, which trains them
    for twice as many epochs in total."""
    growth: float = Field(default=0.3, ge=0)
    """Relative change of the number of train interactions, since the last search, above which the search is repeated.
    Until then the choice is kept."""
    minutes: float = not_hashed(60.0, gt=0, le=1_000_000)
    """Time limit in minutes. After it no further round starts, and the best candidate of the last finished round is
    selected."""
