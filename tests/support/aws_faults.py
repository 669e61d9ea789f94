# SPDX-License-Identifier: Apache-2.0
"""The ways in which AWS says no, by name: FakeAws.inject("daily-quota", times=2).

The texts are AWS's own where they are known. Each strikes SES unless its name says STS; inject's `service=`
sends it elsewhere. `inject` takes any Fault too; these are the usual ones.
"""

from __future__ import annotations

from .aws_http import Fault

_NOT_AUTHORIZED = (
    "User: arn:aws:sts::123456789012:assumed-role/svidmail/checkout is not authorized to perform: ses:SendRawEmail "
    "on resource: arn:aws:ses:eu-central-1:123456789012:identity/shop.example"
)
_NOT_VERIFIED = "Email address is not verified. The following identities failed the check in region EU-CENTRAL-1: "
_SIGNATURE = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
    "Access Key and signing method. Consult the service documentation for details."
)
_ENVOY_RESET = b"upstream connect error or disconnect/reset before headers. reset reason: connection termination"


def _ses(name: str, status: int, error: str, message: str, **more: object) -> Fault:
    return Fault(name, "ses", status, error, message, **more)


def _sts(name: str, status: int, error: str, message: str) -> Fault:
    return Fault(name, "sts", status, error, message)


def _text(name: str, status: int, body: bytes, content_type: str, **more: object) -> Fault:
    return Fault(name, "ses", status, body=body, content_type=content_type, **more)


