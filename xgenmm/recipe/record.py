"""What a stage leaves beside its weights about where they come from: its settings, versions, and the model card."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xgenmm.config import ConfigError, encode, read_yaml, to_yaml
from xgenmm.files import write_whole
from xgenmm.provenance import commit, package_versions
from xgenmm.recipe.settings import Recipe
from xgenmm.training.checkpoint import latest_checkpoint, set_aside

FREE = ("name", "checkpoint", "health", "evaluate", "batch.micro", "batch.max_bad", "batch.warn_bad")
"""Settings of a stage that may change while it is stopped: they do not decide its weights (`micro`: as little as the
number of processes does).
"""


def note_settings(recipe: Recipe, number: int, folder: Path) -> None:
    """Write the settings of a stage that begins; refuse to go on with others."""
    if latest_checkpoint(folder / "checkpoints") is not None or set_aside(folder / "checkpoints"):
        compare_settings(recipe, number, folder)
        return
    text = to_yaml(encode(dataclasses.replace(recipe, stages=recipe.stages[: number + 1])))
    write_whole(folder / "recipe.yaml", f"{_versions()}\n{text}")


def model_card(recipe: Recipe, number: int) -> str:
    """The model card: where the weights come from, how to load them, and the whole recipe."""
    stages = recipe.stages[: number + 1]
    settings = to_yaml(encode(dataclasses.replace(recipe, stages=stages)))
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
---

# {recipe.name}: {stages[-1].name}

An xGen-MM model, trained by the package xgenmm (arXiv 2408.08872) in {len(stages)} stage(s):
{", ".join(stage.name for stage in stages)}.

```python
import xgenmm  # registers the classes; no remote code
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("path/to/this/folder")
processor = AutoProcessor.from_pretrained("path/to/this/folder")
```

The licences of its backbones and of its data are those of the folders and files named below.

```yaml
{_versions()}
{settings}```
"""


def compare_settings(recipe: Recipe, number: int, folder: Path) -> None:
    """Make sure that what is in a stage's folder came from these settings, its own and those of the stages before.

    Raises:
        ConfigError: Names the settings that differ.
    """
    path = folder / "recipe.yaml"
    now, then = _settings_that_matter(encode(recipe), number), _settings_that_matter(read_yaml(path), number)
    different = [
        f"{place} was {then.get(place, 'not set')} and is {now.get(place, 'not set')}"
        for place in sorted(now.keys() | then.keys())
        if now.get(place) != then.get(place)
    ]
    if different:
        raise ConfigError(
            f"{folder} was begun with other settings: {'; '.join(different[:5])}. Take them back, give the run another "
            f"name (name=...), or remove {folder} and what comes after it to train them again"
        )


def _settings_that_matter(settings: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Everything that decides a stage's weights, flat. Where the run lies, when it saves and gives up does not."""
    chosen = _flatten({name: settings[name] for name in ("seed", "precision", "model", "processor", "feature_cache")})
    chosen["decode"] = settings["reading"]["decode"]
    for stage in settings["stages"][: number + 1]:
        where = f"stages.{stage['name']}"
        free = tuple(f"{where}.{place}." for place in FREE)
        flat = _flatten(stage, where)
        chosen |= {place: value for place, value in flat.items() if not f"{place}.".startswith(free)}
    return chosen


def _flatten(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, list):
        value = {item.get("name", n) if isinstance(item, dict) else n: item for n, item in enumerate(value)}
    if not isinstance(value, dict):
        return {place: value}
    return {k: v for key, item in value.items() for k, v in _flatten(item, f"{place}.{key}" if place else key).items()}


def _versions() -> str:
    """Versions of what the result depends on, as comment lines."""
    lines = [f"# {' '.join(f'{name} {number}' for name, number in package_versions().items())}"]
    if number := commit():
        lines.append(f"# commit {number}")
    return "\n".join(lines)
