# SPDX-License-Identifier: Apache-2.0
"""SES's SMTP door on port 465, in small: TLS first, a login, one mail after another.

It counts who dials it, apart from who speaks to it: a gateway may connect for a client that it then refuses.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pathlib
import socket
import ssl
import threading
from dataclasses import dataclass, field

from . import certs

USER, PASSWORD = "AKIASMTPSMTPSMTPSMTP", "not a password of anybody"


@dataclass
class SmtpMail:
    """A mail it has taken, with the bytes as they came (dots unstuffed)."""

    sender: str
    recipients: list[str]
    raw: bytes


@dataclass
class _Session:
    stream: ssl.SSLSocket
    user: str = ""
    sender: str = ""
    recipients: list[str] = field(default_factory=list)


class SesSmtp:
    """Use as a context manager, or start() and stop()."""

    def __init__(self, directory: str | os.PathLike[str], host: str, *, authority: certs.HostAuthority,
                 address: str = "127.0.0.1", port: int = 465) -> None:
        self.host = host
        self.address = address
        self.port = port
        self.authority = authority
        self.changed = threading.Condition()
        self.dialled = 0
        self.sessions = 0               # with a finished handshake
        self.snis: list[str | None] = []
        self.mails: list[SmtpMail] = []
        self._directory = pathlib.Path(directory)
        self._streams: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.serve_certificate(authority.issue(host))

    def __enter__(self) -> SesSmtp:
        self.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()

    def serve_certificate(self, credential: certs.Credential) -> None:
        """What is shown to everybody from now on: a wrong name, another CA, an expired one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        cert, key = credential.write(self._directory, f"server-{self.host}")
        context.load_cert_chain(cert, key)
        key.unlink()
        context.sni_callback = lambda _socket, name, _context: self.snis.append(name)
        self._context = context

    def start(self) -> None:
        self._listener = socket.create_server((self.address, self.port), backlog=256)
        threading.Thread(target=self._accept, args=(self._listener,), name="ses-smtp", daemon=True).start()

    def stop(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self.changed:
            streams = list(self._streams)
        for stream in streams:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(stream, socket.SHUT_RDWR)

    def reset(self) -> None:
        """Forgets what it saw."""
        with self.changed:
            self.dialled = self.sessions = 0
            self.snis.clear()
            self.mails.clear()

    def wait_for_mails(self, count: int = 1, timeout: float = 10) -> list[SmtpMail]:
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.mails) >= count, timeout):
                raise TimeoutError(f"{len(self.mails)} mails, not {count}, after {timeout} s")
            return list(self.mails)

    # --- below

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with self.changed:
                self.dialled += 1
                self._streams.add(plain)
                self.changed.notify_all()
            threading.Thread(target=self._serve, args=(plain,), name="ses-smtp-session", daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(60)
        try:
            with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as stream:
                with self.changed:
                    self.sessions += 1
                    self._streams.add(stream)
                    self.changed.notify_all()
                try:
                    self._talk(_Session(stream))
                finally:
                    with self.changed:
                        self._streams.discard(stream)
        finally:
            with self.changed:
                self._streams.discard(plain)
            plain.close()

    def _talk(self, session: _Session) -> None:
        stream = session.stream
        with stream.makefile("rb") as lines:

            def say(text: str) -> None:
                stream.sendall(text.encode() + b"\r\n")

            say(f"220 {self.host} ESMTP SimpleEmailService-d-fake")
            while line := lines.readline(2000):
                words = line.decode("latin-1").rstrip("\r\n")
                verb = words[:4].upper()
                if verb == "EHLO":
                    say(f"250-{self.host}\r\n250-8BITMIME\r\n250-SIZE 41943040\r\n250-AUTH PLAIN LOGIN\r\n250 Ok")
                elif verb == "AUTH":
                    session.user = _user_of(words)
                    say("235 Authentication successful." if session.user else "535 Authentication Credentials Invalid")
                elif verb == "NOOP":
                    say("250 Ok")
                elif verb == "QUIT":
                    say("221 Bye")
                    return
                elif not session.user:
                    say("530 Authentication required")
                elif verb == "MAIL":
                    session.sender, session.recipients = _path(words), []
                    say("250 Ok")
                elif verb == "RCPT":
                    session.recipients.append(_path(words))
                    say("250 Ok")
                elif verb == "DATA":
                    say("354 End data with <CR><LF>.<CR><LF>")
                    raw = _read_data(lines)
                    with self.changed:
                        self.mails.append(SmtpMail(session.sender, session.recipients, raw))
                        self.changed.notify_all()
                    say(f"250 Ok 0100fake{len(self.mails):08d}")
                else:
                    say("502 Unrecognized command.")


def _user_of(words: str) -> str:
    """AUTH PLAIN with its initial response, as smtplib and svidmail send it."""
    try:
        _, user, password = base64.b64decode(words.split()[2]).decode().split("\0")
    except (IndexError, ValueError):
        return ""
    return user if (user, password) == (USER, PASSWORD) else ""


def _path(words: str) -> str:
    return words[words.index("<") + 1:words.index(">")] if "<" in words and ">" in words else ""


def _read_data(lines) -> bytes:
    parts = []
    while (line := lines.readline()) not in (b".\r\n", b""):
        parts.append(line.removeprefix(b".") if line.startswith(b"..") else line)
    return b"".join(parts)
