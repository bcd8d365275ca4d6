"""Every mutation still finds its place: quick, so that none rots between two nights."""

import functools
import importlib
import sys

import pytest

from tests.twin import mutations, narrow_mutations

GROUPS = ("TWIN", "BLUR", "V2", "ONLINE", "ACCUMULATED", "MODEL")
NAMED = mutations.NAMED | narrow_mutations.ALL


def present(mutation):
    name, _, function = mutation.where.rpartition(".")
    found = importlib.import_module(f"{mutations.PACKAGE}.{name}")
    return functools.reduce(getattr, function.split(":"), found)


def holders(function):
    """Names in loaded modules that still lead to a function: itself, or jitted or partly bound."""
    return [
        f"{name}.{key}"
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in (mutations.PACKAGE, "tests")
        for key, value in list(vars(module).items())
        if value is function
        or (not isinstance(value, type) and getattr(value, "__wrapped__", None) is function)
        or (isinstance(value, functools.partial) and value.func is function)
    ]


def test_every_mutation_applies_once_and_where_the_code_looks():
    for _, test, _ in NAMED.values():  # so that what they imported by name is seen
        importlib.import_module(f"tests.{test.rpartition('.')[0]}")
    found = {n: m for group in GROUPS for n, m in getattr(mutations, group).items()}
    found |= {name: mutation for name, (mutation, *_) in NAMED.items()}
    assert len(found) > 120
    lost = []
    for name, mutation in found.items():
        old = present(mutation)
        with pytest.MonkeyPatch.context() as patch:
            try:
                mutations.apply(mutation, patch)
            except AssertionError as error:
                lost.append(f"{name}: {error}")
                continue
            if ":" not in mutation.where:  # a method is looked up in its class
                lost += [f"{name}: {place} is still the old one" for place in holders(old)]
        assert present(mutation) is old, name
    assert not lost, "\n".join(lost)


@pytest.mark.parametrize("name", NAMED)
def test_what_sees_it_runs_by_default(name):
    module, _, function = NAMED[name][1].rpartition(".")
    test = getattr(importlib.import_module(f"tests.{module}"), function)
    assert "nightly" not in {mark.name for mark in getattr(test, "pytestmark", [])}
