# SPDX-License-Identifier: Apache-2.0
"""SES v2 as far as svidmail uses it: SendEmail (Raw), and the two calls `doctor` asks.

The request's shape is judged by botocore's own service model, its signature by botocore's signer. What
SES is known to refuse in a mail is refused; what it forgives but a good relay does not send (bare line
feeds, long lines) is written down as a violation of the mail.
"""

from __future__ import annotations

import base64
import binascii
import email
import email.policy
import email.utils
import functools
import hashlib
import itertools
import json
import re
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from . import aws_signature
from .aws_http import Refusal, Request, Response
from .aws_signature import AccessKey

SEND_EMAIL = "/v2/email/outbound-emails"
MAX_RECIPIENTS = 50
MAX_MESSAGE_BYTES = 40 * 1024 * 1024
MAX_LINE_BYTES = 998

# SES developer guide, "header fields": those that may appear only once.
_ONCE_ONLY_NAMES = """
    Accept-Language acceptLanguage Archived-At Auto-Submitted Bounces-to Comments Content-Alternative Content-Base
    Content-Class Content-Description Content-Disposition Content-Duration Content-ID Content-Language Content-Length
    Content-Location Content-MD5 Content-Transfer-Encoding Content-Type Date Delivered-To
    Disposition-Notification-Options Disposition-Notification-To DKIM-Signature DomainKey-Signature Errors-To From
    Importance In-Reply-To Keywords List-Archive List-Help List-Id List-Owner List-Post List-Subscribe
    List-Unsubscribe List-Unsubscribe-Post Message-Context Message-ID MIME-Version Organization Original-From
    Original-Message-ID Original-Recipient Original-Subject Precedence Priority References Reply-To Return-Path
    Return-Receipt-To Sender Solicitation Subject Thread-Index Thread-Topic User-Agent VBR-Info
"""
ONCE_ONLY = frozenset(name.lower() for name in _ONCE_ONLY_NAMES.split())
_REGION_PREFIX = {"us-east-1": "0100", "us-west-2": "0101", "eu-west-1": "0102", "eu-central-1": "0107"}


@dataclass
class Mail:
    """A mail that SES has taken."""

    number: int
    message_id: str
    request: Request
    raw: bytes
    sha256: str
    recipients: list[str]
    from_address: str
    feedback_address: str
    configuration_set: str
    tags: dict[str, str]
    at: float
    parameters: dict[str, Any] = field(default_factory=dict)  # all of SendEmail's but Content
    violations: list[str] = field(default_factory=list)

    @functools.cached_property
    def parsed(self) -> EmailMessage:
        return email.message_from_bytes(self.raw, policy=email.policy.default)

    @property
    def head(self) -> bytes:
        """The header section, with the CRLF of its last line."""
        return self.raw[: self.raw.find(b"\r\n\r\n") + 2]

    @property
    def body(self) -> bytes:
        """What follows the empty line."""
        return self.raw[self.raw.find(b"\r\n\r\n") + 4 :]


@dataclass
class Account:
    """What the account may send: None for `identities` means that everything is verified."""

    identities: Collection[str] | None = None
    sandbox: bool = False
    configuration_sets: Collection[str] | None = None
    send_quota: dict[str, float] = field(
        default_factory=lambda: {"Max24HourSend": 50000.0, "MaxSendRate": 14.0, "SentLast24Hours": 0.0}
    )

    def is_verified(self, address: str) -> bool:
        if self.identities is None:
            return True
        address = address.lower()
        return address in self.identities or address.rpartition("@")[2] in self.identities


@functools.cache
def load_model() -> Any:
    """The shape of SendEmail's input, as botocore's description of the service has it."""
    import botocore.loaders
    import botocore.model

    description = botocore.loaders.Loader().load_service_model("sesv2", "service-2")
    return botocore.model.ServiceModel(description, "sesv2").operation_model("SendEmail").input_shape


def _bad(message: str) -> Refusal:
    return Refusal(400, "BadRequestException", message)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a member is given twice")
    return out


def _not_a_number(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def check_address(address: str) -> None:
    """SES's own words for what it cannot read as an address."""
    if re.search(r"[^\x21-\x7e]", re.sub(r'"[^"]*"', "", address.rpartition("@")[0])):
        raise _bad("Local address contains control or whitespace")
    local, at, domain = address.rpartition("@")
    if not at:
        raise _bad("Missing final '@domain'")
    if not local:
        raise _bad("Missing local name")
    if not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f.:IPv]+\]", domain):
        raise _bad("Domain contains illegal character")


