"""A driver's parameters: from the plain object of a `Spec` into the driver's own Struct.

Knows: Bacalhau's reading rules (any key case, null means absent) and how a fault names its field. Must not know: any driver.
"""

import re
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

import msgspec
from msgspec import inspect

from protocol.errors import Invalid
from protocol.spelling import near

P = TypeVar("P")

_forms: dict[Any, inspect.Type] = {}

_AT = re.compile(r"(?P<text>.*?)(?: - at `(?P<path>\$[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]+)`")


def read_params(params: Mapping[str, Any], form: type[P], what: str) -> P:
    """Read `params` into `form`, a msgspec Struct; `what` begins every message: ``source s3``, ``publisher ipfs``.

    Keys match in any case, at every depth where the form has fields; a null is as good as absent. Text is taken where a
    number or a boolean is meant, because command-line options (``opt=rw=true``) are text.

    Raises `Invalid`, which names the field, for an unknown field (with a near spelling), a field given twice, a missing
    one, or a value of another type.
    """
    plain = _in_canonical_case(params, _form_of(form), what, "")
    try:
        return msgspec.convert(plain, form, strict=False)
    except msgspec.ValidationError as error:
        _refuse(str(error), what, error)
    except Invalid as fault:
        # A form may begin with its own name, which is the last part of the longer one.
        said = fault.message.removeprefix(f"{what.rpartition(': ')[2]}: ")
        raise Invalid(f"{what}: {said}", hint=fault.hint, kind=fault.kind) from fault


def _form_of(form: Any) -> inspect.Type:
    """What is in a Struct: looking into one costs a hundred times what reading it does, and its fields never change."""
    found = _forms.get(form)
    if found is None:
        found = _forms[form] = inspect.type_info(form)
    return found


def _in_canonical_case(value: Any, form: inspect.Type, what: str, path: str) -> Any:
    """`value` with the keys of every Struct inside it spelt as the Struct spells them, and without nulls."""
    match form:
        case inspect.StructType() if isinstance(value, Mapping):
            return _fields(value, form, what, path)
        case inspect.ListType(item_type=item) if isinstance(value, list):
            return [
                _in_canonical_case(each, item, what, f"{path}[{index}]") for index, each in enumerate(value)
            ]
        case inspect.UnionType(types=types):
            structs = [each for each in types if isinstance(each, inspect.StructType)]
            return _in_canonical_case(value, structs[0], what, path) if len(structs) == 1 else value
        case _:
            return value


def _fields(value: Mapping[str, Any], form: inspect.StructType, what: str, path: str) -> dict[str, Any]:
    known = {field.encode_name.lower(): field for field in form.fields}
    found: dict[str, Any] = {}
    for key, each in value.items():
        spelling = f"{path}.{key}" if path else str(key)
        field = known.get(str(key).lower())
        if field is None:
            _refuse_unknown(str(key), spelling, [each.encode_name for each in form.fields], what)
        if field.encode_name in found:
            raise Invalid(f"{what}: field {spelling} is given twice", hint="Keep one of the spellings.")
        if each is not None:
            found[field.encode_name] = _in_canonical_case(each, field.type, what, spelling)
    return found


def _refuse_unknown(key: str, spelling: str, names: list[str], what: str) -> NoReturn:
    if meant := near(key, names):
        hint = f"Did you mean {meant}?"
    elif names:
        hint = f"It has the fields {', '.join(names)}."
    else:
        hint = "It takes no params."
    raise Invalid(f"{what}: unknown field {spelling}", hint=hint)


def _refuse(message: str, what: str, cause: Exception) -> NoReturn:
    """Say msgspec's finding (``Expected `str`, got `int` - at `$.Bucket```) in our words, the field first."""
    parts = _AT.fullmatch(message)
    text, path = (parts["text"], parts["path"] or "$") if parts else (message, "$")
    path = path.removeprefix("$").removeprefix(".")
    missing = _MISSING.fullmatch(text)
    if missing:
        name = f"{path}.{missing['name']}" if path else missing["name"]
        raise Invalid(f"{what}: field {name} is missing") from cause
    text = re.sub(r"\A(Expected|Invalid|Object)\b", lambda word: word[0].lower(), text.replace("`", ""))
    raise Invalid(f"{what}: field {path}: {text}" if path else f"{what}: {text}") from cause
