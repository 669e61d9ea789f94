# SPDX-License-Identifier: Apache-2.0
"""A steady stream of mails beside a test, so that it can say: nothing failed meanwhile."""

import threading
import time

from .mails import plain, send


class Traffic:
    """with Traffic(sidecar) as traffic: ...   then traffic.failures == [] and traffic.sent > 0."""

    def __init__(self, sidecar, pause_s: float = 0.05):
        self.sidecar = sidecar
        self.pause_s = pause_s
        self.sent = 0
        self.failures: list[tuple[float, int, str]] = []
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a mail hangs"

    def wait_for_more(self, count: int, timeout: float = 30) -> None:
        """Until so many further mails have been answered 250."""
        with self._changed:
            target = self.sent + count
            assert self._changed.wait_for(lambda: self.sent >= target, timeout), (
                f"{self.sent} of {target} mails in time; failures: {self.failures[:3]}")

    def _run(self) -> None:
        begun = time.monotonic()
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                code, text = send(self.sidecar, plain(f"traffic {number}"))
            except OSError as error:
                code, text = 0, str(error)
            with self._changed:
                if code == 250:
                    self.sent += 1
                else:
                    self.failures.append((time.monotonic() - begun, code, text))
                self._changed.notify_all()
            self._stop.wait(self.pause_s)