class Ses:
    """The mails taken so far, and the rules by which."""

    def __init__(
        self, region: str, lookup: Callable[[str], AccessKey | None], clock: Callable[[], float] = time.time
    ) -> None:
        self.region = region
        self.lookup = lookup
        self.clock = clock
        self.account = Account()
        self.mails: list[Mail] = []
        self.max_message_bytes = MAX_MESSAGE_BYTES
        self.taken = threading.Condition()
        self._numbers = itertools.count(1)

    def message_id(self) -> str:
        """The form of a real one: region, milliseconds, a UUID, six zeros."""
        prefix = _REGION_PREFIX.get(self.region, "0109")
        return f"{prefix}{int(self.clock() * 1000) & 0xFFFFFFFFFFFF:012x}-{uuid.uuid4()}-000000"

    def handle(self, request: Request) -> Response:
        key = aws_signature.verify(
            request, request.body, lookup=self.lookup, region=self.region, service="ses", now=self.clock()
        )
        request.access_key_id, request.principal = key.access_key_id, key.principal
        request.signature_verified = True
        path = request.target.partition("?")[0]
        if request.method == "POST" and request.target == SEND_EMAIL:
            return self._send_email(request)
        if request.method == "GET" and path == "/v2/email/account":
            return self._get_account()
        if request.method == "GET" and path.startswith("/v2/email/identities/"):
            return self._get_identity(urllib.parse.unquote(path.rpartition("/")[2]))
        raise Refusal(404, "UnknownOperationException", "")

    # --- SendEmail -------------------------------------------------------------------------------

    def _send_email(self, request: Request) -> Response:
        parameters = self._parse(request)
        raw = parameters["Content"]["Raw"]["Data"]
        if len(raw) > self.max_message_bytes:
            raise _bad(f"Message length is more than {self.max_message_bytes} bytes long: '{len(raw)}'.")
        headers = self._headers(raw)
        recipients, violations = self._recipients(parameters, headers)
        sender = self._sender(parameters, headers)
        self._check_verified(sender, parameters, recipients)
        name = parameters.get("ConfigurationSetName", "")
        if name and self.account.configuration_sets is not None and name not in self.account.configuration_sets:
            raise Refusal(404, "NotFoundException", f"Configuration set <{name}> does not exist.")
        with self.taken:
            mail = Mail(
                next(self._numbers),
                self.message_id(),
                request,
                raw,
                hashlib.sha256(raw).hexdigest(),
                recipients,
                sender,
                parameters.get("FeedbackForwardingEmailAddress", ""),
                name,
                {tag["Name"]: tag["Value"] for tag in parameters.get("EmailTags", [])},
                self.clock(),
                {key: value for key, value in parameters.items() if key != "Content"},
                violations + _violations(raw, request),
            )
            request.message_id = mail.message_id
            self.mails.append(mail)
            self.taken.notify_all()
        return Response(200, json.dumps({"MessageId": mail.message_id}).encode())

    def _parse(self, request: Request) -> dict[str, Any]:
        """The body as botocore's model wants it; whatever the model does not name is refused."""
        from botocore.validate import ParamValidator

        content_type = (request.header("content-type") or "").split(";")[0].strip().lower()
        if content_type not in ("application/json", "application/x-amz-json-1.1"):
            raise Refusal(415, "UnsupportedMediaTypeException", f"Content-Type is {content_type or 'missing'}")
        try:
            parameters = json.loads(request.body, object_pairs_hook=_no_repeats, parse_constant=_not_a_number)
        except ValueError as problem:
            raise Refusal(400, "SerializationException", f"body is not JSON: {str(problem)[:200]}") from None
        try:
            content = parameters["Content"]["Raw"]
            content["Data"] = base64.b64decode(content["Data"], validate=True)
        except (KeyError, TypeError):
            raise _bad("Content.Raw.Data is missing or no text; this stand-in takes Raw only") from None
        except (binascii.Error, ValueError) as problem:
            raise Refusal(400, "SerializationException", f"Content.Raw.Data is not base64: {problem}") from None
        report = ParamValidator().validate(parameters, load_model())
        if report.has_errors():
            raise Refusal(400, "SerializationException", report.generate_report())
        if set(parameters["Content"]) != {"Raw"}:
            raise _bad("Only one of Simple, Raw and Template may be given")
        return parameters

    def _headers(self, raw: bytes) -> EmailMessage:
        if not raw:
            raise _bad("Empty raw message")
        end = re.search(rb"\r?\n\r?\n", raw)
        message = email.message_from_bytes(raw[: end.end()] if end else raw, policy=email.policy.compat32)
        seen: set[str] = set()
        for name, _ in message.items():
            if name.lower() in seen and name.lower() in ONCE_ONLY:
                raise _bad(f"Duplicate header '{name}'.")
            seen.add(name.lower())
        return message

    def _recipients(self, parameters: dict[str, Any], headers: EmailMessage) -> tuple[list[str], list[str]]:
        destination = parameters.get("Destination")
        violations = []
        if destination is None:
            violations.append("no Destination: the envelope was taken from the headers, Bcc is lost")
            values = [v for name in ("To", "Cc", "Bcc") for v in headers.get_all(name, [])]
            recipients = [address for _, address in email.utils.getaddresses(values)]
        else:
            recipients = [
                address for kind in ("To", "Cc", "Bcc") for address in destination.get(f"{kind}Addresses", [])
            ]
        if not recipients:
            raise _bad("Missing required header 'To'.")
        if len(recipients) > MAX_RECIPIENTS:
            raise _bad(f"Recipient count exceeds {MAX_RECIPIENTS}.")
        for recipient in recipients:
            check_address(recipient)
        return recipients, violations

    def _sender(self, parameters: dict[str, Any], headers: EmailMessage) -> str:
        value = parameters.get("FromEmailAddress") or str(headers.get("From", ""))
        if not value:
            raise _bad("Missing required header 'From'.")
        addresses = [address for _, address in email.utils.getaddresses([value])]
        if len(addresses) != 1:
            raise _bad("Expected one address in header 'From'.")
        check_address(addresses[0])
        return addresses[0]

    def _check_verified(self, sender: str, parameters: dict[str, Any], recipients: list[str]) -> None:
        wanted = [sender, parameters.get("FeedbackForwardingEmailAddress", "")]
        if self.account.sandbox:
            wanted += [r for r in recipients if not r.lower().endswith("@simulator.amazonses.com")]
        failed = [address for address in dict.fromkeys(wanted) if address and not self.account.is_verified(address)]
        if failed:
            text = "Email address is not verified. The following identities failed the check in region "
            raise Refusal(400, "MessageRejected", f"{text}{self.region.upper()}: {', '.join(failed)}")

    # --- what doctor asks ------------------------------------------------------------------------

    def _get_account(self) -> Response:
        body = {
            "DedicatedIpAutoWarmupEnabled": False,
            "EnforcementStatus": "HEALTHY",
            "ProductionAccessEnabled": not self.account.sandbox,
            "SendQuota": self.account.send_quota,
            "SendingEnabled": True,
        }
        return Response(200, json.dumps(body).encode())

    def _get_identity(self, name: str) -> Response:
        if self.account.identities is not None and name.lower() not in self.account.identities:
            raise Refusal(404, "NotFoundException", f"Email identity {name} does not exist.")
        body = {
            "IdentityType": "EMAIL_ADDRESS" if "@" in name else "DOMAIN",
            "FeedbackForwardingStatus": True,
            "VerifiedForSendingStatus": True,
            "VerificationStatus": "SUCCESS",
            "DkimAttributes": {
                "SigningEnabled": True,
                "Status": "SUCCESS",
                "Tokens": ["a" * 32, "b" * 32, "c" * 32],
            },
        }
        return Response(200, json.dumps(body).encode())


