# SPDX-License-Identifier: Apache-2.0
"""What the test apps do, in their containers: mail by the standard library over localhost; of SES they know nothing.

app.py serve                   sends one mail at start, trying again on 4xx as mail software does, and waits for SIGTERM
app.py job                     the same, and then it is done
app.py idle                    waits for SIGTERM
app.py send [SUBJECT]          one attempt
app.py stream [SUBJECT]        SUBJECT 1, SUBJECT 2, … until SIGTERM, each tried again until it is taken
app.py until-deleted [SUBJECT [SECONDS]]
                               a mail every 50 ms from SIGTERM on, for a second, as an app that winds up does
Each says what came of it as a line of JSON on stdout.
"""

import json
import os
import signal
import smtplib
import socket
import sys
import time

SENDER = "shop@shop.example"
RECIPIENT = "user@customer.example"


def say(**fields) -> None:
    print(json.dumps({"at": time.time(), **fields}), flush=True)


def attempt(subject: str) -> tuple[int, str]:
    """The reply that decided; code 0 when there was none."""
    mail = f"From: {SENDER}\r\nTo: {RECIPIENT}\r\nSubject: {subject}\r\n\r\nFrom {socket.gethostname()}.\r\n"
    try:
        with smtplib.SMTP("127.0.0.1", 2525, local_hostname="app", timeout=40) as client:
            client.ehlo()
            for reply in (lambda: client.mail(SENDER), lambda: client.rcpt(RECIPIENT),
                          lambda: client.data(mail.encode())):
                code, text = reply()
                if code >= 400:
                    break
            return code, text.decode()
    except smtplib.SMTPResponseException as refused:
        return refused.smtp_code, str(refused.smtp_error)
    except (OSError, smtplib.SMTPException) as problem:
        return 0, f"{type(problem).__name__}: {problem}"


def send_until_taken(subject: str) -> None:
    tries = 0
    while True:
        tries += 1
        code, text = attempt(subject)
        if code == 250 or code >= 500:
            say(event="sent" if code == 250 else "refused", code=code, text=text, tries=tries)
            return
        time.sleep(0.1)


def stream(subject: str) -> None:
    number, code = 0, 250
    while signal.sigtimedwait({signal.SIGTERM}, 0.05) is None:
        if code == 250 or code >= 500:
            number += 1
        code, text = attempt(f"{subject} {number}")
        say(event="reply", code=code, text=text, number=number)
    say(event="asked to end")


def wait_for_term() -> None:
    signal.sigwait({signal.SIGTERM})


def main(command: str, *arguments: str) -> None:
    # Pid 1 gets no signal that it does not ask for.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    subject = arguments[0] if arguments else os.environ.get("SUBJECT", socket.gethostname())
    say(event="started")
    if command in ("serve", "job"):
        send_until_taken(subject)
    if command == "send":
        code, text = attempt(subject)
        say(event="reply", code=code, text=text)
    if command == "stream":
        stream(subject)
    if command in ("serve", "idle", "until-deleted"):
        wait_for_term()
        say(event="asked to end")
    if command == "until-deleted":
        number, end = 0, time.monotonic() + float(arguments[1] if len(arguments) > 1 else 1)
        while time.monotonic() < end:
            number += 1
            code, text = attempt(f"{subject} {number}")
            say(event="reply", code=code, text=text, number=number)
            time.sleep(0.05)
        say(event="done")


if __name__ == "__main__":
    main(*sys.argv[1:])
