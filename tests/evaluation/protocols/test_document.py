"""docs/protocols.md says of each protocol what the table in the code says."""

import pathlib

from depth_anything_jax.evaluation.protocols import overrides, table

DOCUMENT = pathlib.Path(__file__).resolve().parents[3] / "docs" / "protocols.md"


def said(switches):
    """Switches as on a command line, the range first."""
    given = {k: overrides.show(v) for k, v in switches.items()}
    return ", ".join(f"`{k}={given[k]}`" for k in switches) or "as for all sets"


def grouped(parts):
    """{their names, joined: switches} of parts that have the same."""
    found = {}
    for name, switches in parts.items():
        found.setdefault(tuple(switches.items()), []).append("others" if name == "*" else name)
    return {", ".join(names): dict(switches) for switches, names in found.items()}


def expected():
    lines = ["| protocol | for | switches |", "| --- | --- | --- |"]
    for name, entry in table.TABLE.items():
        rows = {"all sets": entry.base, **grouped(entry.kinds), **grouped(entry.sets)}
        for i, (part, switches) in enumerate(rows.items()):
            full = "" if i else f"`{name}@{entry.version}`"
            lines.append(f"| {full} | {part} | {said(switches)} |")
    return "\n".join(lines)


def test_the_protocols_in_the_document_are_those_of_the_code():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert expected() in text, f"docs/protocols.md must have this table:\n{expected()}"
    for name in table.TABLE:
        assert f"\n| `{name}` | " in text, "the overview lists every protocol"
    for name in overrides.NAMES:
        assert f"`{name}`" in text, "every switch is named"
