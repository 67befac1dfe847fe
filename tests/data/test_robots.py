"""robots.txt and X-Robots-Tag: the examples of RFC 9309, and what hostile files could do."""

import time

import pytest

from xgenmm.data.robots import parse_robots, refusal


def allows(text: str, target: str, agent: str = "xgenmm") -> bool:
    return parse_robots(text.encode(), agent).allows(target)


RFC = """
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot
"""


@pytest.mark.parametrize(
    ("agent", "target", "expected"),
    [
        ("anybot", "/example/a.html", False),
        ("anybot", "/publications/a.html", True),
        ("anybot", "/a.gif", False),
        ("anybot", "/a.gif?x", True),
        ("foobot", "/a.html", False),
        ("foobot", "/example/page.html", True),
        ("foobot", "/example/allowed.gif", True),
        ("foobot", "/example/other.gif", False),
        ("barbot", "/example/page.html", False),
        ("bazbot", "/example/page.html", False),
        ("bazbot", "/example/other.html", True),
        ("quxbot", "/example/a.gif", True),
        ("FooBot", "/a.html", False),
    ],
)
def test_the_examples_of_the_standard(agent, target, expected):
    """RFC 9309, section 5.1; in its section 5.2 the longest match of two wins."""
    assert allows(RFC, target, agent) == expected


def test_the_longest_rule_wins():
    text = "user-agent: xgenmm\nAllow: /example/page/\nDisallow: /example/page/disallowed.gif"
    assert not allows(text, "/example/page/disallowed.gif")
    assert allows(text, "/example/page/other.gif")
    assert allows("user-agent: *\nDisallow: /a\nAllow: /a", "/ab")  # of equal ones, the allowing


@pytest.mark.parametrize(
    ("rule", "target", "expected"),
    [
        ("/fish", "/fish.html", False),
        ("/fish", "/Fish.asp", True),
        ("/fish*", "/fishheads/yummy.html", False),
        ("/*.jpg", "/a/b.jpg?size=1", False),
        ("/*.jpg$", "/a/b.jpg?size=1", True),
        ("/a*b*c", "/a-b-c", False),
        ("/a*b*c", "/a-c-b", True),
        ("/a*b$", "/ab", False),
        ("/ab*ab$", "/ab", True),  # the two ends may not be one
        ("/%7Ejoe/", "/~joe/a.jpg", False),
        ("/ä", "/%C3%A4.jpg", False),
        ("/", "/robots.txt", True),
        ("", "/anything", True),
    ],
)
def test_patterns(rule, target, expected):
    assert allows(f"User-agent: *\nDisallow: {rule}", target) == expected


def test_what_is_no_robots_file_forbids_nothing():
    assert allows("<html><body>Not found</body></html>", "/a.jpg")
    assert allows("", "/a.jpg")
    assert parse_robots(b"\xff\xfe\x00Disallow", "xgenmm").allows("/a.jpg")


def test_our_own_group_goes_before_the_one_for_all_and_groups_add_up():
    text = (
        "User-agent: *\nDisallow: /\n\nUser-agent: xgenmm/0.1\nDisallow: /a\n\nUser-agent: xgenmm\nDisallow: /b # no\n"
    )
    assert [allows(text, path) for path in ("/a", "/b", "/c")] == [False, False, True]
    assert allows("\ufeffUser-agent: xgenmm\r\nCrawl-delay: 5\r\nDisallow: /a\r\n", "/b")


def test_a_hostile_pattern_takes_no_time():
    text = "User-agent: *\nDisallow: /" + "*a" * 2000 + "$"
    began = time.process_time()
    allows(text, "/" + "a" * 1999 + "b")
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("noai", "noai"),
        ("NoAI, NoImageAI", "noai"),
        ("max-snippet: 20, noimageindex", "noimageindex"),
        ("noarchive", ""),
        ("googlebot: noai", ""),
        ("googlebot: nofollow, noai", ""),
        ("xgenmm: noai", "noai"),
        ("unavailable_after: 25 Jun 2027 15:00:00 GMT, noindex", "noindex"),
        ("", ""),
    ],
)
def test_headers_that_ask_not_to_be_collected(line, expected):
    assert refusal({"x-robots-tag": line} if line else {}, "xgenmm") == expected