def _violations(raw: bytes, request: Request) -> list[str]:
    """What SES lets pass and a good relay does not do."""
    out = []
    if re.search(rb"(?<!\r)\n", raw):
        out.append("bare LF")
    if re.search(rb"\r(?!\n)", raw):
        out.append("bare CR")
    if b"\0" in raw:
        out.append("NUL")
    longest = max((len(line) for line in raw.split(b"\r\n")), default=0)
    if longest > MAX_LINE_BYTES:
        out.append(f"line of {longest} bytes")
    head = raw[: raw.find(b"\r\n\r\n") + 2]
    if re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", head):
        out.append("control character in a header")
    if re.search(rb"[\x80-\xff]", head):
        out.append("8-bit byte in a header")
    if re.search(rb"(?im)^bcc:", head):
        out.append("Bcc header")
    out += [f"gateway header {name}" for name in request.header_names() if re.match(r"x-(envoy|forwarded)-", name)]
    return out


def error_response(request: Request, refusal: Refusal, error_in: str = "header") -> Response:
    """rest-json's errors: the name in a header, as SES does, or in the body, as other front ends do."""
    body: dict[str, str] = {"message": refusal.message}
    headers = []
    if error_in == "header":
        headers.append(("x-amzn-ErrorType", f"{refusal.error}:http://internal.amazon.com/coral/com.amazonaws.ses/"))
    else:
        prefix = "com.amazonaws.ses#" if error_in == "__type" else ""
        body = {error_in: prefix + refusal.error, **body}
    return Response(refusal.status, json.dumps(body).encode(), "application/json", headers)
