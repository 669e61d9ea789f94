# SPDX-License-Identifier: Apache-2.0
"""The demo's three mails, sent by Python's smtplib as any app would, and checked where they arrive."""

from __future__ import annotations

import smtplib
from dataclasses import dataclass
from email.message import EmailMessage

from support.aws import Mail
from support.journey import Journey

SHOP = "Corner Shop <shop@shop.example>"


@dataclass
class Letter:
    what: str
    message: EmailMessage
    recipients: list[str]
    hidden: str = ""


@dataclass
class Reply:
    code: int
    text: str


class Client(smtplib.SMTP):
    """The stock client; it only remembers the reply to DATA, which smtplib drops when all is well."""

    last_reply: tuple[int, bytes] = (0, b"")

    def data(self, msg: bytes) -> tuple[int, bytes]:
        self.last_reply = super().data(msg)
        return self.last_reply


def _message(subject: str, to: str, text: str, **headers: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = SHOP
    message["To"] = to
    for name, value in headers.items():
        message[name] = value
    message["Subject"] = subject
    message.set_content(text)
    return message


def all_letters() -> list[Letter]:
    plain = _message(
        "Your order 4711 is on its way",
        "zoe@customer.example",
        "Hello Zoe,\n\nyour parcel left our house today. No password was used to send you this.\n\nCorner Shop\n",
    )
    greeting = _message(
        "Rechnung für Köln — 請求書",
        "Jürgen Groß <juergen@customer.example>",
        "Guten Tag Herr Groß,\n\nanbei Ihre Rechnung über 47,11 €.\n\nCorner Shop\n",
    )
    greeting.add_attachment(
        "Artikel;Preis\nÄpfel;4,70 €\n", subtype="csv", charset="utf-8", filename="Rechnung 4711 Äpfel.csv"
    )
    crowd = _message(
        "We are closed on Friday",
        "ann@customer.example, ben@customer.example",
        "Dear customers,\n\nwe are closed on Friday.\n\nCorner Shop\n",
        Cc="cleo@customer.example",
        Bcc="boss@shop.example",
    )
    return [
        Letter("plain text, one recipient", plain, ["zoe@customer.example"]),
        Letter("UTF-8 with an attachment", greeting, ["juergen@customer.example"]),
        Letter(
            "four recipients, one of them Bcc",
            crowd,
            ["ann@customer.example", "ben@customer.example", "cleo@customer.example", "boss@shop.example"],
            hidden="boss@shop.example",
        ),
    ]


def send(letter: Letter, port: int) -> Reply:
    """The reply the app hears."""
    try:
        with Client("127.0.0.1", port, local_hostname="app.demo", timeout=40) as client:
            client.send_message(letter.message)
            code, text = client.last_reply
    except smtplib.SMTPRecipientsRefused as refused:
        code, text = next(iter(refused.recipients.values()))
    except smtplib.SMTPResponseException as refused:
        code, text = refused.smtp_code, refused.smtp_error
    except OSError as problem:
        return Reply(0, f"no reply: {problem}")
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return Reply(code, f"{code} {shown}")


def _contents(message: EmailMessage) -> list[tuple[str, list[str]]]:
    """Text and attachments as people read them; how lines end is the transport's business."""
    parts = [part for part in message.walk() if not part.is_multipart()]
    return [(part.get_filename() or "", part.get_content().splitlines()) for part in parts]


def problems(letter: Letter, mail: Mail, journey: Journey) -> list[str]:
    """What is not as it should be where the mail arrived."""
    out = [f"SES saw: {violation}" for violation in mail.violations]
    if sorted(mail.recipients) != sorted(letter.recipients):
        out.append(f"SES was told the recipients {mail.recipients}, not {letter.recipients}")
    if letter.hidden and letter.hidden.encode() in mail.raw:
        out.append(f"the mail itself names {letter.hidden}, who was to stay hidden")
    if str(mail.parsed["Subject"]) != str(letter.message["Subject"]):
        out.append(f"the subject arrived as {mail.parsed['Subject']}")
    for name in ("Date", "Message-ID", "Received"):
        if name not in mail.parsed:
            out.append(f"svidmail added no {name}")
    if _contents(mail.parsed) != _contents(letter.message):
        out.append("text or attachments arrived changed")
    if not mail.request.signature_verified:
        out.append("the signature was not verified")
    out += [f"{hop.start} → {hop.end}: {hop.pending}" for hop in journey.hops if hop.pending]
    return out
