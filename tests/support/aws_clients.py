# SPDX-License-Identifier: Apache-2.0
"""Clients of the fake AWS for its own tests: botocore as it is, and a rude one that sends any bytes."""

from __future__ import annotations

import json
import socket
import ssl
from dataclasses import dataclass
from typing import Any

import botocore.config
import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from .aws import AccessKey, FakeAws
from .aws_ses import SEND_EMAIL

_session = botocore.session.Session()  # one for all: each loads the service models anew


def resolve_amazon_to_loopback(monkeypatch: Any) -> None:
    """amazonaws.com is 127.0.0.1 for this process, so that clients send the true SNI and Host."""
    real = socket.getaddrinfo

    def resolve(host: Any, *more: Any, **options: Any) -> Any:
        return real("127.0.0.1" if str(host).endswith(".amazonaws.com") else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def botocore_client(aws: FakeAws, service: str, key: AccessKey | None = None) -> Any:
    """A real client ("sts" or "sesv2"), which trusts the fake's CA and tries once."""
    host = aws.sts_host if service == "sts" else aws.ses_host
    key = key or AccessKey("AKIAUNUSED", "unused")
    return _session.create_client(
        service,
        region_name=aws.region,
        endpoint_url=f"https://{host}:{aws.port}",
        verify=str(aws.ca_file),
        config=botocore.config.Config(retries={"total_max_attempts": 1, "mode": "standard"}, read_timeout=20),
        aws_access_key_id=key.access_key_id,
        aws_secret_access_key=key.secret_access_key,
        aws_session_token=key.session_token or None,
    )


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The error's name without what the coral framework puts after it."""
        return self.headers.get("x-amzn-errortype", "").partition(":")[0]


class RudeClient:
    """A TLS connection to one host of the fake; what is sent is the caller's business."""

    def __init__(self, aws: FakeAws, host: str, *, sni: str | None = None, timeout: float = 10) -> None:
        context = ssl.create_default_context(cafile=str(aws.ca_file))
        context.check_hostname = False
        plain = socket.create_connection(("127.0.0.1", aws.port), timeout=timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.host = host
        self.stream = context.wrap_socket(plain, server_hostname=sni or host)
        self._reader = self.stream.makefile("rb")

    def __enter__(self) -> RudeClient:
        return self

    def __exit__(self, *unused: object) -> None:
        self._reader.close()
        self.stream.close()

    def send(self, data: bytes) -> None:
        self.stream.sendall(data)

    def exchange(self, data: bytes) -> Answer:
        self.send(data)
        return self.answer()

    def answer(self) -> Answer:
        """The next answer; EOFError if the connection ends before it is whole."""
        line = self._reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError(f"the status line ended in {line!r}")
        headers = {}
        while (header := self._reader.readline()) not in (b"\r\n", b""):
            name, _, value = header.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        body = self._reader.read(length)
        if header == b"" or len(body) != length:
            raise EOFError(f"the answer ended after {len(body)} bytes of {length}")
        return Answer(int(line.split()[1]), headers, body)

    def is_closed(self) -> bool:
        """Waits for the end of the connection; False if a byte comes instead."""
        try:
            return self._reader.read(1) == b""
        except OSError:
            return True


def serialize(
    method: str, target: str, headers: list[tuple[str, str]] | dict[str, str], body: bytes, *, length: bool = True
) -> bytes:
    """A request's bytes, headers in the order given."""
    pairs = list(headers.items()) if isinstance(headers, dict) else list(headers)
    if length:
        pairs.append(("Content-Length", str(len(body))))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def signed_headers(
    aws: FakeAws,
    key: AccessKey,
    body: bytes,
    *,
    method: str = "POST",
    target: str = SEND_EMAIL,
    region: str = "",
    service: str = "ses",
    extra: dict[str, str] | None = None,
) -> dict[str, str]:
    """The headers of a request that botocore has signed: what a test then spoils."""
    request = AWSRequest(
        method,
        f"https://{aws.ses_host}{target}",
        headers={"Host": aws.ses_host, "Content-Type": "application/json", **(extra or {})},
        data=body,
    )
    credentials = Credentials(key.access_key_id, key.secret_access_key, key.session_token or None)
    SigV4Auth(credentials, service, region or aws.region).add_auth(request)
    return dict(request.headers.items())
