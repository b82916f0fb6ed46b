"""What a reader asks for, checked: the parameters that every kind of report shares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hitledger.errors import QueryError

DEFAULT_LIMIT = 1000
MOST_LIMIT = 10_000


@dataclass(frozen=True)
class Query:
    """One request for rows in order.

    `limit` and `cursor` choose the page; everything else chooses the rows.
    """

    limit: int = DEFAULT_LIMIT
    cursor: str | None = None

    @classmethod
    def read(cls, texts: Mapping[str, str]) -> Query:
        """Read a query from its parameters, as a URL or a command line gives them.

        Raises:
            QueryError: a parameter is unknown, or its value is not allowed.
        """
        for name in texts:
            if name not in ("limit", "cursor"):
                raise QueryError(name, "is no parameter of this report.")
        return cls(read_limit(texts.get("limit")), texts.get("cursor"))

    @property
    def subject(self) -> str:
        """The rows that are asked for, whatever the page: what a cursor is bound to."""
        return "period=all"

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters that ask for the same rows and the same size of page, without the cursor."""
        return {} if self.limit == DEFAULT_LIMIT else {"limit": str(self.limit)}


def read_limit(text: str | None) -> int:
    """Return how many rows a page may have."""
    if text is None:
        return DEFAULT_LIMIT
    if re.fullmatch(r"[0-9]{1,9}", text) and 1 <= int(text) <= MOST_LIMIT:
        return int(text)
    raise QueryError("limit", f"takes a whole number from 1 to {MOST_LIMIT:,}.")
