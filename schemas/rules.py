"""Configuration of rules: which items may be recommended, and how a list is made up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from schemas.section import Section, not_hashed

Ids = tuple[str, ...] | Path
"""Item ids, or a file with one id per line or, if it is Parquet, a column `item_id`."""

Values = Annotated[tuple[str, ...], Field(min_length=1)]


class RulesConfig(Section):
    """What `darec recommend` and the lists of all users may hold. Rules change no model and no metric: evaluation ranks
    all items. Attributes must be named in `export.attributes`, so that the release has them."""

    only: Ids | None = not_hashed(None)
    """Candidate list: only these items. A list of ids, or a file with one id per line (or Parquet with a column
    `item_id`). Ids that the release does not know are ignored. null: all items."""
    in_stock: Ids | None = not_hashed(None)
    """Items in stock, in the same form. With `only`, an item must be in both."""
    blocked: Ids = not_hashed(())
    """Items that are never recommended, in the same form."""
    categories: dict[str, Values] = not_hashed({})
    """For each attribute, the values of which an item must have one, such as `{genres: [Comedy, Drama]}`."""
    blocked_categories: dict[str, Values] = not_hashed({})
    """For each attribute, the values of which an item may have none."""
    at_most: dict[str, Annotated[int, Field(ge=1)]] = not_hashed({})
    """For each attribute, the maximum number of items of a list that share a value, such as `{brand: 2}`. Items without
    the attribute are not limited."""
    seen: bool = not_hashed(False)
    """Whether items that the user has interacted with may be recommended."""
    min_diversity: float = not_hashed(0.0, ge=0, le=2)
    """Minimum diversity of a list: 1 less the mean cosine over its pairs of items. Lists below it are reordered by MMR
    with greater and greater weight until they reach it, as far as the candidates allow. 0: no minimum."""

    @property
    def attributes(self) -> Iterator[tuple[str, str]]:
        """The rule and the name of every attribute that a rule needs."""
        for rule in ("categories", "blocked_categories", "at_most"):
            yield from ((rule, name) for name in getattr(self, rule))
