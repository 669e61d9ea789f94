# SPDX-License-Identifier: Apache-2.0
"""What apps do that send a lot, in their containers; beside app.py, whose words it uses.

load.py sessions SUBJECT COUNT    so many sessions at once, each with a mail of its own; goes on past SIGTERM to each
                                  session's end, that is the verdict, which it does not wait for longer than 60 s
load.py big SUBJECT COUNT BYTES   so many mails of that size at once
load.py idle COUNT                so many connections that only hear the greeting, until SIGTERM
Each mail's subject is SUBJECT and its number.  What came of it is said as a line of JSON on stdout.
"""

import concurrent.futures
import selectors
import signal
import smtplib
import socket
import sys
import time

from app import RECIPIENT, SENDER, say

ENVELOPE = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode()
LINE = b"x" * 76 + b"\r\n"


def header(subject: str, number: int) -> bytes:
    return f"From: {SENDER}\r\nTo: {RECIPIENT}\r\nSubject: {subject} {number}\r\n\r\n".encode()


class Session:
    """The next thing is said when `wanted` was heard."""

    def __init__(self, subject: str, number: int):
        self.number = number
        self.lines: list[str] = []
        self.rest = b""
        self.steps = [("220 ", b"EHLO app\r\n"), ("250 ", ENVELOPE),
                      ("354 ", header(subject, number) + LINE * 10 + b".\r\n")]
        self.socket = socket.create_connection(("127.0.0.1", 2525), timeout=60)
        self.socket.setblocking(False)

    def read(self) -> str:
        """The verdict, as soon as it or an end is there: a reply, or closed, or reset."""
        try:
            piece = self.socket.recv(65536)
        except BlockingIOError:
            return ""
        except ConnectionResetError:
            return "reset"
        if not piece:
            return "closed"
        *lines, self.rest = (self.rest + piece).split(b"\r\n")
        for line in lines:
            text = line.decode()
            if text[3:4] != " ":
                continue
            if not self.steps:
                return text
            if text.startswith(self.steps[0][0]):
                self.socket.sendall(self.steps.pop(0)[1])
            elif text[0] in "45":
                return text
        return ""


def wait_for_identity() -> None:
    """svidmail answers as soon as it lives, and puts mail off until it has its identity."""
    while True:
        with smtplib.SMTP("127.0.0.1", 2525, local_hostname="app", timeout=60) as client:
            client.ehlo()
            if client.mail(SENDER)[0] == 250:
                return
        time.sleep(0.1)


def sessions(subject: str, count: int) -> None:
    wait_for_identity()
    with selectors.DefaultSelector() as selector:
        for number in range(count):
            session = Session(subject, number)
            selector.register(session.socket, selectors.EVENT_READ, session)
        under_way, deadline = False, time.monotonic() + 60
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(1):
                verdict = key.data.read()
                if verdict:
                    say(event="verdict", number=key.data.number, text=verdict)
                    selector.unregister(key.data.socket)
                    key.data.socket.close()
            if not under_way and all(not key.data.steps for key in selector.get_map().values()):
                under_way = True
                say(event="under way", count=len(selector.get_map()))
    say(event="done")


def big(subject: str, count: int, size: int) -> None:
    def send(number: int) -> None:
        with smtplib.SMTP("127.0.0.1", 2525, local_hostname="app", timeout=300) as client:
            client.ehlo()
            client.putcmd("MAIL", f"FROM:<{SENDER}> SIZE={size}")
            reply = client.getreply()
            if reply[0] == 250:
                client.rcpt(RECIPIENT)
                reply = client.docmd("DATA")
            if reply[0] == 354:
                client.send(header(subject, number))
                piece = LINE * 1000
                for _ in range((size - 200) // len(piece)):
                    client.send(piece)
                client.send(b".\r\n")
                reply = client.getreply()
            say(event="reply", number=number, code=reply[0], text=reply[1].decode())

    wait_for_identity()
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        list(pool.map(send, range(count)))
    say(event="done")


def idle(count: int) -> None:
    connections = [socket.create_connection(("127.0.0.1", 2525), timeout=60) for _ in range(count)]
    heard = sum(connection.recv(4) == b"220 " for connection in connections)
    say(event="connected", count=heard)
    signal.sigwait({signal.SIGTERM})


def main(command: str, *arguments: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    say(event="started")
    match command:
        case "sessions":
            sessions(arguments[0], int(arguments[1]))
        case "big":
            big(arguments[0], int(arguments[1]), int(arguments[2]))
        case "idle":
            idle(int(arguments[0]))


if __name__ == "__main__":
    main(*sys.argv[1:])
