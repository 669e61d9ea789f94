# SPDX-License-Identifier: Apache-2.0
"""Who may include whom: the layers of sidecar/, private headers, and the one home of each third-party header.

The link keeps upward calls out; this keeps upward includes out.  Run alone it prints FILE:LINE: what is wrong.
"""

import fnmatch
import pathlib
import re
import sys

# A layer may include itself and what stands here.  An arrow is the only permission.
MAY_INCLUDE = {
    "base": [],
    "core": ["base"],
    "sys": ["base"],
    "identity": ["core", "sys", "base", "proto"],
    "aws": ["identity", "core", "sys", "base"],
    "mail": ["aws", "identity", "core", "sys", "base"],
    "ops": ["core", "sys", "base"],
    "app": ["ops", "mail", "aws", "identity", "core", "sys", "base"],
    "main.c": ["app", "base"],
}

# Besides names that end in _private.h: headers that stay within their directory.
PRIVATE_HEADERS = {"mail/smtp_session.h"}

# A third party is met in one place: header pattern -> the files that may include it.
HOMES = {
    "curl/*": ["aws/http.c", "aws/curl_loop.*"],
    "grpc/*": ["identity/workload_api_grpc.c"],
    "microhttpd.h": ["ops/admin.c"],
    "yaml.h": ["app/config*.c"],
    "expat.h": ["aws/*"],
    "jansson.h": ["aws/*", "ops/*", "app/*"],
    "ares*.h": ["ops/*"],
    "xxhash.h": ["mail/spool*"],
    "seccomp.h": ["app/*"],
    "uv.h": ["sys/*", "identity/*", "aws/*", "mail/*", "ops/*", "app/*"],
    "openssl/*": ["core/x509_svid.*", "core/base64.c", "identity/*", "aws/*", "base/secret.c", "sys/rand.c", "app/*"],
    "argp.h": ["app/*", "main.c"],
}

# core is pure: no input or output, no clock, no libuv.
IMPURE_HEADERS = ["uv.h", "unistd.h", "fcntl.h", "poll.h", "pthread.h", "signal.h", "sys/socket.h", "sys/stat.h",
                  "sys/time.h", "netdb.h"]
IMPURE_CALLS = ["time", "clock_gettime", "gettimeofday", "getenv", "open", "fopen", "read", "write", "socket", "printf",
                "fprintf", "rand", "random", "getrandom"]

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')


def code_lines(path: pathlib.Path) -> list[str]:
    """The file's lines with comments and the insides of literals blanked, so that names in them do not count."""
    text = path.read_text(encoding="utf-8")
    tokens = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)

    def blank(match: re.Match) -> str:
        found = match.group()
        if found.startswith("/"):
            return re.sub(r"[^\n]", " ", found)
        return found[0] + found[-1]

    include_safe = [line if INCLUDE.match(line) else None for line in text.split("\n")]
    stripped = tokens.sub(blank, text).split("\n")
    return [kept if kept is not None else line for kept, line in zip(include_safe, stripped, strict=True)]


def check(root: pathlib.Path) -> list[str]:
    sidecar = root / "sidecar"
    findings = []
    for path in sorted(p for p in sidecar.rglob("*") if p.suffix in (".c", ".h", ".def")):
        name = path.relative_to(sidecar).as_posix()
        layer = name.split("/")[0]
        where = path.relative_to(root).as_posix()
        if layer not in MAY_INCLUDE:
            findings.append(f"{where}:1: {layer} is no layer; tests/lint/check_layers.py lists them")
            continue
        for number, line in enumerate(code_lines(path), 1):
            include = INCLUDE.match(line)
            problems = check_include(name, layer, *include.groups(), sidecar) if include else []
            if layer == "core" and not include:
                problems += [f"core is pure and may not call {call}()" for call in IMPURE_CALLS
                             if re.search(rf"(?<![\w.>]){call}\s*\(", line)]
            findings += [f"{where}:{number}: {problem}" for problem in problems]
    return findings


def check_include(name: str, layer: str, quote: str, header: str, sidecar: pathlib.Path) -> list[str]:
    problems = []
    for pattern, homes in HOMES.items():
        if fnmatch.fnmatch(header, pattern) and not any(fnmatch.fnmatch(name, home) for home in homes):
            problems.append(f"<{header}> is met in {', '.join(homes)} only")
    if layer == "core" and header in IMPURE_HEADERS:
        problems.append(f"core is pure and may not include <{header}>")
    if quote == "<":
        return problems
    directory, _, base = header.rpartition("/")
    target = header.split("/")[0] if directory else layer
    if not directory and not header.endswith((".pb-c.h", ".inc")):
        problems.append(f'"{header}": write the layer too, "{layer}/{header}"')
    elif header.endswith(".pb-c.h"):
        target = "proto"
    elif not (sidecar / header).exists():
        problems.append(f'"{header}" is not in sidecar/')
    if target != layer and target not in MAY_INCLUDE[layer]:
        allowed = ", ".join(MAY_INCLUDE[layer]) or "nothing but itself"
        problems.append(f'{layer} may not include {target} ("{header}"); it may include {allowed}')
    is_private = base.endswith("_private.h") or header in PRIVATE_HEADERS
    if is_private and pathlib.PurePath(name).parent.as_posix() != directory:
        problems.append(f'"{header}" is private to {directory}/')
    return problems


if __name__ == "__main__":
    found = check(pathlib.Path(__file__).resolve().parent.parent.parent)
    print("\n".join(found))
    sys.exit(1 if found else 0)
