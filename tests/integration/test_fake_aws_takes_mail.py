# SPDX-License-Identifier: Apache-2.0
"""What the fake SES takes as a mail, what it refuses, and what it remembers."""

import base64
import hashlib
import json
import re

import pytest
from botocore.exceptions import ClientError
from support import aws_clients
from support.aws import AccessKey, FakeAws
from support.aws_clients import RudeClient, serialize, signed_headers

RAW = b"From: Shop <shop@shop.example>\r\nTo: user@customer.example\r\nSubject: hello\r\n\r\nbody\r\n"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    aws_clients.resolve_amazon_to_loopback(monkeypatch)
    with FakeAws(tmp_path, jwks={"keys": []}) as aws:
        aws.key = aws.add_access_key(AccessKey("AKIAEXAMPLE", "secret"))
        yield aws


def send(fake, raw=RAW, to=("user@customer.example",), **more):
    client = aws_clients.botocore_client(fake, "sesv2", fake.key)
    destination = {} if to is None else {"Destination": {"ToAddresses": list(to)}}
    return client.send_email(Content={"Raw": {"Data": raw}}, **destination, **more)


def refusal(fake, *args, **more):
    with pytest.raises(ClientError) as problem:
        send(fake, *args, **more)
    assert fake.mails == []
    error = problem.value.response["Error"]
    return problem.value.response["ResponseMetadata"]["HTTPStatusCode"], error["Code"], error["Message"]


def send_body(fake, body, content_type="application/json", target="/v2/email/outbound-emails"):
    headers = signed_headers(fake, fake.key, body, target=target, extra={"Content-Type": content_type})
    with RudeClient(fake, fake.ses_host) as client:
        return client.exchange(serialize("POST", target, headers, body))


def parameters(**more):
    data = base64.b64encode(RAW).decode()
    return {"Content": {"Raw": {"Data": data}}, "Destination": {"ToAddresses": ["user@customer.example"]}, **more}


def test_a_mail_is_kept_byte_by_byte(fake):
    raw = RAW + bytes(range(1, 256)).replace(b"\r", b"").replace(b"\n", b"") + b"\r\n"
    send(fake, raw)
    [mail] = fake.mails
    assert mail.raw == raw
    assert mail.sha256 == hashlib.sha256(raw).hexdigest()
    assert mail.head + b"\r\n" + mail.body == raw
    assert mail.parsed["Subject"] == "hello"
    assert mail.from_address == "shop@shop.example"


def test_message_id_has_the_form_of_a_real_one(fake):
    first, second = send(fake)["MessageId"], send(fake)["MessageId"]
    assert re.fullmatch(r"0107[0-9a-f]{12}-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-000000", first)
    assert first != second


def test_every_recipient_of_the_destination_is_kept_in_order(fake):
    client = aws_clients.botocore_client(fake, "sesv2", fake.key)
    client.send_email(
        Content={"Raw": {"Data": RAW}},
        Destination={"ToAddresses": ["a@x.example"], "CcAddresses": ["b@x.example"], "BccAddresses": ["c@x.example"]},
    )
    assert fake.mails[0].recipients == ["a@x.example", "b@x.example", "c@x.example"]


def test_without_a_destination_the_headers_count_and_that_is_a_violation(fake):
    send(fake, to=None)
    assert fake.mails[0].recipients == ["user@customer.example"]
    [violation] = fake.mails[0].violations
    assert violation.startswith("no Destination")


def test_settings_of_the_call_are_kept(fake):
    send(
        fake,
        ConfigurationSetName="shop",
        EmailTags=[{"Name": "pod", "Value": "checkout-1"}],
        FeedbackForwardingEmailAddress="bounces@shop.example",
        FromEmailAddress="shop@shop.example",
    )
    [mail] = fake.mails
    assert (mail.configuration_set, mail.tags) == ("shop", {"pod": "checkout-1"})
    assert mail.feedback_address == "bounces@shop.example"
    assert mail.parameters["FromEmailAddress"] == "shop@shop.example"


def test_fifty_recipients_are_taken_and_fifty_one_are_not(fake):
    everyone = [f"user{n}@customer.example" for n in range(51)]
    assert refusal(fake, RAW, everyone) == (400, "BadRequestException", "Recipient count exceeds 50.")
    send(fake, RAW, everyone[:50])
    assert len(fake.mails[0].recipients) == 50


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("user", "Missing final '@domain'"),
        ("@customer.example", "Missing local name"),
        ("user@cust_omer.example", "Domain contains illegal character"),
        ("user@customer..example", "Domain contains illegal character"),
        ("us er@customer.example", "Local address contains control or whitespace"),
        ("us\u00e9r@customer.example", "Local address contains control or whitespace"),
        ("user@b\u00fccher.example", "Domain contains illegal character"),
    ],
)
def test_malformed_recipients(fake, address, message):
    assert refusal(fake, RAW, ["good@customer.example", address]) == (400, "BadRequestException", message)


