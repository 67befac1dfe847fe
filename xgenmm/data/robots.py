"""What a server's robots.txt and its headers say about our coming. Asks nobody itself.

Source: RFC 9309 (groups, the longest rule wins, `*` and `$`); X-Robots-Tag with the words by which pages refuse to be
training data.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

LONGEST = 500 * 1024
"""Bytes of a robots.txt that are read."""
REFUSALS = ("noai", "noimageai", "noindex", "noimageindex", "none")
"""Words of X-Robots-Tag that ask not to be collected."""


@dataclass(frozen=True, kw_only=True)
class Robots:
    """The rules that hold for us."""

    rules: tuple[tuple[str, bool], ...]
    """Pattern of a path, and whether it allows."""

    def allows(self, target: str) -> bool:
        """Whether we may ask for a path with its query. The longest pattern counts; of equal ones, the allowing."""
        target = _unified(target)
        if target == "/robots.txt":
            return True
        fitting = [(len(pattern), allow) for pattern, allow in self.rules if _fits(pattern, target)]
        return max(fitting)[1] if fitting else True


EVERYTHING = Robots(rules=())
NOTHING = Robots(rules=(("/", False),))


def parse_robots(content: bytes, agent: str) -> Robots:
    """The rules for an agent: those of all groups that name it, or else of those for `*`.

    Args:
        content: The file.
        agent: A product's name, without its version.

    >>> parse_robots(b"User-agent: *\\nDisallow: /private", "xgenmm").allows("/private/a.jpg")
    False
    """
    groups = _groups(content[:LONGEST].decode("utf-8-sig", errors="replace"))
    ours = [rules for agents, rules in groups if agent.lower() in agents]
    chosen = ours or [rules for agents, rules in groups if "*" in agents]
    return Robots(rules=tuple(rule for rules in chosen for rule in rules))


def refusal(headers: Mapping[str, str], agent: str) -> str:
    """The word of X-Robots-Tag that asks us not to take a picture; "" if there is none.

    >>> refusal({"x-robots-tag": "otherbot: noai, noindex"}, "xgenmm")
    ''
    >>> refusal({"x-robots-tag": "NoAI"}, "xgenmm")
    'noai'
    """
    line = headers.get("x-robots-tag", "")
    addressed = ""
    for word in line.lower().split(","):
        name, colon, rest = word.partition(":")
        if colon and name.strip() not in ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"):
            addressed, word = name.strip(), rest  # what follows is said to this agent only
        if word.strip() in REFUSALS and addressed in ("", agent.lower()):
            return word.strip()
    return ""


def _groups(text: str) -> list[tuple[set[str], list[tuple[str, bool]]]]:
    groups: list[tuple[set[str], list[tuple[str, bool]]]] = []
    in_heading = False
    for line in re.split(r"[\r\n]+", text):
        name, colon, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon:
            continue
        if name == "user-agent":
            if not in_heading:
                groups.append((set(), []))
            groups[-1][0].add(re.split(r"[/\s]", value.lower())[0])
            in_heading = True
        elif name in ("allow", "disallow"):
            in_heading = False
            if groups and value:  # an empty rule allows, as no rule does
                groups[-1][1].append((_unified(value), name == "allow"))
    return groups


def _unified(target: str) -> str:
    """One spelling of what is percent-encoded, so that rules and paths can be compared."""
    return quote(unquote(target, errors="surrogateescape"), safe="/?&=*$%~:@!',;+()[]", errors="surrogateescape")


def _fits(pattern: str, target: str) -> bool:
    """Whether a target begins with a pattern, in which `*` is anything and a last `$` the end.

    No regular expression: a stranger's `*a*a*a*` would keep one busy.
    """
    anchored = pattern.endswith("$")
    first, *pieces = (pattern[:-1] if anchored else pattern).split("*")
    return target.startswith(first) and _pieces_fit(target, len(first), pieces, anchored)


def _pieces_fit(target: str, at: int, pieces: Sequence[str], anchored: bool) -> bool:
    if not pieces:
        return not anchored or at == len(target)
    for piece in pieces[:-1]:
        found = target.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    last = pieces[-1]
    if anchored:
        return target.endswith(last) and len(target) - len(last) >= at
    return target.find(last, at) >= 0
