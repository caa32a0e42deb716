"""Which method, with which options, each activation of a model gets."""

import inspect
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from sordino_hw.spec.errors import InputError

from ..nn.base import SparseActivation
from ..nn.base import method as find_method

__all__ = ["Choice", "Methods", "assign"]

Choice = str | tuple[str, Mapping[str, Any]] | None
"""A method's name, a name with options of its own, or None: the layer stays as it is."""

Key = str | type[nn.Module]
Methods = Mapping[str, Choice] | Mapping[type[nn.Module], Choice] | Mapping[Key, Choice]
"""Choices by pattern of the module path, or by type of the activation or of a module around it."""


def assign(model: nn.Module, methods: Methods, options: Mapping[str, Any], paths: Sequence[str]) -> dict[str, SparseActivation]:
    """A new layer for each of the activations at `paths` that gets one, by module path; see `sparsify` for the rules.

    Raises `InputError` for keys that match nothing, keys of one rank that disagree, and options that nobody has.
    """
    choices: Mapping[Key, Choice] = dict(methods)  # type: ignore[arg-type]
    chosen = {path: _split(choices[key]) for path, key in _keys(model, choices, paths).items()}
    names = list(dict.fromkeys(name for name, _ in chosen.values() if name is not None))
    for option, value in options.items():
        _check_common(option, value, names, chosen, paths)
    layers = {}
    for path, (name, own) in chosen.items():
        if name is not None:
            for option, value in own.items():
                if option not in _known(name):
                    raise InputError(_unknown_option([name], option))
                _check_paths(option, value, paths)
            common = {k: v for k, v in options.items() if k in _known(name)}
            layers[path] = find_method(name)(**_at(path, {**common, **own}))
    return layers


def _keys(model: nn.Module, methods: Mapping[Key, Choice], paths: Sequence[str]) -> dict[str, Key]:
    """The key that decides on each path; paths that none matches are left out."""
    if not methods:
        raise InputError("sparsify: the mapping of methods is empty; give it a pattern, such as {'*': 'l1'}")
    matches: dict[str, list[Key]] = {path: [] for path in paths}
    for key in methods:
        hit = [path for path in paths if _matches(model, key, path)]
        if not hit:
            raise InputError(f"sparsify: {_show(key)} matches no activation; there are {', '.join(paths)}")
        for path in hit:
            matches[path].append(key)
    decided = {}
    for path, keys in matches.items():
        if not keys:
            continue
        first = max(_rank(key, path) for key in keys)
        best = [key for key in keys if _rank(key, path) == first]
        for other in best[1:]:
            if _split(methods[other]) != _split(methods[best[0]]):
                raise InputError(
                    f"sparsify: {_show(best[0])} and {_show(other)} both match {path!r} and give it different methods. "
                    f"Add {path!r} itself, which goes before patterns, or make them disjoint."
                )
        decided[path] = best[0]
    return decided


def _matches(model: nn.Module, key: Key, path: str) -> bool:
    if isinstance(key, str):
        return fnmatchcase(path, key)
    if not (isinstance(key, type) and issubclass(key, nn.Module)):
        raise InputError(f"sparsify: a key must be a pattern of module paths or a type of module, not {key!r}")
    parts = path.split(".") if path else []
    return any(isinstance(model.get_submodule(".".join(parts[:n])), key) for n in range(len(parts) + 1))


def _rank(key: Key, path: str) -> int:
    return 2 if key == path else 0 if key == "*" else 1


def _show(key: Key) -> str:
    return repr(key) if isinstance(key, str) else f"the type {key.__name__}"


def _split(choice: Choice) -> tuple[str | None, Mapping[str, Any]]:
    name: str | None
    own: Mapping[str, Any] = {}
    if choice is None or isinstance(choice, str):
        name = choice
    elif isinstance(choice, tuple) and len(choice) == 2 and isinstance(choice[1], Mapping):
        name, own = choice
    else:
        raise InputError(f"sparsify: a choice must be a method's name, (name, options) or None, not {choice!r}")
    if name is not None:
        find_method(name)
    return name, own


def _known(name: str) -> list[str]:
    return list(inspect.signature(find_method(name)).parameters)


def _unknown_option(names: Sequence[str], option: str) -> str:
    if len(names) == 1:
        known = ", ".join(_known(names[0])) or "none"
        return f"sparsify: method {names[0]!r} has no option {option!r}; its options are {known} (and calibration)"
    return f"sparsify: none of the methods {', '.join(map(repr, names))} has an option {option!r}"


def _check_common(option: str, value: Any, names: Sequence[str], chosen: Mapping[str, tuple], paths: Sequence[str]) -> None:
    if not any(option in _known(name) for name in names):
        raise InputError(
            _unknown_option(names, option) if names else f"sparsify: no layer gets a method that could take {option!r}"
        )
    _check_paths(option, value, paths)
    for path in value if isinstance(value, Mapping) else ():
        name, _ = chosen.get(path, (None, {}))
        if name is None or option not in _known(name):
            what = "which gets no method" if name is None else f"whose method {name!r} has no such option"
            raise InputError(f"sparsify: {option} names {path!r}, {what}")


def _check_paths(option: str, value: Any, paths: Sequence[str]) -> None:
    for path in value if isinstance(value, Mapping) else ():
        if path not in paths:
            raise InputError(
                f"sparsify: {option} names {path!r}, which is no activation that is replaced; there are {', '.join(paths)}"
            )


def _at(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one layer: of a mapping from module path its own value, or the default."""
    return {k: v[path] if isinstance(v, Mapping) else v for k, v in options.items() if not isinstance(v, Mapping) or path in v}
