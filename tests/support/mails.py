# SPDX-License-Identifier: Apache-2.0
"""Mails to send, and the same one question about each: did it arrive as it was sent?"""

import hashlib
import re
import smtplib
from email.message import EmailMessage

SENDER = "shop@shop.example"
RECIPIENT = "user@customer.example"

# What svidmail puts on top of every mail, and nothing else (docs/architecture.md).
TRACE = re.compile(rb"\AReceived: from [^\r]+(?:\r\n[\t ][^\r]*)*\r\nX-Svidmail-Id: [0-9A-HJKMNP-TV-Z]{26}\r\n")


def plain(subject: str = "hello", text: str = "A first mail.\n", **headers: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = SENDER
    message["To"] = RECIPIENT
    message["Subject"] = subject
    message["Date"] = "Mon, 23 Nov 2026 17:26:04 +0000"
    message["Message-ID"] = "<first@shop.example>"
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    message.set_content(text)
    return message


def raw(body: bytes, *headers: bytes) -> bytes:
    """A mail of exact bytes: usual headers, then these, then the body."""
    usual = [b"From: shop@shop.example", b"To: user@customer.example", b"Subject: raw",
             b"Date: Mon, 23 Nov 2026 17:26:04 +0000", b"Message-ID: <raw@shop.example>"]
    return b"\r\n".join([*usual, *headers]) + b"\r\n\r\n" + body


def send(sidecar, message: EmailMessage | bytes | None = None, recipients: list[str] | None = None,
         sender: str = SENDER) -> tuple[int, str]:
    """The reply to the final dot (or the first refusal), by a stock client."""
    content = message if isinstance(message, bytes) else (message or plain()).as_bytes(
        policy=(message or plain()).policy.clone(linesep="\r\n"))
    with sidecar.smtp() as client:
        try:
            client.ehlo_or_helo_if_needed()
            code, text = client.mail(sender, [f"size={len(content)}", "body=8bitmime"])
            if code != 250:
                return code, text.decode()
            for recipient in recipients or [RECIPIENT]:
                code, text = client.rcpt(recipient)
                if code != 250:
                    return code, text.decode()
            code, text = client.data(content)
        except smtplib.SMTPServerDisconnected as gone:
            return 0, str(gone)
        return code, text.decode()


def without_trace(arrived: bytes) -> bytes:
    """What arrived less what svidmail says it adds; fails if that is not on top, once."""
    match = TRACE.match(arrived)
    assert match, arrived[:400]
    return arrived[match.end():]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
