"""From plain values to the fields of a Struct: names in any case, every field of the right type.

Knows: how keys are matched, and what each type accepts. Must not know: what any field means. The Structs are the only
list of fields there is (`protocol.jobs`, `protocol.spec.engines`).

Null is as good as absent, and an empty text among texts. An unknown key is a fault to someone who wrote it (`strict`) and
nothing to a program. All that is wrong is found, and what is right goes on: a field that is wrong or missing counts as
its default, so that rules can look at the rest.

Most programs write canonical names and right types. So a value is first held against a form that takes nothing else, which
msgspec does in microseconds; only what does not fit it is read field by field.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from protocol.spec.bounds import Path
from protocol.spec.faults import Findings, path_text, quoted
from protocol.spec.look import Look, unseen
from protocol.spelling import near

T = TypeVar("T")

Rewrite = Callable[[Any], Any]
"""Turns another form of a value into the usual one; what has the field's own type, or is not known, it leaves as it is."""


class Rules(NamedTuple):
    """How to read. `rewrites` are asked by (Struct's name, field's name) before a value's type is looked at, `look` what
    drivers say of their parameters."""

    findings: Findings
    strict: bool
    rewrites: Mapping[tuple[str, str], Rewrite]
    look: Look = unseen


class _Field(NamedTuple):
    name: str
    type: inspect.Type
    required: bool


class _Form(NamedTuple):
    """A Struct as it is read: its fields by their lower-case names."""

    name: str
    fields: dict[str, _Field]


def read_struct(value: Any, struct: type[T], path: Path, rules: Rules) -> T:
    """Read `value` into `struct`. Faults go to `rules.findings`; after one, the result is only good for looking on."""
    if not is_exact(value, struct):
        value = _object(value, _form(struct), path, rules)
    return msgspec.convert(value, struct)


