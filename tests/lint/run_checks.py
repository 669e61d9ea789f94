# SPDX-License-Identifier: Apache-2.0
"""The lint suite: each function named lint_* is one check; it returns findings, or says why it could not look.

run_checks.py [--build-dir DIR] [--junit FILE] [--only NAME] [--fix]
"""

import argparse
import collections
import collections.abc
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import check_doctor_codes
import check_layers

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOOLS = pathlib.Path(sys.executable).parent
SPDX = "SPDX-License-Identifier: Apache-2.0"
C_DIRECTORIES = ["sidecar", "tests/unit", "tests/fault", "tests/fuzz", "tests/bench", "tests/support"]


class CannotLook(Exception):
    """The check does not apply to this tree, or lacks something; counted as skipped, with the reason."""


def files(*patterns: str) -> list[pathlib.Path]:
    """What git knows or would add, so that build results and other people's ignored files do not count."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
                            cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return sorted({ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()})


def c_files() -> list[pathlib.Path]:
    return [path for path in files(*C_DIRECTORIES) if path.suffix in (".c", ".h")]


def relative(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def run(*command: str) -> list[str]:
    """The lines of a tool that has found something; none when it is content."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        return []
    return (done.stdout + done.stderr).splitlines() or [f"{command[0]} ended with {done.returncode}"]


def lint_layers(_options) -> list[str]:
    return check_layers.check(ROOT)


def lint_doctor_codes(_options) -> list[str]:
    return check_doctor_codes.check(ROOT)


def lint_banned_functions(_options) -> list[str]:
    banned = {}
    for line in (ROOT / "tests/lint/banned_functions.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, instead = line.split(None, 1)
            banned[name] = instead
    call = re.compile(rf"(?<![\w.>])({'|'.join(banned)})\s*\(")
    return [f"{relative(path)}:{number}: {found}() is banned: use {banned[found]}"
            for path in files("sidecar", "tests/support") if path.suffix in (".c", ".h")
            for number, line in enumerate(check_layers.code_lines(path), 1)
            for found in call.findall(line)]


def lint_license_headers(_options) -> list[str]:
    findings = []
    for path in files():
        name = relative(path)
        if path.suffix in (".c", ".h", ".def", ".proto"):
            head, wanted = 1, f"// {SPDX}"
        elif (path.suffix in (".py", ".sh", ".cmake", ".go") or path.name in ("CMakeLists.txt", "Dockerfile")
              or (not path.suffix and os.access(path, os.X_OK))):
            head, wanted = 2, SPDX
        else:
            continue
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = [file.readline().rstrip("\n") for _ in range(head)]
        if not any(line == wanted if head == 1 else wanted in line for line in lines):
            findings.append(f"{name}:1: the line {SPDX} is missing at the top")
    return findings


def lint_include_guards(_options) -> list[str]:
    findings = []
    for path in c_files():
        if path.suffix == ".h":
            name = relative(path).removeprefix("sidecar/").replace("tests/support/", "tests/").removesuffix(".h")
            guard = "SVIDMAIL_" + re.sub(r"[^A-Z0-9]", "_", name.upper()) + "_H"
            text = path.read_text()
            if f"#ifndef {guard}\n#define {guard}\n" not in text:
                findings.append(f"{relative(path)}:1: the include guard should be {guard}")
    return findings


def lint_c_format(options) -> list[str]:
    if not (ROOT / ".clang-format").exists():
        raise CannotLook("there is no .clang-format")
    names = [relative(path) for path in c_files()]
    if options.fix:
        run(str(TOOLS / "clang-format"), "-i", *names)
    found = run(str(TOOLS / "clang-format"), "--dry-run", "-Werror", *names)
    places = collections.Counter(line.split(":")[0] for line in found if "[-Wclang-format-violations]" in line)
    if found and not places:
        return found
    return [f"{name}: {count} places differ from .clang-format; mend them by tests/run lint --fix"
            for name, count in sorted(places.items())]


def lint_c_tidy(options) -> list[str]:
    if not (ROOT / ".clang-tidy").exists():
        raise CannotLook("there is no .clang-tidy")
    database = pathlib.Path(options.build_dir) / "compile_commands.json"
    if not database.exists():
        raise CannotLook("there is no build, and so no compile commands")
    # The wheel brings the program alone; the compiler's own headers (stdarg.h, stdatomic.h ...) are Debian's.
    headers = sorted(pathlib.Path("/usr/lib").glob("llvm-*/lib/clang/*/include"))
    if not headers:
        raise CannotLook("clang's own headers are not there (libclang-common-*-dev)")
    built = database.read_text()
    names = [relative(path) for path in files("sidecar") if path.suffix == ".c" and str(path) in built]
    findings = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(lambda name: subprocess.run(
                ["nice", str(TOOLS / "clang-tidy"), "--quiet", "-p", options.build_dir,
                 f"--extra-arg=-isystem{headers[-1]}", name],
                cwd=ROOT, capture_output=True, text=True), names):
            if done.returncode != 0:
                findings += done.stdout.splitlines() or done.stderr.splitlines()
    return findings


def lint_python(options) -> list[str]:
    fix = ["--fix"] if options.fix else []
    return run(str(TOOLS / "ruff"), "check", "--no-cache", "--output-format", "concise", *fix,
               *(relative(path) for path in python_files()))


def python_files() -> list[pathlib.Path]:
    return [path for path in files() if path.suffix == ".py" or _interpreter(path) == "python3"]


def lint_shell(_options) -> list[str]:
    scripts = [path for path in files() if path.suffix == ".sh" or _interpreter(path) in ("sh", "bash")]
    return run("shellcheck", "--external-sources", "--format", "gcc", *map(relative, scripts))


def _interpreter(path: pathlib.Path) -> str | None:
    """sh, bash or python3 for a program without a suffix."""
    if path.suffix or not os.access(path, os.X_OK):
        return None
    with path.open("rb") as file:
        first = file.readline(80).decode("ascii", "replace").rstrip()
    return re.split(r"[/ ]", first)[-1] if first.startswith("#!") else None


def checks() -> dict[str, collections.abc.Callable]:
    return {name.removeprefix("lint_"): function for name, function in globals().items() if name.startswith("lint_")}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--build-dir", default=str(ROOT / "build/dev"))
    parser.add_argument("--junit")
    parser.add_argument("--only", help="checks with this in their name")
    parser.add_argument("--fix", action="store_true", help="let clang-format and ruff mend what they can")
    options = parser.parse_args()

    suite = ElementTree.Element("testsuite", name="lint")
    is_clean = True
    for name, check in checks().items():
        if options.only and options.only not in name:
            continue
        began = time.monotonic()
        case = ElementTree.SubElement(suite, "testcase", classname="lint", name=name)
        try:
            findings = check(options)
        except CannotLook as reason:
            print(f"lint.{name}: SKIPPED: {reason}")
            ElementTree.SubElement(case, "skipped", message=str(reason))
            continue
        print(f"lint.{name}: {'FAILED' if findings else 'ok'} ({time.monotonic() - began:.1f} s)")
        if findings:
            is_clean = False
            print("\n".join(f"  {finding}" for finding in findings), flush=True)
            ElementTree.SubElement(case, "failure", message=f"{len(findings)} findings")
    if options.junit:
        ElementTree.ElementTree(suite).write(options.junit, encoding="utf-8")
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
