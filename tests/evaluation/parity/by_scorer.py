"""A reference with a method per scorer."""

from collections.abc import Sequence
from typing import Any

Case = dict[str, Any]


class ByScorer:
    """A method that is called `SCORER_` gives the outcome of a case, one called `SCORER_set` that of several."""

    def scorers(self) -> list[str]:
        """Those whose cases it can judge."""
        names = [name for name in dir(self) if name[0] != "_" and name.endswith("_")]
        return [name.removesuffix("_") for name in names if getattr(self, name) is not None]

    def outcome(self, scorer: str, case: Case) -> Case:
        """What the reference says of a case; raises where the reference does."""
        return getattr(self, f"{scorer}_")(case)

    def set_outcome(self, scorer: str, cases: Sequence[Case]) -> Case | None:
        """What the reference says of a set, if it is asked here."""
        method = getattr(self, f"{scorer}_set", None)
        return None if method is None else method(cases)
