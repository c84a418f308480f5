"""The record of a call of `darec forget`: `receipts/<time>.json` of a store. It does not identify the person."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class Receipt(BaseModel):
    """What was removed, and what is left to do elsewhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: datetime
    who: str
    """The user of the machine who ran the command."""
    why: str
    dry_run: bool = False
    """Whether the call was a dry run. Such a receipt is printed and not written."""
    counts: dict[str, int]
    """Number of removed or rewritten objects of each kind."""
    left: tuple[str, ...]
    """Data outside the store that has to be removed separately."""
