# SPDX-License-Identifier: Apache-2.0
"""Verifies AWS Signature Version 4 by botocore's signer: the judge is code that nobody here wrote.

The received request is signed once more with the secret that the access key stands for; only the headers
the client named take part. What AWS demands of the request's form is checked before, with AWS's texts.
"""

from __future__ import annotations

import calendar
import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from .aws_http import Refusal, Request

ALGORITHM = "AWS4-HMAC-SHA256"
MAX_SKEW_S = 300
_AUTHORIZATION = re.compile(
    rf"{ALGORITHM} +Credential=([^,\s]+), *SignedHeaders=([^,\s]+), *Signature=([0-9a-f]{{64}})\Z"
)


@dataclass
class AccessKey:
    """A set of credentials and whom they stand for; long-lived if it has no session token."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""
    expires_at: float = float("inf")
    principal: str = ""
    subject: str = ""
    audience: str = ""
    session_name: str = ""


def _timestamp(text: str) -> float:
    return calendar.timegm(time.strptime(text, "%Y%m%dT%H%M%SZ"))


def _stamp(moment: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment))


def _refuse(error: str, message: str) -> Refusal:
    return Refusal(403, error, message)


def _check_date(stamp: str, now: float) -> None:
    moment = _timestamp(stamp)
    if moment < now - MAX_SKEW_S:
        text = f"Signature expired: {stamp} is now earlier than {_stamp(now - MAX_SKEW_S)} ({_stamp(now)} - 5 min.)"
        raise _refuse("InvalidSignatureException", text)
    if moment > now + MAX_SKEW_S:
        text = f"Signature not yet current: {stamp} is still later than {_stamp(now + MAX_SKEW_S)}"
        raise _refuse("InvalidSignatureException", f"{text} ({_stamp(now)} + 5 min.)")


def _check_signed_headers(request: Request, signed: list[str]) -> None:
    """What AWS wants under the signature: Host, every x-amz-*, and the Content-Type that is there."""
    if signed != sorted(set(signed)) or any(name != name.lower() for name in signed):
        raise _refuse("InvalidSignatureException", "SignedHeaders must be lowercase, sorted and without repeats")
    present = set(request.header_names())
    for name in signed:
        if name not in present:
            raise _refuse("InvalidSignatureException", f"The signed header '{name}' is not in the request")
    wanted = {"host"} | {name for name in present if name.startswith("x-amz-") or name == "content-type"}
    # The trace header is the load balancers' own, and no signer signs it.
    for name in sorted(wanted - {"x-amzn-trace-id"}):
        if name not in signed:
            raise _refuse("InvalidSignatureException", f"'{name}' must be a 'SignedHeader' in the AWS Authorization.")


def verify(
    request: Request,
    body: bytes,
    *,
    lookup: Callable[[str], AccessKey | None],
    region: str,
    service: str,
    now: float,
) -> AccessKey:
    """The credentials that signed the request; Refusal, with AWS's error, if there are none."""
    values = request.header_values("authorization")
    if not values:
        raise _refuse("MissingAuthenticationTokenException", "Missing Authentication Token")
    if len(values) > 1:
        raise _refuse("IncompleteSignatureException", "Authorization header given more than once")
    match = _AUTHORIZATION.match(values[0])
    if not match:
        raise _refuse(
            "IncompleteSignatureException", f"'{values[0][:80]}' not a valid {ALGORITHM} Authorization header"
        )
    credential, signed_text, signature = match.groups()
    scope = credential.split("/")
    if len(scope) != 5 or scope[4] != "aws4_request":
        raise _refuse("IncompleteSignatureException", f"Credential '{credential}' is malformed")
    stamps = request.header_values("x-amz-date")
    if len(stamps) != 1 or not re.fullmatch(r"\d{8}T\d{6}Z", stamps[0]):
        raise _refuse("IncompleteSignatureException", "Authorization header requires one valid 'X-Amz-Date' header")
    if scope[1] != stamps[0][:8]:
        text = f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{scope[1]}'"
        raise _refuse("InvalidSignatureException", f"{text} != '{stamps[0][:8]}', from '{stamps[0]}'.")
    if scope[2] != region:
        raise _refuse("InvalidSignatureException", "Credential should be scoped to a valid region. ")
    if scope[3] != service:
        raise _refuse("InvalidSignatureException", f"Credential should be scoped to correct service: '{service}'. ")
    key = _check_key(request, lookup(scope[0]), now)
    _check_date(stamps[0], now)
    signed = signed_text.split(";")
    _check_signed_headers(request, signed)
    _check_content_hash(request, body)
    _check_signature(request, body, signed, signature, key, region, service)
    return key


def _check_key(request: Request, key: AccessKey | None, now: float) -> AccessKey:
    tokens = request.header_values("x-amz-security-token")
    if key is None or len(tokens) > 1 or "".join(tokens) != key.session_token:
        raise _refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
    if now >= key.expires_at:
        raise _refuse("ExpiredTokenException", "The security token included in the request is expired")
    return key


def _check_content_hash(request: Request, body: bytes) -> None:
    # botocore's signer believes this header; a server must not.
    for value in request.header_values("x-amz-content-sha256"):
        if value != hashlib.sha256(body).hexdigest():
            raise _refuse("InvalidSignatureException", "The provided 'x-amz-content-sha256' header does not match.")


def _check_signature(
    request: Request,
    body: bytes,
    signed: list[str],
    signature: str,
    key: AccessKey,
    region: str,
    service: str,
) -> None:
    again = AWSRequest(method=request.method, url=f"https://{request.header('host')}{request.target}", data=body)
    for name, value in request.headers:
        if name.lower() in signed:
            again.headers.add_header(name, value)
    again.context["timestamp"] = request.header("x-amz-date")
    signer = SigV4Auth(
        Credentials(key.access_key_id, key.secret_access_key, key.session_token or None), service, region
    )
    canonical = signer.canonical_request(again)
    to_sign = signer.string_to_sign(again, canonical)
    expected = signer.signature(to_sign, again)
    if expected != signature:
        request.debug.update(canonical_request=canonical, string_to_sign=to_sign, expected_signature=expected)
        text = (
            "The request signature we calculated does not match the signature you provided. Check your AWS "
            "Secret Access Key and signing method. Consult the service documentation for details."
        )
        raise _refuse("InvalidSignatureException", text)
