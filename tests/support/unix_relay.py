# SPDX-License-Identifier: Apache-2.0
"""A relay between two unix sockets that can stall, tear and cut.

gRPC's own server ends its streams in good order; a broken agent does not. This stands between the
client and the issuer and does what a crash does: half a frame, then nothing, or the end.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import threading


class UnixRelay:
    """Listens on `front`, dials `back` for each connection, and passes bytes until told otherwise."""

    def __init__(self, front: str | os.PathLike[str], back: str | os.PathLike[str]) -> None:
        self.front = pathlib.Path(front)
        self.back = pathlib.Path(back)
        self._changed = threading.Condition()
        self._open = True
        self._flowing = True
        self._budget: int | None = None
        self._next_budgets: list[int] = []
        self._budget_of: dict[tuple[socket.socket, socket.socket], int] = {}
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self.accepted = 0
        with contextlib.suppress(FileNotFoundError):
            self.front.unlink()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.front))
        self.front.chmod(0o777)
        self._listener.listen(64)
        threading.Thread(target=self._accept, name="unix-relay", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                far.connect(str(self.back))
            except OSError:
                near.close()
                far.close()
                continue
            with self._changed:
                self.accepted += 1
                pair = (near, far)
                self._pairs.add(pair)
                if self._next_budgets:
                    self._budget_of[pair] = self._next_budgets.pop(0)
                self._changed.notify_all()
            threading.Thread(target=self._pump, args=(near, far, pair, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, pair, True), daemon=True).start()

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        pair: tuple[socket.socket, socket.socket],
        answers: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                with self._changed:
                    self._changed.wait_for(lambda: self._flowing or not self._open or pair not in self._pairs)
                    budget = self._budget_of.get(pair, self._budget) if answers else None
                    last = budget is not None and len(data) >= budget
                    if budget is not None:
                        data = data[:budget]
                        if pair in self._budget_of:
                            self._budget_of[pair] -= len(data)
                        else:
                            self._budget = budget - len(data)
                sink.sendall(data)
                if last:
                    with self._changed:
                        self._budget = None
                    break
        self._drop(pair)

    def _drop(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._changed:
            self._pairs.discard(pair)
            self._budget_of.pop(pair, None)
            self._changed.notify_all()
        for end in pair:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def stall(self) -> None:
        """Bytes stop both ways; connections stay open and new ones are still accepted."""
        with self._changed:
            self._flowing = False

    def resume(self) -> None:
        with self._changed:
            self._flowing = True
            self._changed.notify_all()

    def cut(self) -> None:
        """Every connection ends at once, in the middle of whatever was under way."""
        with self._changed:
            pairs = list(self._pairs)
        for pair in pairs:
            self._drop(pair)

    def cut_after(self, n_bytes: int) -> None:
        """Lets this many more bytes of answers through, then ends the connection that carried the last."""
        with self._changed:
            self._budget = n_bytes

    def cut_each_after(self, *n_bytes: int) -> None:
        """The next connections end when so many bytes of answers went through, each after its own number."""
        with self._changed:
            self._next_budgets += n_bytes

    def wait_for_connections(self, count: int, timeout: float = 10) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self.accepted >= count, timeout):
                raise TimeoutError(f"{self.front}: {self.accepted} connections, not {count}, after {timeout} s")

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            self.front.unlink()
        self.cut()