def kind(value: Any) -> str:
    """What a value is, for a person."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return f"a {type(value).__name__}"


_forms: dict[Any, _Form] = {}


def _form(struct: type[Any]) -> _Form:
    form = _forms.get(struct)
    if form is None:
        form = _forms[struct] = _described(struct)
    return form


def _described(struct: type[Any]) -> _Form:
    described = inspect.type_info(struct)
    if not isinstance(described, inspect.StructType):
        raise TypeError(f"{struct} is no Struct")
    fields = {
        each.encode_name.lower(): _Field(each.encode_name, each.type, each.required)
        for each in described.fields
    }
    return _Form(struct.__name__, fields)


_exact: dict[Any, Any] = {}


def is_exact(value: Any, struct: type[Any]) -> bool:
    """Whether a value has nothing but the canonical names, each with a value of its type."""
    exact = _exact.get(struct)
    if exact is None:
        exact = _exact[struct] = _closed(inspect.type_info(struct))
    try:
        msgspec.convert(value, exact)
    except msgspec.ValidationError:
        return False
    return True


def _closed(type: inspect.Type) -> Any:
    """The same type, with Structs that take no other fields than theirs."""
    match type:
        case inspect.StructType(cls=struct):
            fields = [
                (each.name, _closed(each.type)) if each.required else (each.name, _closed(each.type), None)
                for each in type.fields
            ]
            names = {each.name: each.encode_name for each in type.fields}
            return msgspec.defstruct(struct.__name__, fields, rename=names, forbid_unknown_fields=True)
        case inspect.ListType(item_type=item):
            return list[_closed(item)]  # type: ignore[misc]
        case inspect.DictType(value_type=item):
            return dict[str, _closed(item)]  # type: ignore[misc]
        case inspect.AnyType():
            return Any
        case _:
            return _PLAIN[type.__class__]


def _object(value: Any, form: _Form, path: Path, rules: Rules) -> dict[str, Any]:
    given = _given(value, form, path, rules)
    read: dict[str, Any] = {}
    for field in form.fields.values():
        here = (*path, field.name)
        each = given.get(field.name)
        rewrite = rules.rewrites.get((form.name, field.name))
        if rewrite and each is not None:
            each = rewrite(each)
        if each is not None:
            read[field.name] = _value(each, field.type, here, rules)
        elif field.required:
            rules.findings.fault(here, f"{path_text(here)} is missing")
            read[field.name] = _blank(field.type)
    return read


def _given(value: Any, form: _Form, path: Path, rules: Rules) -> dict[str, Any]:
    """The members of an object under the names of the form."""
    given: dict[str, Any] = {}
    if not isinstance(value, dict):
        _wrong(value, "an object", path, rules)
        return given
    unknown: list[str] = []
    for key, each in value.items():
        field = form.fields.get(key.lower())
        if field is None:
            unknown.append(key)
        elif field.name in given and rules.strict:
            rules.findings.fault((*path, key), f"{path_text((*path, field.name))} is given twice", key=True)
        else:
            given[field.name] = each
    if rules.strict:
        for key in unknown:
            _unknown(key, form, path, rules, given)
    return given


def _unknown(key: str, form: _Form, path: Path, rules: Rules, given: Mapping[str, Any]) -> None:
    meant = near(key, (field.name for field in form.fields.values()))
    where = f" in {path_text(path)}" if path else ""
    rules.findings.fault((*path, key), f"unknown key {quoted(key)}{where}", near=meant, key=True)
    if meant and meant not in given:
        # What was meant is there: to call it missing as well would be a second complaint about one slip.
        rules.findings.spoil((*path, meant))


def _value(value: Any, type: inspect.Type, path: Path, rules: Rules) -> Any:
    """The value if it is of the type, else a fault and a value that stands for nothing."""
    match type:
        case inspect.StrType() if isinstance(value, str):
            return value
        case inspect.BoolType() if isinstance(value, bool):
            return value
        case inspect.IntType() if _is_whole(value):
            return int(value)
        case inspect.FloatType() if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        case inspect.StructType(cls=struct):
            return _object(value, _form(struct), path, rules)
        case inspect.ListType(item_type=inspect.StrType() as item) if isinstance(value, list):
            return [_member(each, item, (*path, index), rules) for index, each in enumerate(value)]
        case inspect.ListType(item_type=item) if isinstance(value, list):
            return [_value(each, item, (*path, index), rules) for index, each in enumerate(value)]
        case inspect.DictType(value_type=inspect.AnyType()) if isinstance(value, dict):
            return value
        case inspect.DictType(value_type=item) if isinstance(value, dict):
            return {key: _member(each, item, (*path, key), rules) for key, each in value.items()}
        case _:
            _wrong(value, _NAMES.get(type.__class__, "something else"), path, rules)
            return _blank(type)


def _member(value: Any, type: inspect.Type, path: Path, rules: Rules) -> Any:
    return _blank(type) if value is None else _value(value, type, path, rules)


_NAMES: Final[Mapping[type[inspect.Type], str]] = {
    inspect.StrType: "a text",
    inspect.BoolType: "true or false",
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.ListType: "a list",
    inspect.DictType: "an object",
}
_BLANKS: Final[Mapping[type[inspect.Type], Callable[[], Any]]] = {
    inspect.StrType: str,
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.ListType: list,
    inspect.DictType: dict,
}


_PLAIN: Final[Mapping[type[inspect.Type], type[Any]]] = {
    inspect.StrType: str,
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
}


def _wrong(value: Any, expected: str, path: Path, rules: Rules) -> None:
    hint = ""
    if expected == "a text" and isinstance(value, bool | int | float):
        hint = " (put it in quotes)"
    elif expected == "a whole number" and isinstance(value, str):
        hint = " (write it without quotes)"
    rules.findings.fault(path, f"{path_text(path) or 'a job'} must be {expected}, and is {kind(value)}{hint}")


def _blank(type: inspect.Type) -> Any:
    """The value that says nothing."""
    if isinstance(type, inspect.StructType):
        form = _form(type.cls)
        return {field.name: _blank(field.type) for field in form.fields.values() if field.required}
    return _BLANKS[type.__class__]()


def _is_whole(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)
