"""Turns mappings into frozen dataclasses and back, with errors that say where. Knows no setting by name."""

import dataclasses
import difflib
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

T = TypeVar("T")
Number = int | float

LARGEST = 1e15
"""No setting is larger; arithmetic with them then stays finite."""
RECIPES = Path(__file__).parent / "recipes"
"""The recipes that come with the package."""


class ConfigError(ValueError):
    """A setting is unknown, missing, of the wrong type or out of its bounds; the message names the place as one writes
    it in `a.b=c`.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a number may be, said beside its setting: `Annotated[float, Bounds(above=0)]`. `decode` sees to it."""

    least: Number | None = None
    above: Number | None = None
    most: Number | None = None
    below: Number | None = None
    endless: bool = False
    """Whether it may be infinite. nan it may never be."""

    def __str__(self) -> str:
        limits = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{words} {limit:g}" for words, limit in limits.items() if limit is not None)

    def check(self, number: Number, where: str) -> None:
        """Refuse what lies outside.

        Raises:
            ConfigError: It does.
        """
        if not abs(number) <= LARGEST and not (self.endless and abs(number) == math.inf):  # nan is not, either
            raise ConfigError(f"{where}: must be a finite number of no more than {LARGEST:g}, but is {number}")
        if (
            (self.least is not None and number < self.least)
            or (self.above is not None and number <= self.above)
            or (self.most is not None and number > self.most)
            or (self.below is not None and number >= self.below)
        ):
            raise ConfigError(f"{where}: must be {self}, but is {number}")


@dataclasses.dataclass(frozen=True)
class Keys:
    """In `Annotated[dict[str, Any], Keys((...))]`: the settings that there are, for those who do not read them."""

    names: tuple[str, ...]

    def check(self, value: Mapping[Any, Any], where: str) -> None:
        """Refuse another key.

        Raises:
            ConfigError: Offers the nearest.
        """
        for key in value:
            if key not in self.names:
                raise ConfigError(f'{where}: unknown setting "{key}"; {nearest(str(key), self.names)}')


Count = Annotated[int, Bounds(least=1)]
SmallCount = Annotated[int, Bounds(least=1, most=1000)]
"""Of what is gone through one by one."""
CountFrom0 = Annotated[int, Bounds(least=0)]
Positive = Annotated[float, Bounds(above=0)]
NotNegative = Annotated[float, Bounds(least=0)]
Share = Annotated[float, Bounds(least=0, most=1)]
Finite = Annotated[float, Bounds()]


