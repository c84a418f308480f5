"""Configuration of rules: which items may be recommended, and how a list is made up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from schemas.section import Section, not_hashed

Ids = tuple[str, ...] | Path
"""Item ids, or a file with one id per line or, if it is Parquet, a column `item_id`."""

Values = Annotated[tuple[str, ...], Field(min_length=1)]


class RulesConfig(Section):
    """Which items `darec recommend` and the lists of all users may contain. Rules change neither the model nor the
    metrics: evaluation ranks all items. Attributes must be named in `export.attributes`, so that the release has
    them."""

    only: Ids | None = not_hashed(None)
    """The candidate items: a list of ids, or a file with one id per line (or Parquet with a column `item_id`). Ids that
    the release does not know are ignored. null: all items."""
    in_stock: Ids | None = not_hashed(None)
    """Items in stock, in the same form. With `only`, an item must be in both."""
    blocked: Ids = not_hashed(())
    """Items that are never recommended, in the same form."""
    categories: dict[str, Values] = not_hashed({})
    """Required values by attribute, such as `{genres: [Comedy, Drama]}`. An item must have at least one of them."""
    blocked_categories: dict[str, Values] = not_hashed({})
    """Excluded values by attribute. An item must have none of them."""
    at_most: dict[str, Annotated[int, Field(ge=1)]] = not_hashed({})
    """Maximum number of items in a list that share a value, by attribute, such as `{brand: 2}`. Items without the
    attribute are not limited."""
    seen: bool = not_hashed(False)
    """Whether items that the user has interacted with may be recommended."""
    min_diversity: float = not_hashed(0.0, ge=0, le=2)
    """Minimum diversity of a list, which is 1 minus the mean cosine similarity of its pairs of items. A list below it
    is reordered by MMR with increasing weight until it reaches the minimum, as far as the candidates allow. 0 means no
    minimum."""

    only_new: bool = not_hashed(False)
    """Whether only new items may be recommended: a list of new arrivals."""
    new_share: float = not_hashed(0.0, ge=0, le=0.5)
    """Minimum share of new items in a list, such as 0.1 for one in ten: the new items with the largest scores for the
    user. Users without a vector get none. It cannot be combined with `at_most` or `min_diversity`.
    """
    new_up_to: int = not_hashed(0, ge=0)
    """Maximum number of interactions that a new item has in the training data of the release."""

    @model_validator(mode="after")
    def _combined(self) -> Self:
        if self.new_share and (self.at_most or self.min_diversity):
            raise ValueError("new_share cannot be combined with at_most or min_diversity: leave one of them out")
        return self

    @property
    def attributes(self) -> Iterator[tuple[str, str]]:
        """The rule and the name of every attribute that a rule needs."""
        for rule in ("categories", "blocked_categories", "at_most"):
            yield from ((rule, name) for name in getattr(self, rule))
