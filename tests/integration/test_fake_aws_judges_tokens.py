# SPDX-License-Identifier: Apache-2.0
"""The fake STS: PyJWT judges the token, and each refusal carries AWS's own name."""

import datetime
import urllib.parse
import xml.etree.ElementTree as ElementTree

import pytest
from botocore.exceptions import ClientError
from support import aws_clients
from support.aws import FakeAws
from support.aws_clients import RudeClient, serialize
from support.jwt_authority import JwtAuthority

SPIFFE_ID = "spiffe://example.org/ns/shop/sa/checkout"
ROLE = "arn:aws:iam::123456789012:role/mail/svidmail"
AUDIENCE = "sts.amazonaws.com"


@pytest.fixture(scope="module")
def authority():
    return JwtAuthority(issuer="https://oidc.example.org")


@pytest.fixture
def fake(tmp_path, monkeypatch, authority):
    aws_clients.resolve_amazon_to_loopback(monkeypatch)
    with FakeAws(
        tmp_path, jwks=authority.jwks, issuer="https://oidc.example.org", subjects=[SPIFFE_ID], roles=[ROLE]
    ) as aws:
        yield aws


def assume(fake, token, **changes):
    parameters = {"RoleArn": ROLE, "RoleSessionName": "checkout", "WebIdentityToken": token, **changes}
    return aws_clients.botocore_client(fake, "sts").assume_role_with_web_identity(**parameters)


def refusal(fake, token, **changes):
    with pytest.raises(ClientError) as problem:
        assume(fake, token, **changes)
    assert fake.sts.keys == {}
    response = problem.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"], response["Error"]["Message"]


def form(token, **changes):
    fields = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": ROLE,
        "RoleSessionName": "checkout",
        "WebIdentityToken": token,
        **changes,
    }
    return urllib.parse.urlencode({name: value for name, value in fields.items() if value is not None}).encode()


def post(fake, body, headers=None, target="/", method="POST"):
    usual = {"Host": fake.sts_host, "Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
    with RudeClient(fake, fake.sts_host) as client:
        return client.exchange(serialize(method, target, usual, body))


def error_code(answer):
    space = {"sts": "https://sts.amazonaws.com/doc/2011-06-15/"}
    document = ElementTree.fromstring(answer.body)
    assert document.tag == "{https://sts.amazonaws.com/doc/2011-06-15/}ErrorResponse"
    assert document.findtext("sts:RequestId", namespaces=space) == answer.headers["x-amzn-requestid"]
    return document.findtext("sts:Error/sts:Code", namespaces=space)


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "RS256"])
def test_botocore_client_gets_credentials_that_sign_mail(fake, algorithm):
    authority = JwtAuthority(algorithm, issuer="https://oidc.example.org")
    fake.sts.policy.jwks = authority.jwks()
    answer = assume(fake, authority.sign(SPIFFE_ID, AUDIENCE), DurationSeconds=900)
    assert answer["SubjectFromWebIdentityToken"] == SPIFFE_ID
    assert answer["Audience"] == AUDIENCE
    assert answer["Provider"] == "arn:aws:iam::123456789012:oidc-provider/oidc.example.org"
    assert answer["AssumedRoleUser"]["Arn"] == "arn:aws:sts::123456789012:assumed-role/svidmail/checkout"
    credentials = answer["Credentials"]
    life = credentials["Expiration"] - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(seconds=890) < life <= datetime.timedelta(seconds=901)
    key = fake.sts.lookup(credentials["AccessKeyId"])
    assert (key.secret_access_key, key.session_token) == (credentials["SecretAccessKey"], credentials["SessionToken"])
    client = aws_clients.botocore_client(fake, "sesv2", key)
    client.send_email(
        Content={"Raw": {"Data": b"From: shop@shop.example\r\n\r\nhi\r\n"}},
        Destination={"ToAddresses": ["user@customer.example"]},
    )
    assert fake.mails[0].request.principal == answer["AssumedRoleUser"]["Arn"]
    [token] = fake.tokens
    assert (token.subject, token.algorithm, token.access_key_id) == (SPIFFE_ID, algorithm, key.access_key_id)


