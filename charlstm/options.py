"""Options as fields of a dataclass: whether values are of the fields' types, and in range."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from .errors import UsageError

C = TypeVar("C")


def from_dict(cls: type[C], values: Any, where: str) -> C:
    """A config dataclass from untrusted values; UsageError for unknown keys and wrong types."""
    check_values(cls, values, where)
    return cls(**values)


def field_names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


# ---- checks: UsageError where a value cannot be -----------------------------------------------


def check_types(config: Any) -> None:
    """Every field of a config dataclass is of its type."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _fits(value, hint):
            raise UsageError(f"{name} cannot be {value!r}{_choices(hint)}")


def check_values(cls: type, values: Any, where: str) -> None:
    """`values` are fields of a config dataclass, of their types."""
    hints = typing.get_type_hints(cls)
    if not isinstance(values, Mapping):
        raise UsageError(f"{where}: a table of options is expected, not {values!r}")
    for key, value in values.items():
        if key not in hints:
            raise UsageError(f"{where}: unknown option {key!r}: {did_you_mean(key, hints)}")
        if not _fits(value, hints[key]):
            raise UsageError(f"{where}: {key} cannot be {value!r}{_choices(hints[key])}")


def check_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{name} must be greater than 0 and finite, not {value}")


def check_shares(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            raise UsageError(f"{name} must be at least 0 and less than 1, not {value}")


def check_not_negative(config: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) < math.inf:
            raise UsageError(f"{name} must be 0 or more and finite, not {getattr(config, name)}")


def parse_duration(text: str) -> float:
    """Seconds of a duration such as "16s", "5m", "2h" or "90".

    >>> parse_duration("1.5h")
    5400.0
    """
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise UsageError(f"a duration reads 16s, 5m or 2h, not {text!r}")
    return seconds


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Advice about an unknown word."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def _is_choice(hint: Any) -> bool:
    return typing.get_origin(hint) is Literal


def _choices(hint: Any) -> str:
    return f": it is one of {', '.join(typing.get_args(hint))}" if _is_choice(hint) else ""


def _fits(value: Any, hint: Any) -> bool:
    if _is_choice(hint):
        return value in typing.get_args(hint)
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, (tuple, list)):
        items = [typing.get_args(part)[0] for part in allowed if typing.get_origin(part) is tuple]
        return any(all(_fits(item, kind) for item in value) for kind in items)
    if isinstance(value, dict):
        parts = [typing.get_args(part) for part in allowed if typing.get_origin(part) is dict]
        return any(all(_fits(k, key) and _fits(v, item) for k, v in value.items()) for key, item in parts)
    if isinstance(value, bool):
        return bool in allowed
    if isinstance(value, int) and not -(2**63) <= value < 2**63:  # what arrays can hold
        return False
    if isinstance(value, int) and float in allowed:
        return True
    return isinstance(value, tuple(part for part in allowed if typing.get_origin(part) is None))
