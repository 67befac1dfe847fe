"""The documents against the code: every setting with its default, every file of the map, every link and verb."""

import dataclasses
import inspect
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from xgenmm.cli.command import _parser
from xgenmm.data.adapters import ADAPTERS
from xgenmm.evaluation.benchmarks import benchmarks
from xgenmm.objectives import OBJECTIVES
from xgenmm.processor.processor import ProcessorConfig
from xgenmm.recipe.settings import Recipe

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def settings_classes(root: Any) -> set[type]:
    """All dataclasses that a recipe's fields lead to."""
    found: set[type] = set()
    waiting = [root, ProcessorConfig, *OBJECTIVES.values()]  # the last two are decoded later than the recipe
    while waiting:
        hint = waiting.pop()
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and hint not in found:
            found.add(hint)
            waiting += typing.get_type_hints(hint).values()
        elif isinstance(hint, types.UnionType) or typing.get_origin(hint) is not None:
            waiting += get_args(hint)
    return found


def documented(name: str) -> dict[str, str]:
    """Setting -> default, as the table under the heading that ends with (`name`) says."""
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    section = re.search(rf"^#+ [^\n]*\(`{name}`\)\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"docs/recipes.md has no section for {name}"
    return dict(re.findall(r"^\| `(\w+)` \| (required|below|`[^`]*`) \| (?!`[^`]*` \|)", section[1], re.MULTILINE))


def in_words(setting: dataclasses.Field) -> str:
    """A setting's default as the documents write it."""
    if setting.default_factory is not dataclasses.MISSING:
        default = setting.default_factory()
    elif setting.default is dataclasses.MISSING:
        return "required"
    else:
        default = setting.default
    return "below" if dataclasses.is_dataclass(default) else as_yaml(default)


def as_yaml(value: Any) -> str:
    """A plain value as one line of YAML, in code marks."""
    if value == "":
        return '`""`'
    if isinstance(value, str):
        return f"`{value}`"
    plain = list(value) if isinstance(value, tuple) else value
    line = yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{line}`"


@pytest.mark.parametrize("cls", sorted(settings_classes(Recipe), key=lambda cls: cls.__name__))
def test_every_setting_is_documented_with_its_default(cls: type):
    expected = {setting.name: in_words(setting) for setting in dataclasses.fields(cls)}
    assert documented(cls.__name__) == expected


def test_every_option_of_an_adapter_is_documented_with_its_default():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (`[^`]*`) \|", text, re.MULTILINE)
    table = {(adapter, option): default for adapter, option, default in rows}
    expected = {
        (name, parameter.name): as_yaml(parameter.default)
        for name, adapter in ADAPTERS.items()
        for parameter in inspect.signature(adapter).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert table == expected


def test_the_readmes_map_is_the_tree():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^    xgenmm/\n(.*?)^    tests/", text, re.MULTILINE | re.DOTALL)
    assert block
    named = {line.split()[0].rstrip("/") for line in block[1].splitlines()}
    there = {
        path.name
        for path in (ROOT / "xgenmm").iterdir()
        if not path.name.startswith("__") and (path.suffix == ".py" or path.is_dir())
    }
    assert named == there


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    text = document.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)", text, re.MULTILINE)
    }
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in headings
        elif not link.startswith("https://"):
            assert (document.parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_verbs_and_files_that_are_named_exist(document: Path):
    text = document.read_text(encoding="utf-8")
    verbs = {verb for action in _parser()._actions if isinstance(action.choices, dict) for verb in action.choices}
    assert set(re.findall(r"(?:`|^ *(?:\.venv/bin/)?)xgenmm ([a-z]+)\b", text, re.MULTILINE)) <= verbs
    for name in re.findall(r"`((?:xgenmm|tests|docs)/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name


def test_every_benchmark_is_documented():
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(\w+)` (\|.*)$", text, re.MULTILINE))
    rows = {name: cells for name, cells in table.items() if name in benchmarks()}
    assert set(rows) == set(benchmarks())
    for name, benchmark in benchmarks().items():
        source = benchmark.source
        told = [benchmark.title, source.repo, source.split, source.config or "", benchmark.prompt, benchmark.scorer]
        told += [benchmark.licence, benchmark.notes, *(headline.name for headline in benchmark.headlines.values())]
        assert [one for one in told if one not in rows[name]] == []
        assert ("| yes |" in rows[name]) == (benchmark.few_shot is not None)


def test_constraints_pin_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert pinned[0] == "torch==2.13.0"
    assert {re.split(r"[<>=]", line)[0] for line in asked} <= {line.split("==")[0] for line in pinned}
    assert all("==" in line for line in pinned)
