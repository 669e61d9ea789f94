# SPDX-License-Identifier: Apache-2.0
"""A fake AWS, stricter than the real one: STS and SES behind one TLS port, judged by PyJWT and botocore.

    with FakeAws(tmp_path, jwks=issuer.jwks, subjects=["spiffe://example.org/ns/shop/sa/checkout"]) as aws:
        ...                                              # aws.port, aws.ca_file, aws.sts_host, aws.ses_host
        [mail] = aws.wait_for_mails(1)
        aws.inject("daily-quota", times=2)               # by name (aws_faults.py), or by keywords of Fault
        aws.inject(cut="before-answer", skip=1)
        assert aws.handshakes == 1

As a process: python3 -m support.aws --directory D --jwks-file F [--port P] [--control-port P] [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
import http.server
import json
import os
import pathlib
import signal
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Collection, Sequence
from typing import Any

from . import aws_ses, aws_sts, certs
from .aws_faults import FAULTS
from .aws_http import Fault, HttpServer, Refusal, Request, Response
from .aws_ses import Account, Mail, Ses
from .aws_signature import AccessKey
from .aws_sts import Sts, TokenSeen, TrustPolicy

__all__ = [
    "FAULTS",
    "AccessKey",
    "Account",
    "FakeAws",
    "Fault",
    "Mail",
    "Request",
    "TokenSeen",
    "TrustPolicy",
]


class FakeAws(HttpServer):
    """STS and SES of one region on 127.0.0.1, told apart by SNI and Host as AWS's front doors are."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        jwks: Any,
        region: str = "eu-central-1",
        audiences: Collection[str] = ("sts.amazonaws.com",),
        issuer: str | None = None,
        subjects: Collection[str] | None = None,
        roles: Collection[str] | None = None,
        identities: Collection[str] | None = None,
        hosts: Sequence[str] = (),
        authority: certs.HostAuthority | None = None,
        quick: bool = False,
        address: str = "127.0.0.1",
        port: int = 0,
        control_port: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`jwks`: a JWKS or a function that gives one. `hosts`: further names that have a certificate.

        `quick` answers without a look (benchmarks). `control_port` 0 picks one; None: no control port.
        """
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.region = region
        self.sts_host = f"sts.{region}.amazonaws.com"
        self.ses_host = f"email.{region}.amazonaws.com"
        self.authority = authority or certs.HostAuthority("fake AWS CA")
        self.ca_file = self.authority.write(self.directory / "aws-ca.pem")
        super().__init__({}, address=address, port=port)
        for host in (self.sts_host, self.ses_host, *hosts):
            self.serve_certificate(host, self.authority.issue(host))
        self.clock = clock
        self.quick = quick
        self.sts = Sts(TrustPolicy(jwks, audiences, issuer, subjects, roles), self._now)
        self.ses = Ses(region, self.sts.lookup, self._now)
        self.ses.taken = self.changed
        self.ses.account = Account(identities=identities)
        self._control: http.server.ThreadingHTTPServer | None = None
        self._wanted_control_port = control_port

    def _now(self) -> float:
        return self.clock()

    def __enter__(self) -> FakeAws:
        self.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()

    def start(self) -> None:
        if not self.quick:
            aws_ses.load_model()  # or the first mail would wait for it
        super().start()
        if self._wanted_control_port is not None and self._control is None:
            self._control = _control_server(self, self._wanted_control_port)

    def stop(self) -> None:
        """No port, no connection; start() brings the service back with everything it knew."""
        super().stop()
        if self._control:
            self._control.shutdown()
            self._control.server_close()
            self._control = None

    @property
    def control_port(self) -> int:
        return self._control.server_address[1] if self._control else 0

    # --- set-up ----------------------------------------------------------------------------------

    def serve_certificate(self, host: str, credential: certs.Credential) -> None:
        """What a client that asks for `host` is shown from now on: a wrong name, another CA, an expired one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        cert_path, key_path = credential.write(self.directory, f"server-{host}")
        context.load_cert_chain(cert_path, key_path)
        key_path.unlink()
        context.sni_callback = self._choose_context
        self.contexts[host] = context

    def add_access_key(self, key: AccessKey) -> AccessKey:
        """Credentials that did not come from STS: for tests of SES alone."""
        self.sts.keys[key.access_key_id] = key
        return key

    def expire_credentials(self) -> None:
        """Every set given out so far is expired from now on."""
        for key in self.sts.keys.values():
            key.expires_at = self.clock()

    @property
    def credential_ttl(self) -> float | None:
        """Seconds that new credentials live; None: as the caller asked (900 at least)."""
        return self.sts.credential_ttl

    @credential_ttl.setter
    def credential_ttl(self, ttl: float | None) -> None:
        self.sts.credential_ttl = ttl

    # --- faults ----------------------------------------------------------------------------------

    def inject(self, fault: str | Fault | None = None, **changes: Any) -> Fault:
        """Queues a fault for the next `times` requests that it fits, after `skip` that pass.

        By name, as a Fault, or by Fault's fields alone; keywords change single fields. An error given by
        keywords goes to SES unless `service` says otherwise ("" is any).
        """
        if isinstance(fault, str):
            fault = FAULTS[fault]
        elif fault is None:
            fault = Fault(service="ses")
        fault = dataclasses.replace(fault, **changes)
        with self.changed:
            self.faults.append(fault)
        return fault

    def take_back(self, fault: Fault) -> None:
        """Forgets this one; the requests that have it already go on with it."""
        with self.changed:
            self.faults.remove(fault)

    def clear_faults(self) -> None:
        """Forgets what is queued and lets go what hangs."""
        with self.changed:
            self.faults.clear()
        self.release()

    # --- what was seen ---------------------------------------------------------------------------

    @property
    def mails(self) -> list[Mail]:
        with self.changed:
            return list(self.ses.mails)

    @property
    def tokens(self) -> list[TokenSeen]:
        """Every web identity token STS accepted."""
        return list(self.sts.tokens)

    @property
    def handshakes(self) -> int:
        """TLS handshakes that ended well."""
        with self.changed:
            return len(self.connections)

    def requests_of(self, service: str) -> list[Request]:
        """ "sts" or "ses"."""
        with self.changed:
            return [request for request in self.requests if request.service == service]

    def wait_for_mails(self, count: int = 1, timeout: float = 10) -> list[Mail]:
        """Waits until at least this many mails were taken since the start; all of them."""
        self._wait("mails", lambda: len(self.ses.mails), count, timeout)
        return self.mails

    def wait_for_requests(self, count: int = 1, timeout: float = 10, service: str = "ses") -> list[Request]:
        """Waits until this many requests came, answered or not."""
        self._wait(f"{service} requests", lambda: len(self.requests_of(service)), count, timeout)
        return self.requests_of(service)

    def reset(self) -> None:
        """Forgets mails, requests, tokens, connections and faults; credentials stay good."""
        with self.changed:
            self.ses.mails.clear()
            self.requests.clear()
            self.sts.tokens.clear()
            self.connections.clear()
            self.failed_handshakes.clear()
            self.request_count = self.dialled = 0
        self.clear_faults()

    # --- HttpServer's questions ------------------------------------------------------------------

    def service_of(self, request: Request) -> str:
        host = request.host.lower() or request.connection.sni
        return {self.sts_host: "sts", self.ses_host: "ses"}.get(host, "")

    def handle(self, request: Request) -> Response:
        if request.service == "sts":
            return self.sts.handle(request)
        if request.service == "ses":
            return self.ses.handle(request)
        raise Refusal(404, "UnknownOperationException", f"nothing is served for {request.host}")

    def error_response(self, request: Request, refusal: Refusal, error_in: str = "header") -> Response:
        if request.service == "sts":
            return aws_sts.error_response(request, refusal)
        return aws_ses.error_response(request, refusal, error_in)

    def handle_quick(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"POST / "):
            key = AccessKey("ASIAQUICKQUICKQUICK2", "secret", "token", time.time() + 3600, session_name="quick")
            answer = aws_sts.format_answer(key, "quick", "123456789012", "quick")
            kind = b"text/xml"
        else:
            answer = b'{"MessageId":"' + self.ses.message_id().encode() + b'"}'
            kind = b"application/json"
        return (
            b"HTTP/1.1 200 OK\r\nx-amzn-RequestId: 00000000-0000-4000-8000-000000000000\r\nContent-Type: "
            + kind
            + b"\r\nContent-Length: %d\r\n\r\n" % len(answer)
            + answer
        )


