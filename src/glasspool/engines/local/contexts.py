"""Context variables on their way: what chosen ones hold where a call is submitted, they hold in its task.

The variables themselves cannot be pickled, so they are known by name: the first attribute of a module, or of
a class in it, under which one is found. The constructor of a pool looks for them, so that what workers would
not find is an error there. Values are taken and pickled with the callable, by who submits.

Each call runs in a context of its own, a copy of the thread's that ends with the call, so nothing that a task
sets reaches the next one. In it a chosen variable has the submitter's value, or none if it had none there:
also in a forked worker, which inherits what the variable held where the pool was made.
"""

from __future__ import annotations

import importlib
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import Context, ContextVar, copy_context
from typing import Any, NamedTuple

from glasspool.engines.local import payload, plain
from glasspool.engines.local.carried import Carried
from glasspool.errors import SerializationError

_UNSET = object()


class Place(NamedTuple):
    """Where a variable is found: in an attribute (``name``, or ``Class.name``) of a module."""

    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}.{self.attribute}"


# In the pool's process --------------------------------------------------------------------------------


class Carrier:
    """Has functions called with what some variables hold at that moment (``Callables.surround``).

    Args:
        chosen: The variables.
        start_method: How the workers are started, which are to find them.

    Raises:
        ValueError: Workers could not find one.
    """

    def __init__(self, chosen: Sequence[ContextVar[Any]], start_method: str) -> None:
        places = _places(chosen)
        for variable in chosen:
            _check(variable, places.get(variable), start_method)
        self._chosen = [(places[variable], variable) for variable in dict.fromkeys(chosen)]

    def __call__(self, function: Callable[..., Any]) -> Carried:
        """Wrap a function that is submitted (the caller's thread)."""
        values = [(place, variable.get(_UNSET)) for place, variable in self._chosen]
        return Carried(function, Inside, Luggage(values))


def _check(variable: ContextVar[Any], place: Place | None, start_method: str) -> None:
    if place is None:
        raise ValueError(
            f"workers cannot find the context variable {variable.name!r}: it travels by the name of an "
            "attribute, and no module that is loaded here has it as one. Keep it at the top level of a "
            f"module ({variable.name} = ContextVar({variable.name!r})), not in a function, an instance "
            "or a container."
        )
    main = sys.modules.get("__main__")
    is_main = place.module == "__main__"
    if is_main and start_method != "fork" and not _is_importable(main):
        raise ValueError(
            f"workers cannot find the context variable {variable.name!r}: it belongs to a prompt or a "
            f"notebook, and with start method {start_method} workers know nothing of that. Move it into "
            "a module."
        )


def _is_importable(main: Any) -> bool:
    return hasattr(main, "__file__") or getattr(main, "__spec__", None) is not None


def _places(chosen: Sequence[ContextVar[Any]]) -> dict[ContextVar[Any], Place]:
    """Return where variables are found, as far as they are."""
    wanted = set(chosen)
    found = _best(wanted, _attributes())
    if len(found) < len(wanted):
        found.update(_best(wanted - set(found), _class_attributes()))
    return found


def _best(
    wanted: set[ContextVar[Any]], named: Iterator[tuple[Place, ContextVar[Any]]]
) -> dict[ContextVar[Any], Place]:
    found: dict[ContextVar[Any], Place] = {}
    for place, variable in named:
        if variable in wanted:
            found[variable] = min(place, found.get(variable, place), key=_rank)
    return found


def _rank(place: Place) -> tuple[bool, bool, int, Place]:
    """Prefer what any process can import, names that are meant for others, and short ways."""
    is_private = any(part.startswith("_") for part in str(place).split("."))
    return place.module == "__main__", is_private, len(place.module), place


def _attributes() -> Iterator[tuple[Place, ContextVar[Any]]]:
    for name, attributes in _modules():
        for attribute, value in attributes:
            if type(value) is ContextVar:
                yield Place(name, attribute), value


def _class_attributes() -> Iterator[tuple[Place, ContextVar[Any]]]:
    for name, attributes in _modules():
        for outer, cls in attributes:
            if isinstance(cls, type) and getattr(cls, "__module__", None) == name:
                for inner, value in list(vars(cls).items()):
                    if type(value) is ContextVar:
                        yield Place(name, f"{outer}.{inner}"), value


