# SPDX-License-Identifier: Apache-2.0
"""The fake SES accepts what botocore signs and nothing else: a stand-in that waves all through proves nothing."""

import time
from datetime import datetime

import pytest
from botocore.exceptions import ClientError
from support import aws_clients
from support.aws import AccessKey, FakeAws
from support.aws_clients import RudeClient, serialize, signed_headers

TO_ONE = {"ToAddresses": ["user@customer.example"]}
RAW = b"From: shop@shop.example\r\nTo: user@customer.example\r\nSubject: hello\r\n\r\nbody\r\n"
BODY = (
    b'{"Content":{"Raw":{"Data":"RnJvbTogc2hvcEBzaG9wLmV4YW1wbGUNCg0KaGkNCg=="}},'
    b'"Destination":{"ToAddresses":["user@customer.example"]}}'
)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    aws_clients.resolve_amazon_to_loopback(monkeypatch)
    with FakeAws(tmp_path, jwks={"keys": []}) as aws:
        yield aws


@pytest.fixture
def key(fake):
    return fake.add_access_key(
        AccessKey("ASIAEXAMPLEEXAMPLE22", "wJalrXUtnFEMI/K7MDENG", "IQoJb3Jpz2lu//+=", time.time() + 3600, "arn:x")
    )


def send(fake, headers, body=BODY, target="/v2/email/outbound-emails", host=None):
    with RudeClient(fake, host or fake.ses_host) as client:
        return client.exchange(serialize("POST", target, headers, body))


def test_botocore_client_sends_a_mail(fake, key):
    client = aws_clients.botocore_client(fake, "sesv2", key)
    answer = client.send_email(Content={"Raw": {"Data": RAW}}, Destination=TO_ONE)
    [mail] = fake.mails
    assert answer["MessageId"] == mail.message_id
    assert mail.raw == RAW
    assert mail.request.signature_verified
    assert mail.request.access_key_id == key.access_key_id
    assert answer["ResponseMetadata"]["RequestId"] == mail.request.request_id


def test_long_lived_keys_need_no_token(fake):
    key = fake.add_access_key(AccessKey("AKIAEXAMPLE", "secret"))
    assert send(fake, signed_headers(fake, key, BODY)).status == 200


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"secret_access_key": "wJalrXUtnFEMI/K7MDENH"}, "InvalidSignatureException"),
        ({"access_key_id": "ASIAEXAMPLEEXAMPLE23"}, "UnrecognizedClientException"),
        ({"session_token": "IQoJb3Jpz2lu//+A"}, "UnrecognizedClientException"),
        ({"session_token": ""}, "UnrecognizedClientException"),
    ],
)
def test_a_flipped_credential_is_refused(fake, key, change, error):
    wrong = AccessKey(**{**vars(key), **change})
    client = aws_clients.botocore_client(fake, "sesv2", wrong)
    with pytest.raises(ClientError) as problem:
        client.send_email(Content={"Raw": {"Data": RAW}}, Destination=TO_ONE)
    assert problem.value.response["Error"]["Code"] == error
    assert problem.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert fake.mails == []


def test_a_refused_signature_says_what_was_to_be_signed(fake, key):
    headers = signed_headers(fake, AccessKey(**{**vars(key), "secret_access_key": "other"}), BODY)
    assert send(fake, headers).error == "InvalidSignatureException"
    debug = fake.requests[0].debug
    assert debug["canonical_request"].startswith("POST\n/v2/email/outbound-emails\n\ncontent-type:application/json\n")
    assert debug["string_to_sign"].startswith("AWS4-HMAC-SHA256\n")


def test_expired_credentials_are_told_by_name(fake, key):
    headers = signed_headers(fake, key, BODY)
    fake.expire_credentials()
    answer = send(fake, headers)
    assert (answer.status, answer.error) == (403, "ExpiredTokenException")
    assert answer.json == {"message": "The security token included in the request is expired"}