# --- the control port: what a test in another process, or another language, asks ---------------------


def request_as_dict(request: Request) -> dict[str, Any]:
    out = {
        f.name: getattr(request, f.name) for f in dataclasses.fields(request) if f.name not in ("body", "connection")
    }
    connection = request.connection
    out["connection"] = {
        "number": connection.number,
        "sni": connection.sni,
        "tls_version": connection.tls_version,
    }
    return out


def mail_as_dict(mail: Mail) -> dict[str, Any]:
    names = (
        "number",
        "message_id",
        "sha256",
        "recipients",
        "from_address",
        "feedback_address",
        "configuration_set",
    )
    out = {name: getattr(mail, name) for name in names}
    out.update(
        tags=mail.tags,
        violations=mail.violations,
        request=mail.request.number,
        length=len(mail.raw),
        at=mail.at,
    )
    out["subject"] = str(mail.parsed["Subject"] or "")
    return out


def _control_server(aws: FakeAws, port: int) -> http.server.ThreadingHTTPServer:
    """GET /status /mails /mails/N/raw /requests /tokens /wait?mails=N&timeout=S · POST /inject /reset /stop-faults."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *unused: object) -> None:
            pass

        def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _json(self, value: Any, status: int = 200) -> None:
            self._answer(status, json.dumps(value).encode())

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            options = dict(urllib.parse.parse_qsl(query))
            parts = path.strip("/").split("/")
            if path == "/status":
                self._json(_status(aws))
            elif path == "/mails":
                self._json([mail_as_dict(mail) for mail in aws.mails])
            elif len(parts) == 3 and parts[0] == "mails" and parts[2] == "raw":
                raw = next((mail.raw for mail in aws.mails if str(mail.number) == parts[1]), None)
                self._answer(200 if raw is not None else 404, raw or b"", "message/rfc822")
            elif path == "/requests":
                with aws.changed:
                    self._json([request_as_dict(request) for request in aws.requests])
            elif path == "/tokens":
                self._json([dataclasses.asdict(token) for token in aws.tokens])
            elif path == "/wait":
                try:
                    aws.wait_for_mails(int(options.get("mails", "1")), float(options.get("timeout", "10")))
                    self._json(_status(aws))
                except TimeoutError as problem:
                    self._json({"error": str(problem)}, 504)
            else:
                self._json({"error": "unknown path"}, 404)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if self.path == "/inject":
                try:
                    aws.inject(**json.loads(body))
                except (KeyError, TypeError, ValueError) as problem:
                    self._json({"error": f"{type(problem).__name__}: {problem}"}, 400)
                    return
            elif self.path == "/reset":
                aws.reset()
            elif self.path == "/stop-faults":
                aws.clear_faults()
            else:
                self._json({"error": "unknown path"}, 404)
                return
            self._json(_status(aws))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), name="aws-control", daemon=True).start()
    return server


def _status(aws: FakeAws) -> dict[str, Any]:
    with aws.changed:
        return {
            "port": aws.port,
            "ca_file": str(aws.ca_file),
            "region": aws.region,
            "mails": len(aws.ses.mails),
            "requests": aws.request_count,
            "handshakes": len(aws.connections),
            "failed_handshakes": list(aws.failed_handshakes),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGINT or SIGTERM; prints one JSON line with the ports once it listens."""
    parser = argparse.ArgumentParser(prog="aws", description="a fake AWS: STS and SES")
    parser.add_argument("--directory", required=True, help="where the CA certificate is put")
    parser.add_argument("--jwks-file", help="the keys that web identity tokens are judged by; read at each call")
    parser.add_argument("--region", default="eu-central-1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--audience", action="append")
    parser.add_argument("--issuer")
    parser.add_argument("--subject", action="append")
    parser.add_argument("--identity", action="append", help="a verified sender address or domain; default: all")
    parser.add_argument("--quick", action="store_true", help="answer without a look, for benchmarks")
    options = parser.parse_args(arguments)
    if not options.quick and not options.jwks_file:
        parser.error("--jwks-file is needed, unless --quick")
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    aws = FakeAws(
        options.directory,
        jwks=lambda: pathlib.Path(options.jwks_file).read_bytes(),
        region=options.region,
        audiences=options.audience or ["sts.amazonaws.com"],
        issuer=options.issuer,
        subjects=options.subject,
        identities=options.identity,
        quick=options.quick,
        port=options.port,
        control_port=options.control_port,
    )
    with aws:
        ready = {
            "event": "listening",
            "port": aws.port,
            "control_port": aws.control_port,
            "ca_file": str(aws.ca_file),
        }
        print(json.dumps(ready), flush=True)
        signal.sigwait(signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
