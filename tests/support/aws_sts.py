# SPDX-License-Identifier: Apache-2.0
"""STS AssumeRoleWithWebIdentity: the token is judged by PyJWT, the parameters by AWS's own rules."""

from __future__ import annotations

import base64
import json
import re
import secrets
import string
import time
import urllib.parse
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

import jwt

from .aws_http import Refusal, Request, Response
from .aws_signature import AccessKey

NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512"]
_PARAMETERS = {
    "Action",
    "Version",
    "RoleArn",
    "RoleSessionName",
    "WebIdentityToken",
    "DurationSeconds",
    "Policy",
    "ProviderId",
}


@dataclass
class TrustPolicy:
    """What the account has set up: the OIDC provider, and the role with its conditions.

    `jwks` is a JWKS (dict, JSON text or bytes), or a function that gives one and is asked at each call.
    None for `issuer`, `subjects` or `roles` means "any".
    """

    jwks: Any
    audiences: Collection[str] = ("sts.amazonaws.com",)
    issuer: str | None = None
    subjects: Collection[str] | None = None
    roles: Collection[str] | None = None
    max_session_s: int = 43200
    account: str = "123456789012"


@dataclass
class TokenSeen:
    """A web identity token that was accepted, for those who show the hops."""

    subject: str
    audience: str
    issuer: str
    key_id: str
    algorithm: str
    issued_at: float
    expires_at: float
    role_arn: str
    session_name: str
    duration_s: int
    access_key_id: str
    at: float
    claims: dict[str, Any] = field(default_factory=dict)


def _validation(value: str, name: str, constraint: str) -> Refusal:
    what = f"1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint"
    return Refusal(400, "ValidationError", f"{what}: Member must {constraint}")


