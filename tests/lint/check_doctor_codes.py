# SPDX-License-Identifier: Apache-2.0
"""doctor's codes and docs/troubleshooting.md tell the same: each code has its section, and each section a code.

A section holds the title, a cause, the cure as it stands in the table, and what the gateway's log says.
"""

import ast
import pathlib
import re

TABLE = "sidecar/ops/doctor_codes.def"
MANUAL = "docs/troubleshooting.md"

# A cure that several rows have, but for one word in capitals.
MACRO = re.compile(r"^#define (\w+)\((\w+)\)((?:.*\\\n)*.*)$", re.MULTILINE)
ROW = re.compile(r"^CODE\((\d+), (FAILED|WARNING),(.*?)\)$", re.MULTILINE | re.DOTALL)
LITERAL = re.compile(r'"(?:\\.|[^"\\\n])*"')
SECTION = re.compile(r"^### (SM\d{3})\n(.*?)(?=^#{1,3} |\Z)", re.MULTILINE | re.DOTALL)
RESULTS = {"FAILED": "cross", "WARNING": "warning"}


def rows(text: str) -> dict[str, dict[str, str]]:
    """Code -> result, signs, title, cure, log."""
    found = {}
    for number, result, rest in ROW.findall(expand(text)):
        # Literals with nothing but white space between them are one; a comma ends it.
        fields, last = [], None
        for literal in LITERAL.finditer(rest):
            piece = ast.literal_eval(literal.group())
            if last is not None and "," not in rest[last:literal.start()]:
                fields[-1] += piece
            else:
                fields.append(piece)
            last = literal.end()
        names = ("signs", "title", "cure", "log")
        found[f"SM{int(number):03}"] = {"result": RESULTS[result]} | dict(zip(names, fields, strict=True))
    return found


def expand(text: str) -> str:
    """The rows with the text of the macros in them."""
    macros = MACRO.findall(text)
    text = MACRO.sub("", text)
    for name, parameter, body in macros:
        def put(use: re.Match, parameter: str = parameter, body: str = body.replace("\\\n", " ")) -> str:
            return re.sub(rf"\b{parameter}\b", lambda _: use.group(1), body)

        text = re.sub(rf"{name}\(({LITERAL.pattern})\)", put, text)
    return text


def check(root: pathlib.Path) -> list[str]:
    table = rows((root / TABLE).read_text())
    text = (root / MANUAL).read_text()
    sections = dict(SECTION.findall(text))
    findings = [f"{TABLE}:1: {code} has no section in {MANUAL}" for code in table if code not in sections]
    findings += [f"{MANUAL}:1: {code} is no code of {TABLE}" for code in sections if code not in table]
    if list(sections) != sorted(sections) or len(SECTION.findall(text)) != len(sections):
        findings.append(f"{MANUAL}:1: the sections are not in the order of their codes, or one is there twice")
    for code in table.keys() & sections.keys():
        findings += [f"{MANUAL}:1: {code}: {what}" for what in differences(table[code], sections[code])]
    return sorted(findings)


def differences(row: dict[str, str], section: str) -> list[str]:
    cure = re.sub(r"\{([A-Z_]+)\}", r"\1", row["cure"])
    log = f"Gateway log: {row['log']}" if row["log"] else "Gateway log: nothing."
    wanted = {
        "title and result": f"\n**{row['title']}** ({row['result']}).\n",
        "cure": f"\n```sh\n{cure}\n```\n",
        "gateway log": f"\n{log}\n",
    }
    found = [f"its {name} is not what the table has: {text.strip()}"
             for name, text in wanted.items() if text not in "\n" + section]
    if not re.search(r"^Cause: \S", section, re.MULTILINE):
        found.append("it names no cause")
    return found
