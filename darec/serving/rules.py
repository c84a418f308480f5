"""Rules for a release: the allowed items, and the number of items in a list with the same value of an attribute."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from darec.common.errors import UserError
from darec.common.files import read_text, regular_file
from darec.serving.bundle import Bundle
from darec.serving.index import Ints
from schemas import columns as c
from schemas.rules import Ids, RulesConfig


@dataclass(frozen=True)
class Limits:
    """Maximum number of items in a list with the same value of an attribute, for all limited attributes."""

    values: NDArray[np.int32]
    """Numbers of each item's values, [n_items, m]; rows of items with fewer values are padded with V."""
    most: Ints
    """Maximum number of items with each value, [V + 1]; the last one, for the padding, is never reached."""

    @classmethod
    def of(cls, at_most: dict[str, int], bundle: Bundle) -> Self:
        """The limits `at_most` of attributes, for the items of a release."""
        tables = [bundle.attribute(name).with_columns(name=pl.lit(name), most=most) for name, most in at_most.items()]
        table = pl.concat(tables).with_columns(number=pl.struct("name", "value").rank("dense").cast(pl.Int32) - 1)
        table = table.with_columns(place=pl.int_range(pl.len()).over(c.ITEM_INDEX))

        most = table.unique("number").sort("number")["most"].cast(pl.Int64)
        width = int(table["place"].to_numpy().max(initial=0)) + 1
        values = np.full((bundle.items.height, width), len(most), np.int32)
        values[table[c.ITEM_INDEX].to_numpy(), table["place"].to_numpy()] = table["number"].to_numpy()
        return cls(values, np.append(most.to_numpy(), np.iinfo(np.int64).max))

    def kept(self, ids: Ints) -> NDArray[np.bool_]:
        """The positions of the lists [b, n] that are kept when each list is filled from its first position on; -1 is
        never kept.

        All lists are processed one position at a time, because an item is kept depending on the kept items before it.
        """
        counts = np.zeros((len(ids), len(self.most)), np.int32)
        rows = np.arange(len(ids))[:, None]
        stays = ids >= 0
        for place in range(ids.shape[1]):
            values = self.values[ids[:, place]]
            stays[:, place] &= (counts[rows, values] < self.most[values]).all(1)
            counts[rows, values] += stays[:, place, None]
        return stays


@dataclass(frozen=True)
class Rules:
    """The rules of a recipe or of a request, with the item numbers of a release."""

    allowed: NDArray[np.bool_] | None = None
    """Whether an item may be recommended, [n_items]; None if all may."""
    limits: Limits | None = None
    seen: bool = False
    min_diversity: float = 0.0
    new: NDArray[np.bool_] | None = None
    """Whether an item is new and may be recommended, [n_items]; None if no positions are reserved for new items."""
    new_share: float = 0.0
    """Minimum share of new items in a list."""

    @classmethod
    def of(cls, config: RulesConfig, bundle: Bundle) -> Self:
        """Resolves the rules for the items of a release.

        Raises:
            UserError: a file that cannot be read, an attribute or a value that the release does not have, or rules that
            allow no item.
        """
        limits = Limits.of(config.at_most, bundle) if config.at_most else None
        allowed, new = _allowed(config, bundle), None
        if config.new_share and not config.only_new:
            new = _new(config, bundle) if allowed is None else _new(config, bundle) & allowed
        return cls(allowed, limits, config.seen, config.min_diversity, new, config.new_share)


def _allowed(config: RulesConfig, bundle: Bundle) -> NDArray[np.bool_] | None:
    parts = [_listed(bundle, rule, ids) for rule in ("only", "in_stock") if (ids := getattr(config, rule)) is not None]
    parts += [_having(bundle, "categories", *each) for each in config.categories.items()]
    parts += [~_having(bundle, "blocked_categories", *each) for each in config.blocked_categories.items()]
    if config.blocked:
        parts.append(~_listed(bundle, "blocked", config.blocked))
    if config.only_new:
        parts.append(_new(config, bundle))
    if not parts:
        return None

    allowed = np.logical_and.reduce(parts)
    if not allowed.any():
        hint = "none of the allowed items is in the release: check ids, categories and new items"
        raise UserError("the rules allow no item", where="rules", hint=hint)

    return allowed


def _new(config: RulesConfig, bundle: Bundle) -> NDArray[np.bool_]:
    """Whether an item is new, [n_items]."""
    return bundle.items[c.TRAIN_COUNT].to_numpy() <= config.new_up_to


def _listed(bundle: Bundle, rule: str, ids: Ids) -> NDArray[np.bool_]:
    """Whether an item is one of `ids`, [n_items]."""
    named = pl.Series(ids_of(rule, ids), dtype=pl.String)
    return bundle.items[c.ITEM].is_in(named.implode()).to_numpy()


def ids_of(rule: str, ids: Ids) -> Sequence[str]:
    """The ids, read from a file if one is named: from the column `item_id` if it is Parquet, else one per line.

    Raises:
        UserError: the file cannot be read.
    """
    return _read(rule, ids) if isinstance(ids, Path) else ids


def _read(rule: str, path: Path) -> list[str]:
    name, hint = f"the file of rules.{rule}", f"give one id per line, or a Parquet file with a column {c.ITEM}"
    if path.suffix != ".parquet":
        lines = read_text(path, name, hint=hint, limit=2**30).splitlines()
        return [line.strip() for line in lines if line.strip()]

    regular_file(path, name, hint=hint)
    try:
        return pl.read_parquet(path, columns=[c.ITEM], glob=False)[c.ITEM].cast(pl.String).to_list()
    except (OSError, pl.exceptions.PolarsError) as error:
        what = f"{name} cannot be read ({str(error).splitlines()[0]})"
        raise UserError(what, where=str(path), hint=hint) from error


def _having(bundle: Bundle, rule: str, name: str, wanted: Sequence[str]) -> NDArray[np.bool_]:
    """Whether an item has one of the values of an attribute, [n_items]."""
    table = bundle.attribute(name)
    known = table["value"].unique()
    for value in wanted:
        if value not in known:
            nearest = difflib.get_close_matches(value, known.to_list(), n=3, cutoff=0.3)
            hint = f"nearest known: {', '.join(nearest)}" if nearest else "see the items file for its values"
            raise UserError(f"no item has {name} {value!r}", where=f"rules.{rule}", hint=hint)

    having = np.zeros(bundle.items.height, bool)
    having[table.filter(pl.col("value").is_in(list(wanted)))[c.ITEM_INDEX].to_numpy()] = True
    return having
