"""How an adapter chooses among what a row offers (twelve captions, many regions), so that choices can be counted."""

from collections.abc import Callable

Choose = Callable[[int], int]
"""Given how many alternatives there are, the number of the one to take. An adapter calls it at most once a row, and
how many there are depends on the row alone: so an index can go through all of them, and a planner can pick one."""


class Asked:
    """Takes the first alternative and remembers how many there were.

    >>> asked = Asked()
    >>> "abc"[asked(3)], asked.count
    ('a', 3)
    """

    def __init__(self) -> None:
        self.count = 1

    def __call__(self, count: int) -> int:
        """0, whatever there is to choose from."""
        self.count = count
        return 0


def pick(number: int) -> Choose:
    """Takes alternative `number`.

    >>> "abc"[pick(2)(3)]
    'c'
    """
    return lambda _count: number