def test_odd_but_right_recipients(fake):
    send(fake, RAW, ['"john doe"@customer.example', "a+b_c'd@[192.0.2.1]", "x@xn--bcher-kva.example"])
    assert len(fake.mails) == 1


def test_no_recipient(fake):
    assert refusal(fake, b"From: shop@shop.example\r\n\r\nhi\r\n", None)[2] == "Missing required header 'To'."


@pytest.mark.parametrize("name", ["From", "subject", "Message-ID", "Content-Type", "DKIM-Signature", "Date"])
def test_headers_that_may_appear_only_once(fake, name):
    twice = f"{name}: shop@shop.example\r\n{name.upper()}: shop@shop.example\r\n".encode()
    rest = b"" if name == "From" else b"From: shop@shop.example\r\n"
    status, error, message = refusal(fake, twice + rest + b"\r\nhi\r\n")
    assert (status, error) == (400, "BadRequestException")
    assert message.lower() == f"duplicate header '{name.lower()}'."


def test_headers_that_may_appear_often(fake):
    send(fake, b"Received: a\r\nReceived: b\r\nX-A: 1\r\nX-A: 2\r\nTo: a@b.example\r\nTo: c@d.example\r\n" + RAW)


def test_a_repeated_header_in_the_body_is_body(fake):
    send(fake, RAW + b"Subject: a\r\nSubject: b\r\n")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "Missing required header 'From'."),
        (b"From: a@shop.example, b@shop.example\r\n", "Expected one address in header 'From'."),
        (b"From: shop\r\n", "Missing final '@domain'"),
    ],
)
def test_from_header(fake, header, message):
    assert refusal(fake, header + b"Subject: x\r\n\r\nhi\r\n")[2] == message


def test_empty_mail(fake):
    answer = send_body(fake, json.dumps(parameters(Content={"Raw": {"Data": ""}})).encode())
    assert (answer.status, answer.error, answer.json["message"]) == (400, "BadRequestException", "Empty raw message")


def test_raw_and_something_else(fake):
    content = {**parameters()["Content"], "Template": {"TemplateName": "x"}}
    answer = send_body(fake, json.dumps(parameters(Content=content)).encode())
    assert (answer.status, answer.error) == (400, "BadRequestException")
    assert answer.json["message"].startswith("Only one of")


def test_unverified_sender_is_named_with_the_region(fake):
    fake.ses.account.identities = {"other.example", "billing@shop.example"}
    status, error, message = refusal(fake)
    assert (status, error) == (400, "MessageRejected")
    assert message == (
        "Email address is not verified. The following identities failed the check in region EU-CENTRAL-1: "
        "shop@shop.example"
    )
    fake.ses.account.identities = {"shop.example"}
    send(fake)


def test_feedback_address_must_be_verified_too(fake):
    fake.ses.account.identities = {"shop.example"}
    assert refusal(fake, FeedbackForwardingEmailAddress="b@elsewhere.example")[2].endswith(": b@elsewhere.example")


def test_sandbox_verifies_recipients(fake):
    fake.ses.account.identities = {"shop.example"}
    fake.ses.account.sandbox = True
    assert refusal(fake)[2].endswith(": user@customer.example")
    send(fake, RAW, ["success@simulator.amazonses.com"])


def test_unknown_configuration_set(fake):
    fake.ses.account.configuration_sets = {"shop"}
    assert refusal(fake, ConfigurationSetName="shoe")[:2] == (404, "NotFoundException")
    send(fake, ConfigurationSetName="shop")


def test_size_limit(fake):
    fake.ses.max_message_bytes = len(RAW)
    send(fake)
    with pytest.raises(ClientError, match="Message length is more than"):
        send(fake, RAW + b"x")