_ALL = [
    # SES, facts of its API and of its users
    _ses("duplicate-header", 400, "BadRequestException", "Duplicate header 'Subject'."),
    _ses("bad-address", 400, "BadRequestException", "Domain contains illegal character"),
    _ses("missing-domain", 400, "BadRequestException", "Missing final '@domain'"),
    _ses("too-many-recipients", 400, "BadRequestException", "Recipient count exceeds 50."),
    _ses("bad-configuration-set", 400, "BadRequestException", "Configuration set name is invalid"),
    _ses("sender-not-verified", 400, "MessageRejected", _NOT_VERIFIED + "shop@shop.example"),
    _ses("recipient-not-verified", 400, "MessageRejected", _NOT_VERIFIED + "user@customer.example"),
    _ses("rejected-content", 400, "MessageRejected", "Message contents were rejected."),
    _ses("virus", 400, "MessageRejected", "Message contains a virus."),
    _ses("mail-from", 400, "MailFromDomainNotVerifiedException", "Mail-From domain is not verified"),
    _ses("sending-paused", 400, "SendingPausedException", "Sending is paused for this account."),
    _ses("account-suspended", 400, "AccountSuspendedException", "Account is suspended."),
    _ses("limit-exceeded", 400, "LimitExceededException", "Limit exceeded"),
    _ses("sending-rate", 429, "TooManyRequestsException", "Maximum sending rate exceeded."),
    _ses("daily-quota", 429, "TooManyRequestsException", "Daily message quota exceeded."),
    _ses("throttling", 400, "ThrottlingException", "Rate exceeded"),
    _ses("throttling-503", 503, "SlowDown", "Reduce your request rate."),
    _ses("request-limit", 429, "RequestLimitExceeded", "Request limit exceeded."),
    _ses("bandwidth", 400, "BandwidthLimitExceeded", "Bandwidth limit exceeded"),
    _ses("configuration-set-missing", 404, "NotFoundException", "Configuration set <shop> does not exist."),
    _ses("conflict", 409, "ConflictException", "Conflict"),
    _ses("concurrent", 500, "ConcurrentModificationException", "Concurrent modification"),
    _ses("internal", 500, "InternalServiceErrorException", "Internal service error"),
    _ses("internal-failure", 500, "InternalFailure", "Internal failure"),
    _ses("unavailable", 503, "ServiceUnavailable", "Service is unavailable. Please try again."),
    _ses("access-denied", 403, "AccessDeniedException", _NOT_AUTHORIZED),
    _ses("not-authorized", 401, "NotAuthorized", "You do not have permission to perform this action."),
    _ses("opt-in", 403, "OptInRequired", "The AWS Access Key Id needs a subscription for the service"),
    _ses("expired-token", 403, "ExpiredTokenException", "The security token included in the request is expired"),
    _ses("request-expired", 400, "RequestExpired", "Request has expired."),
    _ses(
        "unknown-key",
        403,
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
    ),
    _ses(
        "invalid-client",
        403,
        "InvalidClientTokenId",
        "The security token included in the request is invalid.",
    ),
    _ses("missing-token", 403, "MissingAuthenticationTokenException", "Missing Authentication Token"),
    _ses("signature", 403, "InvalidSignatureException", _SIGNATURE),
    _ses("signature-v1", 403, "SignatureDoesNotMatch", _SIGNATURE),
    _ses(
        "incomplete-signature",
        400,
        "IncompleteSignature",
        "Authorization header requires 'Signature' parameter.",
    ),
    _ses(
        "signature-expired",
        403,
        "InvalidSignatureException",
        "Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z (20260101T001500Z - 5 min.)",
    ),
    _ses(
        "signature-early",
        403,
        "InvalidSignatureException",
        "Signature not yet current: 20260101T002000Z is still later than 20260101T001000Z (20260101T000500Z + 5 min.)",
    ),
    _ses(
        "time-skewed",
        403,
        "RequestTimeTooSkewed",
        "The difference between the request time and now is too large.",
    ),
    _ses("too-large", 413, "RequestEntityTooLarge", "Request entity too large"),
    _ses("request-timeout", 408, "RequestTimeoutException", "The request timed out."),
    _ses(
        "request-timeout-400",
        400,
        "RequestTimeout",
        "Your socket connection was not read from or written to.",
    ),
    _ses("unknown-operation", 404, "UnknownOperationException", ""),
    _ses(
        "malformed-request",
        400,
        "MalformedHttpRequestException",
        "The request is malformed at the HTTP level.",
    ),
    _ses("serialization", 400, "SerializationException", "Unexpected token"),
    _ses("unknown-error", 400, "BrandNewException", "An error that nobody has heard of"),
    # STS
    _sts("sts-expired-token", 400, "ExpiredTokenException", "Token expired: current date/time must be before"),
    _sts("sts-invalid-token", 400, "InvalidIdentityToken", "Incorrect token audience"),
    _sts(
        "sts-idp-rejected",
        403,
        "IDPRejectedClaim",
        "The identity provider reported that authentication failed.",
    ),
    _sts("sts-access-denied", 403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"),
    _sts("sts-idp-communication", 400, "IDPCommunicationError", "An error occurred communicating with the IdP"),
    _sts(
        "sts-region",
        403,
        "RegionDisabledException",
        "STS is not activated in this region for account:123456789012.",
    ),
    _sts("sts-malformed-policy", 400, "MalformedPolicyDocument", "Syntax errors in policy."),
    _sts(
        "sts-packed-policy",
        400,
        "PackedPolicyTooLarge",
        "Packed size of session tags consumes 101% of the limit.",
    ),
    _sts("sts-throttling", 400, "Throttling", "Rate exceeded"),
    _sts("sts-internal", 500, "InternalFailure", "Internal failure"),
    _sts("sts-unavailable", 503, "ServiceUnavailable", "Service is unavailable"),
    Fault("sts-no-xml", "sts", 200, body=b"{}", content_type="application/json"),
    Fault(
        "sts-half-xml",
        "sts",
        200,
        body=b"<AssumeRoleWithWebIdentityResponse><Assume",
        content_type="text/xml",
    ),
    Fault(
        "sts-no-credentials",
        "sts",
        200,
        body=b"<AssumeRoleWithWebIdentityResponse/>",
        content_type="text/xml",
    ),
    # bodies nobody should send
    _text(
        "html",
        503,
        b"<html><body><h1>503 Service Unavailable</h1></body></html>",
        "text/html",
        request_id=False,
    ),
    _text(
        "html-200",
        200,
        b"<html><body>Please log in to the Wi-Fi</body></html>",
        "text/html",
        request_id=False,
    ),
    _text(
        "redirect",
        301,
        b"",
        "text/html",
        request_id=False,
        headers=(("Location", "https://portal.example/"),),
    ),
    _text("empty-200", 200, b"", "application/json"),
    _text("no-message-id", 200, b"{}", "application/json"),
    _text("array-200", 200, b"[1,2,3]", "application/json"),
    _text("half-json", 200, b'{"MessageId": "01', "application/json"),
    _text("envoy-reset", 503, _ENVOY_RESET, "text/plain", request_id=False),
    _text("envoy-timeout", 504, b"upstream request timeout", "text/plain", request_id=False),
    _ses("megabyte", 400, "MessageRejected", "x" * 1_000_000),
    _ses(
        "control-characters",
        400,
        "MessageRejected",
        "line\r\n250 2.0.0 Ok\r\n\x1b[31mred\x00\x07 \u202e\u2028 end\x7f",
    ),
    # the connection
    Fault("cut-before-body", "ses", cut="before-body"),
    Fault("cut-before-answer", "ses", cut="before-answer"),
    Fault("cut-mid-head", "ses", cut="mid-head"),
    Fault("cut-mid-answer", "ses", cut="mid-answer"),
    Fault("cut-after-answer", "ses", cut="after-answer"),
    Fault("reset-before-answer", "ses", cut="before-answer", rst=True),
    Fault("hang", "ses", hang=True),
]

FAULTS: dict[str, Fault] = {fault.name: fault for fault in _ALL}