class _Loader(yaml.SafeLoader):
    """YAML whose `1e-4` is a number (YAML 1.1 reads text) and in which no key may stand twice (YAML keeps the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (key_node, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    problem=f'key "{key}" is given twice', problem_mark=key_node.start_mark
                )
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file that holds one mapping.

    Raises:
        ConfigError: The file is missing, is not YAML, gives a key twice, or holds something else than a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"cannot read {path}: {reason}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping (`key: value` lines), but holds {_kind(content)}")
    return content


def to_yaml(value: Mapping[str, Any]) -> str:
    """A plain mapping as text, keys in their order."""
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=120)


def find_recipe(name: str) -> Path:
    """The file of a recipe that is named by its path, or of one of ours by its name (`debug`, `paper/sft`).

    Raises:
        ConfigError: There is none.
    """
    path, shipped = Path(name), shipped_recipes()
    if not path.suffix and name in shipped:
        return shipped[name]
    if not path.is_file():
        raise ConfigError(f'there is no recipe "{name}": neither a file nor one of ours; {nearest(name, shipped)}')
    return path


def shipped_recipes() -> dict[str, Path]:
    """Our own recipes, by name."""
    return {str(p.relative_to(RECIPES).with_suffix("")): p for p in sorted(RECIPES.rglob("*.yaml"))}


def read_recipe(name: str, assignments: Iterable[str] = ()) -> dict[str, Any]:
    """A recipe's settings as its file has them, with `a.b=c` applied.

    Raises:
        ConfigError: There is none, it cannot be read, or an assignment fits nowhere.
    """
    return override(read_yaml(find_recipe(name)), assignments)


def override(settings: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of nested settings with `a.b=c` applied, in order. Values are read as YAML.

    An element of a list is named by its number or, where it has one, by its `name`.

    Raises:
        ConfigError: An assignment has no `=`, or goes through a list element or a value that is not there.

    >>> override({"stages": [{"name": "sft", "steps": 9}]}, ["stages.sft.steps=3", "stages.0.optim.lr=1e-4"])
    {'stages': [{'name': 'sft', 'steps': 3, 'optim': {'lr': 0.0001}}]}
    """
    result = _copy(settings)
    for assignment in assignments:
        place, equals, text = assignment.partition("=")
        if not equals or not place:
            raise ConfigError(f'"{assignment}" is not a setting: write it as a.b=c')
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise ConfigError(f'"{text}" in "{assignment}" is not valid YAML: {error}') from error
        *path, last = place.split(".")
        here: Any = result
        for depth, key in enumerate(path):
            here = _enter(here, key, ".".join(path[: depth + 1]))
        if isinstance(here, list):
            here[_index(here, last, place)] = value
        elif isinstance(here, dict):
            here[last] = value
        else:
            raise ConfigError(f"{place}: {'.'.join(path)} is {_kind(here)}, it has no settings inside")
    return result


def decode(cls: type[T], value: Any, where: str = "recipe") -> T:
    """Build a dataclass from a mapping: nested dataclasses, tuples, dicts, `Literal`, `X | None`, paths, numbers, and
    any of these under a rule of this module (`Annotated[float, Bounds(above=0)]`, `Annotated[dict, Keys(...)]`).

    Nothing is converted but whole numbers to `float`, lists to tuples and text to `Path`.

    Args:
        cls: A dataclass.
        value: What was read, plain lists, mappings and scalars.
        where: What messages call the whole.

    Raises:
        ConfigError: A key is unknown (the nearest known one is offered) or missing, or a value has the wrong type or
            lies out of its bounds.
    """
    return _decode_fields(cls, value, where)


def decode_named(kinds: Mapping[str, type[T]], value: Mapping[str, Any], where: str, what: str) -> T:
    """Build the one of several dataclasses whose name the mapping gives as `name`, from the rest of it.

    Raises:
        ConfigError: There is none of this name, or the rest does not decode.
    """
    settings = dict(value)
    name = settings.pop("name", None)
    if name not in kinds:
        raise ConfigError(f'{where}.name: there is no {what} "{name}"; {nearest(str(name), kinds)}')
    return decode(kinds[name], settings, where)


def bind(function: Callable[..., T], options: Mapping[str, Any], where: str) -> Callable[..., T]:
    """A function with its keyword-only arguments decoded from a mapping, by the same rules as a dataclass's fields.

    Raises:
        ConfigError: As `decode`.
    """
    parameters = inspect.signature(function).parameters.values()
    own = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    required = {p.name for p in own if p.default is p.empty}
    hints = typing.get_type_hints(function, include_extras=True)
    arguments = _decode_keys(options, {p.name: hints[p.name] for p in own}, required, where)
    return functools.partial(function, **arguments)


