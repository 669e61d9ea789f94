# SPDX-License-Identifier: Apache-2.0
"""What the demo says: each stage with its time, each mail with its hops; bold and grey on a terminal only."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from support.journey import Hop, Journey

PATIENCE_S = 5
# The inbox shows them all.
SHOWN_FACTS = {"gateway's own identity", "the gateway sees", "seen at the gateway", "SNI", "role", "JWT-SVID for"}


def indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def printable(text: object) -> str:
    """Nothing that came from outside steers the terminal."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


class Stage:
    def __init__(self) -> None:
        self.text = ""

    def says(self, text: str) -> None:
        self.text = text


class Screen:
    """Lines on a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()

    def line(self, text: str = "") -> None:
        print(text, file=self._stream, flush=True)

    def _bold(self, text: str) -> str:
        return f"\033[1m{text}\033[0m" if self._is_terminal else text

    def _grey(self, text: str) -> str:
        return f"\033[2m{text}\033[0m" if self._is_terminal else text

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """One line when it is done; before that, one each few seconds if it takes long."""
        began = time.monotonic()
        done = threading.Event()

        def tell_wait() -> None:
            while not done.wait(PATIENCE_S):
                self.line(self._grey(f"{name:>9}  still starting after {time.monotonic() - began:.0f} s"))

        ticker = threading.Thread(target=tell_wait, daemon=True)
        ticker.start()
        stage = Stage()
        try:
            yield stage
        finally:
            done.set()
            ticker.join()
        took = self._grey(f"({time.monotonic() - began:.1f} s)")
        self.line(f"{self._bold(f'{name:>9}')}  {stage.text} {took}")

    def mail(self, number: int, what: str, reply: str) -> None:
        self.line()
        self.line(f"{self._bold(f'mail {number}')}  {what}")
        self.line(f"    svidmail says: {printable(reply)}")

    def journey(self, journey: Journey, *, is_first_of_key: bool) -> None:
        """The hops; those that got the credentials are told once for each set of credentials."""
        for hop in journey.hops:
            if hop.end in ("Workload API", "AWS STS") and not is_first_of_key:
                continue
            self._hop(hop)

    def _hop(self, hop: Hop) -> None:
        self.line(f"    {self._bold(f'{hop.start} → {hop.end}')}  {self._grey(hop.protocol)}")
        if hop.pending:
            self.line(f"        {hop.pending}")
            return
        self.line(f"        {printable(hop.identity)}")
        notes = [f"seen by {hop.witness}"] if hop.identity.startswith(("spiffe:", "arn:")) else []
        if hop.verdict:
            notes.append(hop.verdict)
        if notes:
            self.line(f"        {self._grey('; '.join(notes))}")
        for name, value in hop.facts:
            if value and name in SHOWN_FACTS:
                self.line(f"        {self._grey(f'{name}: {printable(value)}')}")
