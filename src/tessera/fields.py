"""Values from files, checked against the annotations of the dataclass they are for."""

from collections.abc import Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")


def build(kind: type[T], values: Mapping[str, Any]) -> T:
    """Make a dataclass from what JSON or TOML hold.

    Raises:
        ValueError: A field that it does not have, one of the wrong type, or one that is missing.
    """
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{kind.__name__} has no {', '.join(map(repr, unknown))}")
    typed = {name: coerce(name, value, known[name].type) for name, value in values.items()}
    try:
        return kind(**typed)
    except TypeError as error:  # a field without a default that is not given
        raise ValueError(str(error)) from error


def coerce(name: str, value: Any, kind: Any) -> Any:
    """Return a value in the type of an annotation: int becomes float, list tuple, "none" None.

    Raises:
        ValueError: It is of another type.
    """
    is_union = isinstance(kind, UnionType) or get_origin(kind) is Union
    for option in get_args(kind) if is_union else (kind,):
        matched, converted = _match(value, option)
        if matched:
            return converted
    wanted = " or ".join(_in_words(option) for option in (get_args(kind) if is_union else (kind,)))
    raise ValueError(f"{name} = {value!r} is of the wrong type\nhint: it wants {wanted}")


def _in_words(kind: Any) -> str:
    if kind is NoneType:
        return "none"
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _match(value: Any, kind: Any) -> tuple[bool, Any]:
    if kind is NoneType:
        return value is None or value == "none", None
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind), value
    if get_origin(kind) is tuple:
        return _match_tuple(value, get_args(kind))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    return type(value) is kind, value


def _match_tuple(value: Any, kinds: tuple[Any, ...]) -> tuple[bool, Any]:
    if not isinstance(value, list | tuple):
        return False, None
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        return False, None
    pairs = [_match(v, k) for v, k in zip(value, kinds, strict=True)]
    return all(ok for ok, _ in pairs), tuple(v for _, v in pairs)
