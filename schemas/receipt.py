"""What is kept of the forgetting of a person: `receipts/<time>.json` of a store. It does not say who it was."""

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
    """Whether nothing was changed; such a receipt is shown and not kept."""
    counts: dict[str, int]
    """How much of each kind was removed or rewritten."""
    left: tuple[str, ...]
    """What the store does not keep and somebody has to see to."""