def _modules() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Yield all modules that are loaded, with their attributes; loads none, and runs no code of theirs."""
    for name, module in list(sys.modules.items()):
        if name == "__mp_main__":  # a worker's second name for __main__
            continue
        try:
            attributes = object.__getattribute__(module, "__dict__")
        except AttributeError:  # something else that stands in for a module
            continue
        if type(attributes) is dict:
            yield name, list(attributes.items())


def _by_name(variable: ContextVar[Any]) -> Any:
    """Pickle a variable, of which a function that travels by value makes use."""
    place = _known.get(variable) or _places([variable]).get(variable)
    if place is None:
        raise TypeError(f"cannot pickle {variable!r}: no module has it as an attribute")
    _known[variable] = place  # as long as the variable, which lives for ever
    return find, (tuple(place),)


_known: dict[ContextVar[Any], Place] = {}

reducers: dict[type, Callable[[Any], Any]] = {ContextVar: _by_name}


class Luggage:
    """Variables and what they held. Pickles the values one by one, to say which one cannot be."""

    __slots__ = ("_values",)

    def __init__(self, values: list[tuple[Place, Any]]) -> None:
        self._values = values

    def __reduce__(self) -> Any:
        unset = [tuple(place) for place, value in self._values if value is _UNSET]
        packed = [
            (tuple(place), *_pack(place, value))
            for place, value in self._values
            if value is not _UNSET
        ]
        return Unpacked, (packed, unset)


def _pack(place: Place, value: Any) -> tuple[Any, bool]:
    """Return a value as it travels, and whether it is pickled.

    Raises:
        SerializationError: It cannot be.
    """
    if plain.is_plain(value):
        return value, False
    try:
        return payload.dump_in_one_piece(value, by_value=True), True
    except Exception as error:
        raise _lost(place, "cannot be pickled", error) from error


def _lost(place: Place, what: str, error: Exception) -> SerializationError:
    return SerializationError(
        error,
        f"the value of {place}",
        f"the value of the context variable {place} {what}: {type(error).__qualname__}: {error}\n"
        "It travels with each call because the pool was made with contextvars=[...]: leave it out there, "
        "or let it hold what can be pickled.",
    )


# In the worker ----------------------------------------------------------------------------------------


_found: dict[tuple[str, str], ContextVar[Any]] = {}


class Unpacked:
    """Luggage that has arrived.

    Raises:
        SerializationError: A variable is not found here, or its value cannot be rebuilt.
    """

    __slots__ = ("unset", "values")

    def __init__(
        self, packed: list[tuple[tuple[str, str], Any, bool]], unset: list[tuple[str, str]]
    ) -> None:
        self.values: list[tuple[ContextVar[Any], Any]] = []
        for place, value, is_pickled in packed:
            variable = find(place)
            if is_pickled:
                try:
                    value = payload.load(value)
                except Exception as error:
                    raise _lost(Place(*place), "cannot be rebuilt in the worker", error) from error
            self.values.append((variable, value))
        self.unset: tuple[ContextVar[Any], ...] = tuple(map(find, unset))


def find(place: tuple[str, str]) -> ContextVar[Any]:
    """Return the variable of a place.

    Raises:
        SerializationError: There is none.
    """
    found = _found.get(place)
    if found is None:
        module, attribute = place
        try:
            value = operator.attrgetter(attribute)(importlib.import_module(module))
        except Exception as error:
            raise _missing(Place(*place), f"{type(error).__qualname__}: {error}") from error
        if type(value) is not ContextVar:
            raise _missing(Place(*place), f"it is {type(value).__qualname__} there")
        found = _found[place] = value
    return found


def _missing(place: Place, why: str) -> SerializationError:
    return SerializationError(
        why,
        f"the context variable {place}",
        f"the worker does not find the context variable {place} ({why}). It is known by this name in the "
        "program: have the module bind it whenever it is imported.",
    )


class Inside:
    """The submitter's values, in the worker."""

    def __init__(self, luggage: Unpacked) -> None:
        self._values = luggage.values
        self._unset = luggage.unset

    def run(self, function: Callable[..., Any], args: Any, kwds: Any) -> Any:
        """Call a function with them, in a context of its own."""
        context = copy_context()
        if any(variable in context for variable in self._unset):
            context = _without(context, self._unset)
        return context.run(self._call, function, args, kwds)

    def _call(self, function: Callable[..., Any], args: Any, kwds: Mapping[str, Any]) -> Any:
        for variable, value in self._values:
            variable.set(value)
        return function(*args, **kwds)


def _without(context: Context, unset: tuple[ContextVar[Any], ...]) -> Context:
    """Return a copy in which some variables are not set: nothing can take a value away."""
    bare = Context()
    for variable, value in context.items():
        if variable not in unset:
            bare.run(variable.set, value)
    return bare