def test_tests_can_make_credentials_short_lived(fake, authority):
    fake.credential_ttl = 2
    answer = assume(fake, authority.sign(SPIFFE_ID, AUDIENCE))
    life = answer["Credentials"]["Expiration"] - datetime.datetime.now(datetime.UTC)
    assert life <= datetime.timedelta(seconds=2)


def test_keys_may_be_given_as_text(fake, authority):
    import json

    fake.sts.policy.jwks = json.dumps(authority.jwks()).encode()
    assert assume(fake, authority.sign(SPIFFE_ID, AUDIENCE))


def test_wrong_audience(fake, authority):
    status, code, message = refusal(fake, authority.sign(SPIFFE_ID, "other"))
    assert (status, code, message) == (400, "InvalidIdentityToken", "Incorrect token audience")


def test_one_of_several_audiences_is_enough(fake, authority):
    assert assume(fake, authority.sign(SPIFFE_ID, ["other", AUDIENCE]))["Audience"] == AUDIENCE


def test_expired_token(fake, authority):
    status, code, message = refusal(fake, authority.sign(SPIFFE_ID, AUDIENCE, ttl=60, age=61))
    assert (status, code) == (400, "ExpiredTokenException")
    assert message.startswith("Token expired: current date/time ")


def test_expiry_is_judged_by_the_clock_given(fake, authority):
    token = authority.sign(SPIFFE_ID, AUDIENCE, ttl=300)
    moment = fake.clock()
    fake.clock = lambda: moment + 301
    assert refusal(fake, token)[1] == "ExpiredTokenException"
    fake.clock = lambda: moment + 200
    assert assume(fake, token)


def test_wrong_issuer(fake, authority):
    token = authority.sign(SPIFFE_ID, AUDIENCE, edit=lambda claims, _: claims.update(iss="https://oidc.example.org/"))
    status, code, message = refusal(fake, token)
    assert (status, code) == (400, "InvalidIdentityToken")
    assert message == "No OpenIDConnect provider found in your account for https://oidc.example.org/"


def test_a_key_that_is_not_published(fake, authority):
    other = JwtAuthority(issuer="https://oidc.example.org")
    other.rotate()
    status, code, message = refusal(fake, other.sign(SPIFFE_ID, AUDIENCE))
    assert (status, code) == (400, "InvalidIdentityToken")
    assert message.startswith("Couldn't retrieve verification key")


def test_a_signature_by_another_key_of_the_same_name(fake, authority):
    other = JwtAuthority(issuer="https://oidc.example.org")
    assert other.kid == authority.kid
    status, code, message = refusal(fake, other.sign(SPIFFE_ID, AUDIENCE))
    assert (status, code) == (400, "InvalidIdentityToken")
    assert "Signature verification failed" in message


@pytest.mark.parametrize("claim", ["exp", "iat", "sub", "aud"])
def test_a_token_lacks_a_claim(fake, authority, claim):
    token = authority.sign(SPIFFE_ID, AUDIENCE, edit=lambda claims, _: claims.pop(claim))
    assert refusal(fake, token)[:2] == (400, "InvalidIdentityToken")


def test_an_unsigned_token(fake, authority):
    import jwt

    token = jwt.encode({"sub": SPIFFE_ID, "aud": AUDIENCE}, "", algorithm="none", headers={"kid": authority.kid})
    assert refusal(fake, token)[:2] == (400, "InvalidIdentityToken")


def test_what_is_no_token_at_all(fake):
    status, code, message = refusal(fake, "not.a.token")
    assert (status, code, message) == (400, "InvalidIdentityToken", "The ID Token provided is not a valid JWT.")


