# SPDX-License-Identifier: Apache-2.0
"""deploy/kubectl-svidmail in the shells it may meet, before a kubectl that says what a test wants to hear."""

import os
import pathlib
import subprocess

PLUGIN = pathlib.Path(__file__).resolve().parent.parent.parent / "deploy" / "kubectl-svidmail"
SHELLS = {"dash": ["dash"], "busybox": ["busybox", "sh"], "bash": ["bash", "--posix"]}


def run_plugin(shell: str, words: list[str], kubectl: str, tmpdir: str, *, path: str = os.environ["PATH"],
               stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess:
    done = subprocess.run([*SHELLS[shell], str(PLUGIN), *words], stdin=subprocess.DEVNULL, stdout=stdout,
                          stderr=subprocess.PIPE, timeout=20,
                          env={"PATH": path, "KUBECTL": kubectl, "TMPDIR": tmpdir, "HOME": tmpdir})
    # Not text=True, which takes a CR for the end of a line.
    return subprocess.CompletedProcess(done.args, done.returncode, (done.stdout or b"").decode(), done.stderr.decode())


def write_kubectl(path: pathlib.Path, answers: dict[str, str]) -> str:
    """A kubectl that runs, for the first pattern that its words match (as in `case`), these lines of sh."""
    cases = "\n".join(f"{pattern})\n{script}\n;;" for pattern, script in answers.items())
    path.write_text(f"#!/bin/sh\ncase \"$*\" in\n{cases}\n*) echo \"kubectl was asked: $*\" >&2; exit 1 ;;\nesac\n")
    path.chmod(0o755)
    return str(path)
