"""Search filters as Qdrant's conditions, chosen so that a server and local mode agree.

Values are compared as they are written, because a filter comes from a form or a command line while
metadata has the types of its source: `2020` in a CSV column is text, in front matter a number.
Qdrant never equates the two, so a value becomes one condition for each reading it allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pipeline_lib.config.retrieval import METADATA_PREFIX, SearchFilter, parse_bound, parse_number

if TYPE_CHECKING:
    from qdrant_client.models import DatetimeRange, FieldCondition, Filter, Range

_PAYLOAD_KEYS = {"heading": "heading_path"}
_BOOLEANS = {"true": True, "false": False}
_LARGEST_EXACT_FLOAT = 2**53
_TIME_SEPARATORS = frozenset("Tt: ")


def qdrant_filter(filters: Sequence[SearchFilter]) -> Filter | None:
    """One filter that holds where all of `filters` do; `None` without any.

    A field that holds a list fulfils a condition when one of its values does, and fulfils `not`
    when none of them has the value.
    """
    from qdrant_client.models import Filter

    if not filters:
        return None
    return Filter(
        must=[_one_of(_conditions(each)) for each in filters if each.operator != "not"],
        must_not=[_one_of(_conditions(each)) for each in filters if each.operator == "not"],
    )


def has_field(field: str) -> Filter:
    """Holds for points that have a value in `field`."""
    from qdrant_client.models import Filter, IsEmptyCondition, PayloadField

    return Filter(must_not=[IsEmptyCondition(is_empty=PayloadField(key=payload_key(field)))])


def payload_key(field: str) -> str:
    """Qdrant's path to a filter's field; metadata keys are quoted, as they may hold anything."""
    if not field.startswith(METADATA_PREFIX):
        return _PAYLOAD_KEYS.get(field, field)
    first, *keys = field.split(".")
    return ".".join([first, *(f'"{key}"' for key in keys)])


def _one_of(conditions: Iterable[FieldCondition]) -> Filter:
    from qdrant_client.models import Filter

    return Filter(should=list(conditions))


def _conditions(each: SearchFilter) -> list[FieldCondition]:
    """Conditions of which one must hold (for `not`: none may)."""
    from qdrant_client.models import FieldCondition, MatchPrefix

    key = payload_key(each.field)
    if each.operator == "range":
        return [FieldCondition(key=key, range=_range(each))]
    if each.operator == "prefix":
        return [FieldCondition(key=key, match=MatchPrefix(prefix=v)) for v in each.values]
    return _equal_to(key, each.values)


def _equal_to(key: str, values: Sequence[str]) -> list[FieldCondition]:
    from qdrant_client.models import FieldCondition, MatchAny, MatchValue, Range

    conditions = [FieldCondition(key=key, match=MatchAny(any=list(values)))]
    for value in values:
        number = parse_number(value)
        if value in _BOOLEANS:
            conditions.append(FieldCondition(key=key, match=MatchValue(value=_BOOLEANS[value])))
        elif isinstance(number, int) and abs(number) > _LARGEST_EXACT_FLOAT:
            conditions.append(FieldCondition(key=key, match=MatchValue(value=number)))
        elif number is not None:  # a range finds integers and floats, a match integers only
            conditions.append(FieldCondition(key=key, range=Range(gte=number, lte=number)))
    return conditions


def _range(each: SearchFilter) -> Range | DatetimeRange:
    from qdrant_client.models import DatetimeRange, Range

    lower = None if each.minimum is None else parse_bound(each.minimum)
    upper = None if each.maximum is None else parse_bound(each.maximum)
    if not isinstance(lower, datetime) and not isinstance(upper, datetime):
        return Range(gte=lower, lte=upper)
    if isinstance(upper, datetime) and each.maximum is not None and _is_date(each.maximum):
        return DatetimeRange(gte=lower, lt=upper + timedelta(days=1))
    return DatetimeRange(gte=lower, lte=upper)


def _is_date(text: str) -> bool:
    """Whether a point in time is given without its time of day."""
    return _TIME_SEPARATORS.isdisjoint(text)
