"""Every mutation still finds its place: quick, so that none rots between two nights."""

import pytest

from tests.twin import mutations, narrow_mutations

GROUPS = ("TWIN", "BLUR", "V2", "ONLINE", "ACCUMULATED", "MODEL")


def test_every_mutation_applies():
    found = {n: m for group in GROUPS for n, m in getattr(mutations, group).items()}
    named = mutations.NAMED | narrow_mutations.ALL
    found |= {name: mutation for name, (mutation, *_) in named.items()}
    assert len(found) > 120
    lost = []
    for name, mutation in found.items():
        with pytest.MonkeyPatch.context() as patch:
            try:
                mutations.apply(mutation, patch)
            except AssertionError as error:
                lost.append(f"{name}: {error}")
    assert not lost, "\n".join(lost)