@pytest.mark.parametrize(
    ("subject", "role"),
    [
        ("spiffe://example.org/ns/shop/sa/checkouts", ROLE),
        (SPIFFE_ID, "arn:aws:iam::123456789012:role/mail/other"),
        (SPIFFE_ID, "arn:aws:s3:::bucket-that-is-no-role"),
    ],
)
def test_the_role_does_not_trust_the_subject(fake, authority, subject, role):
    assert refusal(fake, authority.sign(subject, AUDIENCE), RoleArn=role) == (
        403,
        "AccessDenied",
        "Not authorized to perform sts:AssumeRoleWithWebIdentity",
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"RoleSessionName": "spiffe://example.org/x"},
        {"RoleSessionName": "x"},
        {"RoleSessionName": "x" * 65},
        {"RoleSessionName": "\u00e4\u00f6"},
        {"RoleSessionName": None},
        {"RoleArn": "short"},
        {"RoleArn": None},
        {"DurationSeconds": "899"},
        {"DurationSeconds": "43201"},
        {"DurationSeconds": "1h"},
        {"WebIdentityToken": None},
        {"WebIdentityToken": "a.b" * 7000},
        {"Policy": "x" * 2049},
        {"Surprise": "yes"},
    ],
)
def test_parameters_out_of_range(fake, authority, changes):
    answer = post(fake, form(authority.sign(SPIFFE_ID, AUDIENCE), **changes))
    assert (answer.status, error_code(answer)) == (400, "ValidationError")
    assert fake.sts.keys == {}


def test_duration_beyond_what_the_role_allows(fake, authority):
    fake.sts.policy.max_session_s = 3600
    answer = post(fake, form(authority.sign(SPIFFE_ID, AUDIENCE), DurationSeconds="3601"))
    assert (answer.status, error_code(answer)) == (400, "ValidationError")
    assert b"MaxSessionDuration" in answer.body


@pytest.mark.parametrize("changes", [{"Action": "AssumeRole"}, {"Version": "2012-01-01"}, {"Action": None}])
def test_other_operations(fake, authority, changes):
    answer = post(fake, form(authority.sign(SPIFFE_ID, AUDIENCE), **changes))
    assert (answer.status, error_code(answer)) == (400, "InvalidAction")


def test_a_signed_call_is_refused(fake, authority):
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-central-1/sts/aws4_request"}
    answer = post(fake, form(authority.sign(SPIFFE_ID, AUDIENCE)), headers)
    assert (answer.status, error_code(answer)) == (403, "InvalidClientTokenId")


@pytest.mark.parametrize(
    ("body", "headers", "target", "method"),
    [
        (None, {"Content-Type": "application/json"}, "/", "POST"),
        (b"Action=AssumeRoleWithWebIdentity&Action=AssumeRoleWithWebIdentity", {}, "/", "POST"),
        (b"Action=%ff\xff", {}, "/", "POST"),
        (b"no equals sign", {}, "/", "POST"),
    ],
)
def test_a_malformed_form(fake, authority, body, headers, target, method):
    answer = post(fake, form(authority.sign(SPIFFE_ID, AUDIENCE)) if body is None else body, headers, target, method)
    assert (answer.status, error_code(answer)) == (400, "MalformedInput")


@pytest.mark.parametrize(("method", "target"), [("POST", "/v2"), ("GET", "/")])
def test_another_path_or_method(fake, authority, method, target):
    answer = post(fake, form(authority.sign(SPIFFE_ID, AUDIENCE)), None, target, method)
    assert (answer.status, error_code(answer)) == (404, "UnknownOperationException")


def test_errors_are_escaped(fake, authority):
    answer = post(fake, form(authority.sign(SPIFFE_ID, AUDIENCE), Action="<b>&"))
    assert error_code(answer) == "InvalidAction"
    assert b"&lt;b&gt;&amp;" in answer.body
