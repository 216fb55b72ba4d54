"""A model's instance groups, as its configuration tells them: how to replace one instance alone.

When a loaded model is loaded with another ``instance_group`` and nothing else is new, Triton keeps
every instance that is in both, with its process and its work, ends those that are gone and starts
those that are new (from 23.06 on; core/backend_model.cc, ``PrepareInstances``). It takes two
instances for the same when their groups are, but for name and count, and they are on the same
device. So one of several alike can't be named: of a group with ``count: 2`` Triton would end
either.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

_AGAIN = re.compile(r"_again(\d+)$")

Config = dict[str, Any]  # Triton's model configuration, as its HTTP endpoint gives it


@dataclasses.dataclass(frozen=True)
class Replacement:
    """Two configurations to load one after the other, as Triton's load request takes them.

    Attributes:
        without: the lost instance is left out.
        complete: a new one is in its place.
    """

    without: str
    complete: str


def instances(config: Config) -> int | None:
    """How many processes a loaded model should have; None: none are its own, as of an ensemble."""
    if config.get("backend") != "python":
        return None
    return sum(map(_instances, config.get("instance_group", [])))


def replacement(config: Config, instance: str) -> Replacement | None:
    """How to replace one instance of a model while the others go on.

    Args:
        config: of the model as it is loaded.
        instance: the lost one's name.

    Returns:
        None when there is no other instance, or Triton can't tell the lost one from another one.
    """
    groups: list[Config] = config.get("instance_group", [])
    own = [group for group in groups if f"{group.get('name')}_0" == instance]
    if len(own) != 1 or len(groups) < 2 or _instances(own[0]) != 1:
        return None
    others = [group for group in groups if group is not own[0]]
    if _signature(own[0]) in map(_signature, others):
        return None
    new = {**own[0], "name": _next_name(str(own[0]["name"]), groups)}
    return Replacement(_loadable(config, others), _loadable(config, [*others, new]))


def _instances(group: Config) -> int:
    return int(group.get("count", 1)) * max(1, len(group.get("gpus", [])))


def _signature(group: Config) -> str:
    """What Triton tells instances apart by."""
    kept = {key: value for key, value in group.items() if key not in ("name", "count")}
    return json.dumps(kept, sort_keys=True)


def _next_name(name: str, groups: list[Config]) -> str:
    """A group's name that none has, so that every instance has a name of its own."""
    taken = {group.get("name") for group in groups}
    match = _AGAIN.search(name)
    base, number = (name[: match.start()], int(match[1])) if match else (name, 0)
    while (new := f"{base}_again{number + 1}") in taken:
        number += 1
    return new


def _loadable(config: Config, groups: list[Config]) -> str:
    return json.dumps({**config, "instance_group": groups})