def encode(value: Any) -> Any:
    """The plain mappings, lists and scalars that `decode` turns back into `value`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them.

    >>> nearest("lrr", ["lr", "clip"])
    'did you mean "lr"?'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f'did you mean "{close[0]}"?' if close else f"known are: {', '.join(known) or 'none'}"


def _decode(kind: Any, value: Any, where: str) -> Any:
    """`value` as type `kind`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_fields(kind, value, where)
    if origin is Annotated:
        decoded = _decode(arguments[0], value, where)
        for rule in arguments[1:]:
            rule.check(decoded, where)
        return decoded
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        hint = nearest(str(value), map(str, arguments))
        raise ConfigError(f'{where}: "{value}" is none of {", ".join(map(str, arguments))}; {hint}')
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin in (dict, Mapping):
        mapping = _expect(dict, value, where, "a mapping")
        key_kind, item_kind = arguments
        return {_decode(key_kind, k, where): _decode(item_kind, v, f"{where}.{k}") for k, v in mapping.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return _as_float(value, where)
    if kind is Path:
        return Path(_expect(str, value, where, "a path"))
    return _expect(kind, value, where, _NAMES.get(kind, kind.__name__))


def _as_float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ConfigError(f"{where}: a number of {len(str(value))} digits is too large") from error


def _decode_fields(cls: Any, value: Any, where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = typing.get_type_hints(cls, include_extras=True)
    empty = dataclasses.MISSING
    required = {name for name, field in fields.items() if field.default is empty and field.default_factory is empty}
    values = _decode_keys(value, {name: hints[name] for name in fields}, required, where)
    try:
        return cls(**values)
    except ConfigError as error:  # it knows of no place but its own
        said = str(error).removeprefix(f"{where.rpartition('.')[2]}.")
        raise ConfigError(f"{where}{'.' if _PLACE.match(said) else ': '}{said}") from error


def _decode_keys(value: Any, kinds: Mapping[str, Any], required: set[str], where: str) -> dict[str, Any]:
    mapping = _expect(dict, value, where, "a mapping")
    Keys(tuple(kinds)).check(mapping, where)
    for name in kinds:
        if name in required and name not in mapping:
            raise ConfigError(f'{where}: the setting "{name}" is missing')
    return {key: _decode(kinds[key], item, f"{where}.{key}") for key, item in mapping.items()}


def _decode_tuple(arguments: Sequence[Any], value: Any, where: str) -> tuple[Any, ...]:
    items = _expect((list, tuple), value, where, "a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = [arguments[0]] * len(items)
    if len(items) != len(arguments):
        raise ConfigError(f"{where}: {len(items)} values where {len(arguments)} are needed")
    return tuple(
        _decode(k, v, f"{where}.{_label(v, i)}") for i, (k, v) in enumerate(zip(arguments, items, strict=True))
    )


def _decode_union(kinds: Sequence[Any], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = [kind for kind in kinds if kind is not type(None)]
    errors = []
    for kind in kinds:
        try:
            return _decode(kind, value, where)
        except ConfigError as error:
            errors.append(str(error))
    # With one real choice (`X | None`) its own message is the best: it may speak of a place deep inside.
    raise ConfigError(errors[0] if len(errors) == 1 else f"{where}: fits no choice: {'; '.join(errors)}")


_PLACE = re.compile(r"[a-z_]+(\.[a-z_]+)*: ")
"""How a message begins that names a setting."""
_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _expect(kind: Any, value: Any, where: str, name: str) -> Any:
    # bool is a subclass of int in Python, but `steps: true` is a mistake
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where}: must be {name}, but is {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    return f"{_NAMES.get(type(value), type(value).__name__)} ({value!r})"


def _label(value: Any, index: int) -> str:
    name = value.get("name") if isinstance(value, dict) else None
    return name if isinstance(name, str) else str(index)


def _index(items: list[Any], key: str, place: str) -> int:
    labels = [_label(item, index) for index, item in enumerate(items)]
    if key in labels:
        return labels.index(key)
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    raise ConfigError(f'{place}: the list has no "{key}"; {nearest(key, labels)}')


def _enter(here: Any, key: str, place: str) -> Any:
    if isinstance(here, list):
        return here[_index(here, key, place)]
    if isinstance(here, dict):
        if here.get(key) is None:
            here[key] = {}
        return here[key]
    raise ConfigError(f"{place}: {_kind(here)} has no settings inside")


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, (list, tuple)) else value
