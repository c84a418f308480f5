"""Items and users as variables of prompts, and the texts that are used if the LLM fails."""

from collections.abc import Iterator
from typing import Any

import polars as pl

from darec.text.prompts import DESCRIPTION_CHARS, PROFILE_CHARS, TITLE_CHARS, as_data, attributes_as_data
from schemas import columns as c

ITEM_VARIABLES = ("title", "description", "attributes")
ITEM_TEXT_VARIABLES = (*ITEM_VARIABLES, "profile")
USER_VARIABLES = ("attributes", "items", "disliked")
USER_TEXT_VARIABLES = ("attributes", "profile")
SHOWN, DISLIKED = "items", "disliked"
_FEW = 10_000  # number of rows whose prompts are rendered in a second or two
_SAMPLE = 1_000  # a share is known to 1.6 percentage points, the standard error of a half


def even_sample(table: pl.DataFrame) -> tuple[pl.DataFrame, int | None]:
    """An evenly spaced sample of a large table and its number of rows; a small table unchanged, and None."""
    if table.height <= _FEW:
        return table, None
    places = pl.int_range(_SAMPLE, dtype=pl.Int64, eager=True) * table.height // _SAMPLE
    return table[places], table.height


def items_as_data(vocabulary: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """One row per item of the vocabulary, in its order: title, description, attributes, cleaned and bounded.

    An item that is missing in the item table is shown by its id.
    """
    joined = vocabulary.join(items, on=c.ITEM, how="left", maintain_order="left")
    title = as_data(pl.coalesce(c.TITLE, c.ITEM), TITLE_CHARS)
    description = as_data(pl.col(c.DESCRIPTION), DESCRIPTION_CHARS)
    cleaned = joined.lazy().select(
        c.ITEM_INDEX, c.ITEM, title.alias(c.TITLE), description.alias(c.DESCRIPTION), _attributes()
    )
    return cleaned.collect(engine="streaming")  # so that the steps of cleaning are not in memory for all rows


def known_by_id(items: pl.DataFrame) -> int:
    """The number of rows of `items_as_data` of which nothing but the id is known."""
    has_title = pl.col(c.TITLE) != pl.col(c.ITEM)
    has_more = (pl.col(c.DESCRIPTION).fill_null("") != "") | (pl.col(c.ATTRIBUTES).list.len().fill_null(0) > 0)
    return items.filter(~(has_title | has_more)).height


def titles_as_data(vocabulary: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """The numbers, ids and titles of `items_as_data`, for which `items` needs no other column than ids and titles."""
    joined = vocabulary.join(items, on=c.ITEM, how="left", maintain_order="left")
    return joined.select(c.ITEM_INDEX, c.ITEM, as_data(pl.coalesce(c.TITLE, c.ITEM), TITLE_CHARS).alias(c.TITLE))


def users_as_data(
    vocabulary: pl.DataFrame,
    users: pl.DataFrame,
    items: pl.DataFrame,
    shown: pl.DataFrame,
    disliked: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """One row per user of the vocabulary, in its order: attributes, and `items`: the shown part of its train history.

    Best rated items come first. `disliked` is shown in the same way, without ratings.

    Args:
        vocabulary: the users.
        users: their table.
        items: item_index, item_id, title and profile of at least the shown items.
        shown: the chosen train rows (`darec.text.histories.choose_pairs`).
        disliked: the chosen dislikes; None if there are none.
    """
    described = items.select(c.ITEM_INDEX, c.ITEM, c.TITLE, as_data(pl.col(c.PROFILE), PROFILE_CHARS).alias(c.PROFILE))
    known = shown.join(described, on=c.ITEM_INDEX)
    ordered = known.sort([c.RATING, c.ITEM], descending=[True, False], nulls_last=True)
    histories = ordered.group_by(c.USER_INDEX).agg(pl.struct(c.TITLE, c.RATING, c.PROFILE).alias(SHOWN))
    joined = described_users(vocabulary, users).join(histories, on=c.USER_INDEX, how="left", maintain_order="left")

    avoided = shown.clear() if disliked is None else disliked
    avoided = avoided.join(described, on=c.ITEM_INDEX).sort(c.ITEM)
    avoided = avoided.group_by(c.USER_INDEX, maintain_order=True).agg(pl.struct(c.TITLE, c.PROFILE).alias(DISLIKED))
    joined = joined.join(avoided, on=c.USER_INDEX, how="left", maintain_order="left")
    return joined.with_columns(pl.col(SHOWN, DISLIKED).fill_null([]))


def described_users(vocabulary: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """One row per user of the vocabulary, in its order: attributes, cleaned and bounded."""
    joined = vocabulary.join(users, on=c.USER, how="left", maintain_order="left")
    return joined.select(c.USER_INDEX, c.USER, _attributes())


def _attributes() -> pl.Expr:
    return attributes_as_data().fill_null([]).alias(c.ATTRIBUTES)


def values(rows: pl.DataFrame, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The template variables of each row."""
    yield from rows.select(names).iter_rows(named=True)


def item_text_from_metadata() -> pl.Expr:
    """Title and attributes of an item, for one without a usable answer."""
    return pl.concat_str(c.TITLE, _attribute_text(), separator="; ", ignore_nulls=True)


def user_text_from_metadata() -> pl.Expr:
    """Attributes of a user and the titles shown, for one without a usable answer."""
    titles = pl.col(SHOWN).list.eval(pl.element().struct.field(c.TITLE)).list.join("; ")
    liked = pl.when(pl.col(SHOWN).list.len() > 0).then(pl.lit("enjoys ") + titles)
    known = pl.concat_str(_attribute_text(), liked, separator="; ", ignore_nulls=True)
    return pl.when(known == "").then(pl.lit("nothing known")).otherwise(known)


def _attribute_text() -> pl.Expr:
    pair = pl.element().struct.field("name") + pl.lit(" ") + pl.element().struct.field("value")
    text = pl.col(c.ATTRIBUTES).list.eval(pair).list.join("; ")
    return pl.when(text != "").then(text)