class Sts:
    """Holds the credentials it gave out; SES asks `lookup`."""

    def __init__(self, policy: TrustPolicy, clock: Callable[[], float] = time.time) -> None:
        self.policy = policy
        self.clock = clock
        self.credential_ttl: float | None = None  # what tests make short; else DurationSeconds
        self.keys: dict[str, AccessKey] = {}
        self.tokens: list[TokenSeen] = []

    def lookup(self, access_key_id: str) -> AccessKey | None:
        return self.keys.get(access_key_id)

    def handle(self, request: Request) -> Response:
        form = self._form(request)
        if request.header("authorization") is not None:
            raise Refusal(403, "InvalidClientTokenId", "The security token included in the request is invalid.")
        action, version = form.get("Action", ""), form.get("Version", "")
        if action != "AssumeRoleWithWebIdentity" or version != "2011-06-15":
            raise Refusal(400, "InvalidAction", f"Could not find operation {action} for version {version}")
        unknown = sorted(name for name in form if name not in _PARAMETERS and not name.startswith("PolicyArns.member."))
        if unknown:
            raise Refusal(400, "ValidationError", f"Unexpected parameter: {unknown[0]}")
        duration = self._check_parameters(form)
        header, claims = self._check_token(form["WebIdentityToken"])
        return self._grant(request, form, header, claims, duration)

    def _form(self, request: Request) -> dict[str, str]:
        if request.method != "POST" or request.target != "/":
            raise Refusal(404, "UnknownOperationException", f"No operation at {request.method} {request.target}")
        content_type = (request.header("content-type") or "").split(";")[0].strip().lower()
        if content_type != "application/x-www-form-urlencoded":
            raise Refusal(400, "MalformedInput", f"Content-Type is {content_type or 'missing'}")
        try:
            pairs = urllib.parse.parse_qsl(
                request.body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=40
            )
        except ValueError as problem:
            raise Refusal(400, "MalformedInput", f"form is malformed: {problem}") from None
        form = dict(pairs)
        if len(form) != len(pairs):
            raise Refusal(400, "MalformedInput", "a parameter is given twice")
        return form

    def _check_parameters(self, form: dict[str, str]) -> int:
        for name in ("RoleArn", "RoleSessionName", "WebIdentityToken"):
            if not form.get(name):
                label = name[0].lower() + name[1:]
                raise Refusal(
                    400,
                    "ValidationError",
                    f"1 validation error detected: Value null at '{label}' failed to "
                    "satisfy constraint: Member must not be null",
                )
        role, session, token = form["RoleArn"], form["RoleSessionName"], form["WebIdentityToken"]
        if not 20 <= len(role) <= 2048:
            raise _validation(role, "roleArn", "have length between 20 and 2048")
        if not re.fullmatch(r"[\w+=,.@-]{2,64}", session, re.ASCII):
            raise _validation(session, "roleSessionName", r"satisfy regular expression pattern: [\w+=,.@-]{2,64}")
        if not 4 <= len(token) <= 20000:
            raise _validation("***", "webIdentityToken", "have length between 4 and 20000")
        text = form.get("DurationSeconds", "3600")
        if not re.fullmatch(r"\d{1,9}", text) or not 900 <= int(text) <= 43200:
            raise _validation(text, "durationSeconds", "have value between 900 and 43200")
        if int(text) > self.policy.max_session_s:
            what = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
            raise Refusal(400, "ValidationError", what)
        if len(form.get("Policy", "")) > 2048:
            raise _validation("***", "policy", "have length less than or equal to 2048")
        return int(text)

    def _jwks(self) -> jwt.PyJWKSet:
        jwks = self.policy.jwks() if callable(self.policy.jwks) else self.policy.jwks
        if isinstance(jwks, (str, bytes)):
            jwks = json.loads(jwks)
        return jwt.PyJWKSet.from_dict(jwks)

    def _check_token(self, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
        policy, now = self.policy, self.clock()
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise Refusal(400, "InvalidIdentityToken", "The ID Token provided is not a valid JWT.") from None
        try:
            key = self._jwks()[header.get("kid", "")]
        except (KeyError, ValueError, jwt.PyJWTError):
            text = (
                "Couldn't retrieve verification key from your identity provider,  please reference "
                "AssumeRoleWithWebIdentity documentation for requirements"
            )
            raise Refusal(400, "InvalidIdentityToken", text) from None
        try:
            # Time is judged below, by a clock that a test may set; everything else here.
            claims = jwt.decode(
                token,
                key.key,
                ALGORITHMS,
                audience=list(policy.audiences),
                options={"require": ["exp", "iat", "sub", "aud"], "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidAudienceError:
            raise Refusal(400, "InvalidIdentityToken", "Incorrect token audience") from None
        except jwt.PyJWTError as problem:
            raise Refusal(400, "InvalidIdentityToken", f"The ID Token provided is not a valid JWT: {problem}") from None
        if policy.issuer is not None and claims.get("iss") != policy.issuer:
            text = f"No OpenIDConnect provider found in your account for {claims.get('iss')}"
            raise Refusal(400, "InvalidIdentityToken", text)
        if claims["exp"] <= now:
            text = f"Token expired: current date/time {int(now)} must be before the expiration date/time"
            raise Refusal(400, "ExpiredTokenException", f"{text}{int(claims['exp'])}")
        return header, claims

    def _grant(
        self,
        request: Request,
        form: dict[str, str],
        header: dict[str, Any],
        claims: dict[str, Any],
        duration: int,
    ) -> Response:
        policy, now = self.policy, self.clock()
        role, session, subject = form["RoleArn"], form["RoleSessionName"], str(claims["sub"])
        match = re.fullmatch(r"arn:aws[a-z-]*:iam::(\d{12}):role/([\w+=,.@/-]+)", role, re.ASCII)
        is_known = match and (policy.roles is None or role in policy.roles)
        if not is_known or not (policy.subjects is None or subject in policy.subjects):
            raise Refusal(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
        assert match
        account, name = match.group(1), match.group(2).rpartition("/")[2]
        audience = next(value for value in _as_list(claims["aud"]) if value in policy.audiences)
        key = AccessKey(
            "ASIA" + "".join(secrets.choice(string.ascii_uppercase + "234567") for _ in range(16)),
            base64.b64encode(secrets.token_bytes(30)).decode(),
            "IQoJ" + base64.b64encode(secrets.token_bytes(601)).decode(),
            now + (duration if self.credential_ttl is None else self.credential_ttl),
            principal=f"arn:aws:sts::{account}:assumed-role/{name}/{session}",
            subject=subject,
            audience=audience,
            session_name=session,
        )
        self.keys[key.access_key_id] = key
        request.access_key_id, request.principal = key.access_key_id, key.principal
        self.tokens.append(
            TokenSeen(
                subject,
                audience,
                str(claims.get("iss", "")),
                str(header.get("kid", "")),
                str(header.get("alg", "")),
                float(claims["iat"]),
                float(claims["exp"]),
                role,
                session,
                duration,
                key.access_key_id,
                now,
                claims,
            )
        )
        provider = str(claims.get("iss", "")).removeprefix("https://")
        return Response(200, format_answer(key, provider, account, request.request_id), "text/xml")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def format_answer(key: AccessKey, provider: str, account: str, request_id: str) -> bytes:
    expiration = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(key.expires_at))
    role_id = f"AROA{'X' * 17}:{key.session_name}"
    return f"""<AssumeRoleWithWebIdentityResponse xmlns="{NAMESPACE}">
  <AssumeRoleWithWebIdentityResult>
    <Audience>{escape(key.audience)}</Audience>
    <AssumedRoleUser>
      <AssumedRoleId>{escape(role_id)}</AssumedRoleId>
      <Arn>{escape(key.principal)}</Arn>
    </AssumedRoleUser>
    <Provider>{escape(f"arn:aws:iam::{account}:oidc-provider/{provider}")}</Provider>
    <Credentials>
      <AccessKeyId>{key.access_key_id}</AccessKeyId>
      <SecretAccessKey>{escape(key.secret_access_key)}</SecretAccessKey>
      <SessionToken>{escape(key.session_token)}</SessionToken>
      <Expiration>{expiration}</Expiration>
    </Credentials>
    <SubjectFromWebIdentityToken>{escape(key.subject)}</SubjectFromWebIdentityToken>
  </AssumeRoleWithWebIdentityResult>
  <ResponseMetadata>
    <RequestId>{request_id}</RequestId>
  </ResponseMetadata>
</AssumeRoleWithWebIdentityResponse>
""".encode()


def error_response(request: Request, refusal: Refusal) -> Response:
    """STS's errors are XML, whatever went wrong."""
    blame = "Sender" if refusal.status < 500 else "Receiver"
    text = f"""<ErrorResponse xmlns="{NAMESPACE}">
  <Error>
    <Type>{blame}</Type>
    <Code>{escape(refusal.error)}</Code>
    <Message>{escape(refusal.message)}</Message>
  </Error>
  <RequestId>{request.request_id}</RequestId>
</ErrorResponse>
"""
    return Response(refusal.status, text.encode(), "text/xml")
