"""Settings: what decodes, what comes back, and what the messages say."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from xgenmm.config import (
    Bounds,
    ConfigError,
    Count,
    CountFrom0,
    Finite,
    Keys,
    NotNegative,
    Positive,
    Share,
    bind,
    decode,
    encode,
    override,
    read_yaml,
    to_yaml,
)


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float
    schedule: Literal["cosine", "constant"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    steps: int | None = None
    train: bool | Literal["lora"] = False
    optim: Optim
    folder: Path = Path("runs")
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    stages: tuple[Stage, ...]


GOOD = {"stages": [{"name": "sft", "train": "lora", "optim": {"lr": 1}, "folder": "a/b", "options": {"n": [1]}}]}


def test_decoded_and_encoded_it_is_the_same():
    run = decode(Run, GOOD)
    assert run.stages[0].optim.lr == 1.0
    assert isinstance(run.stages[0].optim.lr, float)
    assert run.stages[0].folder == Path("a/b")
    assert run.stages[0].train == "lora"
    assert decode(Run, encode(run)) == run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stages.sft.optim.lrr=1", 'recipe.stages.sft.optim: unknown setting "lrr"; did you mean "lr"?'),
        ("stages.sft.optim={}", 'recipe.stages.sft.optim: the setting "lr" is missing'),
        ("stages.sft.optim.lr=fast", "recipe.stages.sft.optim.lr: must be a number, but is text ('fast')"),
        ("stages.sft.optim.lr=true", "recipe.stages.sft.optim.lr: must be a number, but is true or false (True)"),
        ("stages.sft.steps=1.5", "recipe.stages.sft.steps: must be a whole number, but is a number (1.5)"),
        ("stages.sft.optim.schedule=cosin", 'did you mean "cosine"?'),
        ("stages.sft.optim.betas=[0.9]", "recipe.stages.sft.optim.betas: 1 values where 2 are needed"),
        ("stages=3", "recipe.stages: must be a list, but is a whole number (3)"),
        ("stages.sft=", "recipe.stages.0: must be a mapping, but is empty"),
    ],
)
def test_messages_name_the_place(change, message):
    with pytest.raises(ConfigError) as error:
        decode(Run, override(GOOD, [change]))
    assert message in str(error.value)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    count: Count | None = None
    from_0: CountFrom0 = 0
    positive: Positive = 1.0
    weights: dict[Count, dict[str, NotNegative]] = field(default_factory=dict)
    betas: tuple[Annotated[float, Bounds(least=0, below=1)], ...] = ()
    share: Share = 0.5
    mean: Finite = 0.0
    seconds: Annotated[float, Bounds(above=0, endless=True)] = 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("count=0", "recipe.count: must be at least 1, but is 0"),
        ("from_0=-1", "recipe.from_0: must be at least 0, but is -1"),
        ("positive=0", "recipe.positive: must be above 0, but is 0.0"),
        ("positive=.inf", "recipe.positive: must be a finite number of no more than 1e+15, but is inf"),
        ("weights={0: {}}", "recipe.weights: must be at least 1, but is 0"),
        ("weights={2: {a: -0.5}}", "recipe.weights.2.a: must be at least 0, but is -0.5"),
        ("betas=[0, 1]", "recipe.betas.1: must be at least 0 and below 1, but is 1.0"),
        ("share=1.5", "recipe.share: must be at least 0 and at most 1, but is 1.5"),
        ("mean=-.inf", "recipe.mean: must be a finite number of no more than 1e+15, but is -inf"),
        ("mean=.nan", "recipe.mean: must be a finite number of no more than 1e+15, but is nan"),
        ("seconds=.nan", "recipe.seconds: must be a finite number of no more than 1e+15, but is nan"),
        ("share=1" + 400 * "0", "recipe.share: a number of 401 digits is too large"),
        ("count=1.5", "recipe.count: must be a whole number, but is a number (1.5)"),
    ],
)
def test_numbers_outside_their_bounds_are_refused(change, message):
    with pytest.raises(ConfigError) as error:
        decode(Numbers, override({}, [change]))
    assert str(error.value) == message


def test_numbers_within_their_bounds_are_taken():
    within = ["count=1", "from_0=0", "positive=1e-9", "weights={1: {a: 0}}", "betas=[0, 0.999]", "share=1", "mean=-3"]
    numbers = decode(Numbers, override({}, [*within, "seconds=.inf"]))
    assert numbers == Numbers(
        count=1, positive=1e-9, weights={1: {"a": 0.0}}, betas=(0.0, 0.999), share=1.0, mean=-3.0, seconds=float("inf")
    )
    assert decode(Numbers, encode(numbers)) == numbers


def test_true_is_not_one_in_a_choice():
    with pytest.raises(ConfigError, match="fits no choice"):
        decode(Run, override(GOOD, ["stages.sft.train=1"]))


@dataclass(frozen=True, kw_only=True)
class Unread:
    optim: Annotated[dict[str, Any], Keys(("lr", "clip"))] = field(default_factory=dict)


def test_names_of_what_is_not_read_are_checked():
    assert decode(Unread, {"optim": {"lr": "anything"}}).optim == {"lr": "anything"}
    with pytest.raises(ConfigError, match=r'recipe\.optim: unknown setting "lrr"; did you mean "lr"'):
        decode(Unread, {"optim": {"lrr": 1}})
    with pytest.raises(ConfigError, match=r"recipe\.optim: must be a mapping, but is empty"):
        decode(Unread, {"optim": None})


def test_override_by_name_number_and_new_key_leaves_the_original_alone():
    changed = override(GOOD, ["stages.sft.steps=3", "stages.0.optim.lr=1e-4", "extra.deep.value=[1, a]"])
    assert changed["stages"][0]["steps"] == 3
    assert changed["stages"][0]["optim"]["lr"] == 0.0001
    assert changed["extra"] == {"deep": {"value": [1, "a"]}}
    assert "steps" not in GOOD["stages"][0]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("steps", "write it as a.b=c"),
        ("stages.sfd.steps=1", 'stages.sfd: the list has no "sfd"; did you mean "sft"?'),
        ("stages.sft.name.x=1", "stages.sft.name.x: stages.sft.name is text ('sft')"),
        ("a=[1", "is not valid YAML"),
    ],
)
def test_bad_overrides(assignment, message):
    with pytest.raises(ConfigError) as error:
        override(GOOD, [assignment])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "is not valid YAML"),
        (b"a: 1\nb: 2\na: 3\n", 'key "a" is given twice'),
        (b"- 1\n", "must hold a mapping"),
        (b"", "but holds empty"),
        (b"a: \xff", "not UTF-8 text"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_yaml(path)
    assert message in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_yaml(tmp_path / "none.yaml")


def test_written_and_read_it_is_the_same(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(encode(decode(Run, GOOD))))
    assert decode(Run, read_yaml(path)) == decode(Run, GOOD)


def test_numbers_as_people_write_them(tmp_path):
    path = tmp_path / "numbers.yaml"
    path.write_text("a: 1e-4\nb: 2.5E3\nc: 1e5\nd: e5\n")
    assert read_yaml(path) == {"a": 0.0001, "b": 2500.0, "c": 100000.0, "d": "e5"}


def test_bind_checks_a_functions_keyword_arguments():
    def adapter(row: str, *, prompt: str = "", limit: Count) -> str:
        return f"{row}{prompt}{limit}"

    assert bind(adapter, {"limit": 2}, "data.options")("row") == "row2"
    with pytest.raises(ConfigError, match=r'data.options: unknown setting "promt"; did you mean "prompt"'):
        bind(adapter, {"limit": 2, "promt": "x"}, "data.options")
    with pytest.raises(ConfigError, match='the setting "limit" is missing'):
        bind(adapter, {}, "data.options")
    with pytest.raises(ConfigError, match=r"data.options.limit: must be at least 1, but is 0"):
        bind(adapter, {"limit": 0}, "data.options")
