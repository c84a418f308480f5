"""Configuration of the search for training settings inside a run."""

from typing import Annotated, Any

from pydantic import Field

from schemas.section import Section, not_hashed


class SearchConfig(Section):
    """Chooses the training settings on validation by successive halving, and keeps the choice for later runs."""

    candidates: dict[Annotated[str, Field(max_length=100)], dict[str, Any]] = Field(default={}, max_length=64)
    """Maps a name to overrides of `train`, such as `alignment.0.weight: 0.1` or `backbone: {name: mf}`. Empty: the
    settings of `train` with the weights of all alignment objectives times 1, 1/4, 1/16 and 0 (not that of a linear
    teacher which is the only ranking loss), and the same model without text, the reference of the evaluation. On
    sparse data the search usually selects a large weight, and on dense data a small one. A weight of `auto` in
    `train.alignment` is the default weight with this search."""
    epochs: int = Field(default=5, ge=1, le=1_000_000)
    """Number of epochs of the first round. The better half of the candidates enters the next round, which trains them
    for twice as many epochs in total."""
    growth: float = Field(default=0.3, ge=0)
    """Relative change of the train interactions since the last search above which the search is repeated: of their
    number, or the fraction of those of the last search that are missing. Until then the choice is kept, unless the
    settings, the prompts or the models of the texts have changed."""
    minutes: float = not_hashed(60.0, gt=0, le=1_000_000)
    """Time limit in minutes. After it no further candidate is trained, and the best one of the last finished round is
    selected; in the first round, the best of those that were trained."""