def test_forty_megabytes_are_taken(fake):
    raw = RAW + (b"x" * 76 + b"\r\n") * 510_000
    raw += b"y" * (40 * 1024 * 1024 - len(raw) - 2) + b"\r\n" if len(raw) < 40 * 1024 * 1024 else b""
    raw = raw[: 40 * 1024 * 1024 - 2] + b"\r\n"
    send(fake, raw)
    assert fake.mails[0].sha256 == hashlib.sha256(raw).hexdigest()
    assert fake.requests[0].body_length > len(raw) * 4 / 3


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"Surprise": 1}, "SerializationException"),
        ({"Destination": {"To": ["a@b.example"]}}, "SerializationException"),
        ({"Destination": {"ToAddresses": "a@b.example"}}, "SerializationException"),
        ({"EmailTags": {"pod": "x"}}, "SerializationException"),
        ({"ConfigurationSetName": None}, "SerializationException"),
        ({"ConfigurationSetName": ""}, "SerializationException"),
        ({"Content": {"Raw": {"Data": "not base64!"}}}, "SerializationException"),
        ({"Content": {"Raw": {"Data": "YWJj\nYWJj"}}}, "SerializationException"),
        ({"Content": {"Raw": {"Data": "YWI"}}}, "SerializationException"),
        ({"Content": {"Raw": {"Data": 7}}}, "BadRequestException"),
        ({"Content": {"Raw": {}}}, "BadRequestException"),
        ({"Content": {"Simple": {}}}, "BadRequestException"),
        ({"Content": {"Raw": {"Data": "YWJj", "Extra": ""}}}, "SerializationException"),
    ],
)
def test_json_is_held_against_the_service_model(fake, change, error):
    if change == {"ConfigurationSetName": ""}:
        # botocore's model states no length for this member; the call is fine by it.
        assert send_body(fake, json.dumps(parameters(**change)).encode()).status == 200
        return
    answer = send_body(fake, json.dumps(parameters(**change)).encode())
    assert (answer.status, answer.error) == (400, error)
    assert fake.mails == []


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]x", b'{"a":1,"a":2}', b'{"Content":NaN}', b"\xff"],
)
def test_what_is_not_json(fake, body):
    answer = send_body(fake, body)
    assert (answer.status, answer.error) == (400, "SerializationException")


def test_what_is_json_but_no_object(fake):
    assert send_body(fake, b"[1]").error == "BadRequestException"


def test_another_content_type(fake):
    answer = send_body(fake, json.dumps(parameters()).encode(), "text/plain")
    assert (answer.status, answer.error) == (415, "UnsupportedMediaTypeException")


def test_another_path(fake):
    answer = send_body(fake, json.dumps(parameters()).encode(), target="/v2/email/outbound-bulk-emails")
    assert (answer.status, answer.error) == (404, "UnknownOperationException")


@pytest.mark.parametrize(
    ("tail", "violation"),
    [
        (b"a\nb\r\n", "bare LF"),
        (b"a\rb\r\n", "bare CR"),
        (b"a\0b\r\n", "NUL"),
        (b"x" * 999 + b"\r\n", "line of 999 bytes"),
    ],
)
def test_what_a_good_relay_does_not_send_is_told(fake, tail, violation):
    send(fake, RAW + b"x" * 998 + b"\r\n")
    send(fake, RAW + tail)
    assert [mail.violations for mail in fake.mails] == [[], [violation]]


@pytest.mark.parametrize(
    ("header", "violation"),
    [(b"X: \xc3\xa4\r\n", "8-bit byte in a header"), (b"X: \x1b[m\r\n", "control character in a header")],
)
def test_headers_that_are_not_plain_ascii_are_told(fake, header, violation):
    send(fake, header + RAW)
    assert fake.mails[0].violations == [violation]


def test_a_leftover_bcc_is_told(fake):
    send(fake, b"Bcc: boss@shop.example\r\n" + RAW)
    assert fake.mails[0].violations == ["Bcc header"]


def test_account_and_identity_can_be_asked(fake):
    client = aws_clients.botocore_client(fake, "sesv2", fake.key)
    assert client.get_account()["ProductionAccessEnabled"] is True
    assert client.get_email_identity(EmailIdentity="shop.example")["VerifiedForSendingStatus"] is True
    fake.ses.account.identities = {"shop.example"}
    with pytest.raises(ClientError, match="NotFoundException"):
        client.get_email_identity(EmailIdentity="other.example")


def test_waiting_ends_with_a_mail_or_says_what_came(fake):
    with pytest.raises(TimeoutError, match="0 mails, not 1"):
        fake.wait_for_mails(1, timeout=0.05)
    send(fake)
    assert len(fake.wait_for_mails(1)) == 1
    assert len(fake.wait_for_requests(1)) == 1
    fake.reset()
    assert (fake.mails, fake.requests, fake.handshakes) == ([], [], 0)