@pytest.mark.parametrize(
    ("offset", "message"), [(-301, "Signature not yet current"), (301, "Signature expired"), (-290, ""), (290, "")]
)
def test_clock_skew_beyond_five_minutes_is_refused(fake, key, offset, message):
    headers = signed_headers(fake, key, BODY)
    signed_at = datetime.strptime(headers["X-Amz-Date"] + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()
    fake.clock = lambda: signed_at + offset
    answer = send(fake, headers)
    if message:
        assert (answer.status, answer.error) == (403, "InvalidSignatureException")
        assert answer.json["message"].startswith(message)
    else:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [({"region": "us-east-1"}, "valid region"), ({"service": "email"}, "correct service: 'ses'")],
)
def test_a_scope_for_elsewhere_is_refused(fake, key, options, message):
    answer = send(fake, signed_headers(fake, key, BODY, **options))
    assert (answer.status, answer.error) == (403, "InvalidSignatureException")
    assert message in answer.json["message"]


def test_no_signature_at_all(fake):
    answer = send(fake, {"Host": fake.ses_host, "Content-Type": "application/json"})
    assert (answer.status, answer.error) == (403, "MissingAuthenticationTokenException")


def without(name):
    return lambda headers: headers.pop(name)


def put(name, old, new):
    def change(headers):
        assert old in headers[name]
        headers[name] = headers[name].replace(old, new)

    return change


def repeat_header(name):
    return lambda headers: headers.update({name.lower(): headers[name]})


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (without("X-Amz-Date"), "IncompleteSignatureException"),
        (put("X-Amz-Date", "Z", ""), "IncompleteSignatureException"),
        (put("Authorization", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"), "IncompleteSignatureException"),
        (put("Authorization", "Signature=", "Sig="), "IncompleteSignatureException"),
        (put("Authorization", "/aws4_request", "/aws4"), "IncompleteSignatureException"),
        (put("Authorization", "/eu-central-1/", "/"), "IncompleteSignatureException"),
        (put("Authorization", "/20", "/19"), "InvalidSignatureException"),
        (put("Authorization", "content-type;host", "host;content-type"), "InvalidSignatureException"),
        (put("Authorization", "content-type;", ""), "InvalidSignatureException"),
        (put("Authorization", "host;", ""), "InvalidSignatureException"),
        (put("Authorization", ";x-amz-security-token", ""), "InvalidSignatureException"),
        (put("Authorization", "host;", "host;host;"), "InvalidSignatureException"),
        (put("Authorization", "host;", "host;range;"), "InvalidSignatureException"),
        (put("Content-Type", "json", "json; charset=utf-8"), "InvalidSignatureException"),
        (repeat_header("Authorization"), "IncompleteSignatureException"),
        (repeat_header("X-Amz-Security-Token"), "UnrecognizedClientException"),
    ],
)
def test_a_malformed_signature_is_refused(fake, key, spoil, error):
    headers = signed_headers(fake, key, BODY)
    spoil(headers)
    answer = send(fake, headers)
    assert (answer.status, answer.error) == (403, error)
    assert fake.mails == []


def test_body_path_and_query_are_signed(fake, key):
    headers = signed_headers(fake, key, BODY)
    assert send(fake, headers, body=BODY.replace(b"user@", b"uzer@")).error == "InvalidSignatureException"
    assert send(fake, headers, target="/v2/email/outbound-emails/").error == "InvalidSignatureException"
    assert send(fake, headers, target="/v2/email/outbound-emails?a=b").error == "InvalidSignatureException"
    assert send(fake, headers).status == 200


def test_the_content_hash_header_must_be_true(fake, key):
    import hashlib

    digest = hashlib.sha256(BODY).hexdigest()
    good = signed_headers(fake, key, BODY, extra={"X-Amz-Content-SHA256": digest})
    assert send(fake, good).status == 200
    for value in ("UNSIGNED-PAYLOAD", hashlib.sha256(b"other").hexdigest()):
        headers = signed_headers(fake, key, BODY, extra={"X-Amz-Content-SHA256": value})
        assert send(fake, headers).error == "InvalidSignatureException"


def test_an_unsigned_amz_header_is_refused(fake, key):
    headers = signed_headers(fake, key, BODY)
    headers["X-Amz-Target"] = "sneaked in"
    assert send(fake, headers).error == "InvalidSignatureException"


def test_headers_a_gateway_adds_do_no_harm_but_are_told(fake, key):
    headers = signed_headers(fake, key, BODY)
    headers["x-envoy-expected-rq-timeout-ms"] = "30000"
    headers["X-Forwarded-For"] = "10.0.0.7"
    assert send(fake, headers).status == 200
    [mail] = fake.mails
    assert mail.violations == [
        "gateway header x-envoy-expected-rq-timeout-ms",
        "gateway header x-forwarded-for",
    ]
