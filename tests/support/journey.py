# SPDX-License-Identifier: Apache-2.0
"""A mail's way, told by those who saw it pass: the app, svidmail's log, the gateway's access log, STS and SES.

Each hop names the identity that was seen *there*, by the one who checked it. What a witness has not said
yet (Envoy logs a request after it, and a connection at its end) is told as missing, and filled in later.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from .aws import FakeAws, Mail, TokenSeen

# What the demo's gateway adds to its access log, so that a line can be joined with what AWS saw.
EXTRA_ACCESS_LOG_FIELDS = {
    "aws_request_id": "%RESP(X-AMZN-REQUESTID)%",
    "upstream_local": "%UPSTREAM_LOCAL_ADDRESS%",
    "gateway_id": "%DOWNSTREAM_LOCAL_URI_SAN%",
}


@dataclass
class Hop:
    """One step of the way; `identity` is who was seen there, `witness` who says so."""

    start: str
    end: str
    protocol: str
    identity: str = ""
    witness: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    verdict: str = ""
    pending: str = ""


@dataclass
class Journey:
    mail: Mail
    hops: list[Hop]
    event: dict[str, Any]

    @property
    def is_complete(self) -> bool:
        return bool(self.event) and not any(hop.pending for hop in self.hops)


class Witnesses:
    """Collects the logs and joins them to mails; safe to call from the threads that read the logs."""

    def __init__(self, aws: FakeAws, issuer: str) -> None:
        self.aws = aws
        self.issuer = issuer
        self.changed = threading.Condition()
        self._access: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []

    def on_access(self, entry: dict[str, Any]) -> None:
        """A line of the gateway's access log."""
        with self.changed:
            self._access.append(entry)
            del self._access[:-10000]
            self.changed.notify_all()

    def on_event(self, event: dict[str, Any]) -> None:
        """A line of svidmail's log."""
        if event.get("event") == "mail.done":
            with self.changed:
                self._events.append(event)
                del self._events[:-10000]
                self.changed.notify_all()

    def journeys(self) -> list[Journey]:
        """Oldest first."""
        return [self.journey(mail) for mail in self.aws.mails]

    def journey(self, mail: Mail) -> Journey:
        with self.changed:
            event = next((e for e in self._events if e.get("ses_message_id") == mail.message_id), {})
            entry = self._access_of("api", mail.request) or self._access_of("end_to_end", mail.request)
            hops = [
                self._app_hop(mail, event),
                *self._credential_hops(mail),
                self._gateway_hop(entry, event),
                self._ses_hop(mail, entry),
            ]
        return Journey(mail, hops, event)

    def wait_complete(self, mail: Mail, timeout: float = 15) -> Journey:
        """Waits for the last witness; what is missing then stays marked as missing."""
        with self.changed:
            self.changed.wait_for(lambda: self.journey(mail).is_complete, timeout)
        return self.journey(mail)

    # --- hops ------------------------------------------------------------------------------------

    def _app_hop(self, mail: Mail, event: dict[str, Any]) -> Hop:
        hop = Hop("app", "svidmail", "SMTP on 127.0.0.1", witness="svidmail's log")
        hop.identity = "none needed: the loopback of its own pod"
        if not event:
            hop.pending = "svidmail has not logged this mail yet"
            return hop
        hop.facts = [
            ("mail", str(event.get("mail", ""))),
            ("session", str(event.get("session", ""))),
            ("reply", str(event.get("reply") or event.get("code", ""))),
            ("took", _milliseconds(event.get("total_us"))),
        ]
        return hop

    def _credential_hops(self, mail: Mail) -> list[Hop]:
        token = next((t for t in self.aws.tokens if t.access_key_id == mail.request.access_key_id), None)
        if token is None:
            return []
        return [self._issuer_hop(token), self._sts_hop(token)]

    def _issuer_hop(self, token: TokenSeen) -> Hop:
        hop = Hop("svidmail", "Workload API", "gRPC on a unix socket", token.subject, f"{self.issuer}, by its token")
        hop.facts = [("JWT-SVID for", token.audience), ("signed by key", f"{token.key_id} ({token.algorithm})")]
        hop.facts.append(("good for", f"{token.expires_at - token.issued_at:.0f} s"))
        return hop

    def _sts_hop(self, token: TokenSeen) -> Hop:
        hop = Hop("svidmail", "AWS STS", "TLS to AWS inside mTLS: the gateway sees bytes only", token.subject)
        hop.witness = "STS, by the token's signature (PyJWT)"
        request = next(
            (r for r in self.aws.requests_of("sts") if r.access_key_id == token.access_key_id and r.status == 200), None
        )
        hop.facts = [("role", token.role_arn), ("session", token.session_name), ("access key", token.access_key_id)]
        hop.facts.append(("issued", time.strftime("%H:%M:%S", time.localtime(token.at))))
        if request:
            hop.facts.append(("request id", request.request_id))
            entry = self._access_of("end_to_end", request)
            if entry:
                hop.facts += [("seen at the gateway", str(entry.get("peer") or "nobody")), ("SNI", _sni(entry))]
        hop.verdict = "token verified"
        return hop

    def _gateway_hop(self, entry: dict[str, Any] | None, event: dict[str, Any]) -> Hop:
        hop = Hop("svidmail", "egress gateway", "mTLS by X.509-SVID", witness="the gateway's access log (Envoy)")
        if entry is None:
            hop.pending = "the gateway logs it when the request, or the connection, has ended"
        else:
            hop.identity = str(entry.get("peer") or "")
            sees = "the mail (tls: gateway)" if entry.get("log") == "api" else "bytes only (tls: end-to-end)"
            hop.facts = [("the gateway sees", sees), ("SNI", _sni(entry))]
        if event.get("gateway"):
            hop.facts.append(("gateway's own identity", f"{event['gateway']} (checked by svidmail)"))
        return hop

    def _ses_hop(self, mail: Mail, entry: dict[str, Any] | None) -> Hop:
        request = mail.request
        is_inside = entry is not None and entry.get("log") != "api"
        start = "svidmail, through the gateway" if is_inside else "egress gateway"
        hop = Hop(start, "Amazon SES", "HTTPS, signed (AWS Signature 4)", request.principal)
        hop.witness = "SES, by the signature (botocore)"
        hop.facts = [
            ("access key", request.access_key_id),
            ("MessageId", mail.message_id),
            ("request id", request.request_id),
            ("SNI", f"{request.connection.sni}, {request.connection.tls_version}"),
        ]
        hop.verdict = "signature verified" if request.signature_verified else "signature not checked"
        return hop

    def _access_of(self, listener: str, request: Any) -> dict[str, Any] | None:
        """The access-log line that belongs to what AWS saw: by request id, or by the TCP connection."""
        peer = ":".join(map(str, request.connection.peer[:2]))
        for entry in self._access:
            if entry.get("log") != listener:
                continue
            if listener == "api" and entry.get("aws_request_id") == request.request_id:
                return entry
            if listener != "api" and entry.get("upstream_local") == peer and entry.get("peer"):
                return entry
        return None


def _sni(entry: dict[str, Any]) -> str:
    return f"{entry.get('sni')}, {entry.get('tls_version')}"


def _milliseconds(microseconds: Any) -> str:
    try:
        return f"{float(microseconds) / 1000:.1f} ms"
    except (TypeError, ValueError):
        return ""
