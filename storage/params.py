"""A driver's parameters: from the plain object of a `Spec` into the driver's own Struct.

Knows: Bacalhau's reading rules (any key case, null means absent) and how a fault names its field. Must not know: any driver.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, TypeVar

import msgspec
from msgspec import inspect

from protocol.errors import Invalid
from protocol.spec.bounds import Path
from protocol.spec.faults import path_text
from protocol.spelling import near

P = TypeVar("P")

_forms: dict[Any, inspect.Type] = {}

_AT: Final = re.compile(r"(?P<text>.*?)(?: - at `(?P<path>\$[^`]*)`)?", re.DOTALL)
_STEP: Final = re.compile(r"\.(?P<name>\w+)|\[(?P<index>\d+)\]")
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>[^`]+)`")
_NAMED: Final = re.compile(r"(?P<path>[A-Za-z]\w*(?:\.[A-Za-z]\w*)*)(?P<said>.*)", re.DOTALL)


class Unfit(Invalid):
    """Params that can never work. `at` is the path of the field that is wrong, empty for the whole; `said` is what is wrong
    with it, to be read behind its name.

    `unknown`: there is no such field, and `near` is the one that was probably meant. `name`: it is about the field's name,
    not about its value.
    """

    def __init__(
        self,
        message: str,
        at: Path,
        said: str,
        *,
        hint: str = "",
        kind: str = "",
        near: str = "",
        unknown: bool = False,
        name: bool = False,
    ) -> None:
        super().__init__(message, hint=hint, kind=kind)
        self.at = at
        self.said = said
        self.near = near
        self.unknown = unknown
        self.name = name or unknown


def read_params(
    params: Mapping[str, Any], form: type[P], what: str, check: Callable[[P], None] | None = None
) -> P:
    """Read `params` into `form`, a msgspec Struct; `what` begins every message: ``source s3``, ``publisher ipfs``. `check`
    raises `Invalid` for what the form itself does not look at.

    Keys match in any case, at every depth where the form has fields; a null is as good as absent. Text is taken where a
    number or a boolean is meant, because command-line options (``opt=rw=true``) are text.

    Raises `Unfit`, an `Invalid` that names the field, for an unknown field (with a near spelling), a field given twice, a
    missing one, a value of another type, or one that the form itself refuses.
    """
    inside = _form_of(form)
    plain = _in_canonical_case(params, inside, what, ())
    try:
        read = msgspec.convert(plain, form, strict=False)
        if check is not None:
            check(read)
    except msgspec.ValidationError as error:
        _refuse(str(error), inside, what, error)
    except Invalid as fault:
        # A form may begin with its own name, which is the last part of the longer one.
        text = fault.message.removeprefix(f"{what.rpartition(': ')[2]}: ")
        at, said = _named(text, (), inside)
        raise Unfit(f"{what}: {text}", at, said, hint=fault.hint, kind=fault.kind) from fault
    return read


def _form_of(form: Any) -> inspect.Type:
    """What is in a Struct: looking into one costs a hundred times what reading it does, and its fields never change."""
    found = _forms.get(form)
    if found is None:
        found = _forms[form] = inspect.type_info(form)
    return found


def _in_canonical_case(value: Any, form: inspect.Type, what: str, path: Path) -> Any:
    """`value` with the keys of every Struct inside it spelt as the Struct spells them, and without nulls."""
    match form:
        case inspect.StructType() if isinstance(value, Mapping):
            return _fields(value, form, what, path)
        case inspect.ListType(item_type=item) if isinstance(value, list):
            return [_in_canonical_case(each, item, what, (*path, index)) for index, each in enumerate(value)]
        case inspect.UnionType(types=types):
            structs = [each for each in types if isinstance(each, inspect.StructType)]
            return _in_canonical_case(value, structs[0], what, path) if len(structs) == 1 else value
        case _:
            return value


def _fields(value: Mapping[str, Any], form: inspect.StructType, what: str, path: Path) -> dict[str, Any]:
    known = {field.encode_name.lower(): field for field in form.fields}
    found: dict[str, Any] = {}
    for key, each in value.items():
        here = (*path, str(key))
        field = known.get(str(key).lower())
        if field is None:
            _refuse_unknown(str(key), here, [each.encode_name for each in form.fields], what)
        if field.encode_name in found:
            message = f"{what}: field {path_text(here)} is given twice"
            raise Unfit(message, here, " is given twice", hint="Keep one of the spellings.", name=True)
        if each is not None:
            found[field.encode_name] = _in_canonical_case(each, field.type, what, here)
    return found


def _refuse_unknown(key: str, path: Path, names: list[str], what: str) -> NoReturn:
    if meant := near(key, names):
        hint = f"Did you mean {meant}?"
    elif names:
        hint = f"It has the fields {', '.join(names)}."
    else:
        hint = "It takes no params."
    message = f"{what}: unknown field {path_text(path)}"
    raise Unfit(message, path, " is no field of it", hint=hint, near=meant, unknown=True)


def _refuse(message: str, form: inspect.Type, what: str, cause: Exception) -> NoReturn:
    """Say msgspec's finding (``Expected `str`, got `int` - at `$.Bucket```) in our words, the field first."""
    parts = _AT.fullmatch(message)
    text, spelt = (parts["text"], parts["path"] or "$") if parts else (message, "$")
    path: Path = tuple(step["name"] or int(step["index"]) for step in _STEP.finditer(spelt))
    if missing := _MISSING.fullmatch(text):
        path = (*path, missing["name"])
        raise Unfit(f"{what}: field {path_text(path)} is missing", path, " is missing") from cause
    text = re.sub(r"\A(Expected|Invalid|Object)\b", lambda word: word[0].lower(), text.replace("`", ""))
    at, said = _named(text, path, form)
    raise Unfit(
        f"{what}: field {path_text(path)}: {text}" if path else f"{what}: {text}", at, said
    ) from cause


def _named(text: str, path: Path, form: inspect.Type) -> tuple[Path, str]:
    """Where the field is that a form's own complaint begins with, and the rest of the complaint; what begins with none is
    about all of what lies at `path`."""
    words = _NAMED.fullmatch(text)
    named = tuple(words["path"].split(".")) if words else ()
    if words and _has(form, (*path, *named)):
        return (*path, *named), words["said"]
    return path, f": {text}"


def _has(form: inspect.Type, path: Path) -> bool:
    """Whether a form has a field there."""
    for step in path:
        if isinstance(form, inspect.UnionType):
            form = next((each for each in form.types if isinstance(each, inspect.StructType)), form)
        if isinstance(form, inspect.ListType) and isinstance(step, int):
            form = form.item_type
        elif isinstance(form, inspect.StructType):
            field = next((each for each in form.fields if each.encode_name == step), None)
            if field is None:
                return False
            form = field.type
        else:
            return False
    return True
