# SPDX-License-Identifier: Apache-2.0
"""The table of values in a chart's README, made from the comments in its values.yaml.

chart_readme.py CHART_DIRECTORY...: writes the table between the two marks of README.md.

A comment that stands directly above a key is that key's text.  A key that holds other keys has a row only if it has a
comment.
"""

import json
import pathlib
import sys
from collections.abc import Iterator

import yaml

BEGIN, END = "<!-- values: made from values.yaml -->", "<!-- end of values -->"


def rows(values: str) -> Iterator[tuple[str, str, str]]:
    """(key, default, text) in the order of the file; the default of a key that holds others is empty."""
    lines = values.splitlines()
    yield from _rows_of(yaml.compose(values, yaml.SafeLoader), lines, "")


def _rows_of(mapping: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[tuple[str, str, str]]:
    for key, value in mapping.value:
        name = prefix + key.value
        text = _comment_above(lines, key.start_mark.line)
        is_parent = isinstance(value, yaml.MappingNode) and value.value and not value.flow_style
        if not is_parent:
            yield name, _shown(yaml.safe_load(yaml.serialize(value))), text
            continue
        if text:
            yield name, "", text
        yield from _rows_of(value, lines, name + ".")


def _comment_above(lines: list[str], number: int) -> str:
    indent = len(lines[number]) - len(lines[number].lstrip())
    found = []
    while number > 0 and lines[number - 1].startswith(" " * indent + "#"):
        number -= 1
        found.insert(0, lines[number].strip().lstrip("#").strip())
    return " ".join(found)


def _shown(value) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def table(values: str) -> str:
    out = ["| key | default | what it is |", "|---|---|---|"]
    for name, default, text in rows(values):
        cells = (f"`{name}`", default, text)
        out.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(out)


def with_table(readme: str, values: str) -> str:
    """README.md as it should be: its own text, and between the marks the table of these values."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks the line {BEGIN} or {END}")
    return f"{head}{BEGIN}\n{table(values)}\n{END}{tail}"


def main() -> None:
    for name in sys.argv[1:]:
        chart = pathlib.Path(name)
        readme = chart / "README.md"
        readme.write_text(with_table(readme.read_text(), (chart / "values.yaml").read_text()))


if __name__ == "__main__":
    main()
