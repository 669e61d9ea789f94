# SPDX-License-Identifier: Apache-2.0
"""The fake AWS's TLS and HTTP: what a lenient server forgives is refused, and what came in is counted."""

import ssl

import pytest
from support import certs
from support.aws import AccessKey, FakeAws
from support.aws_clients import RudeClient, serialize, signed_headers

RAW = (
    b'{"Content":{"Raw":{"Data":"RnJvbTogYUBiLmV4YW1wbGUNCg0KaGkNCg=="}},"Destination":{"ToAddresses":["a@b.example"]}}'
)
PATH = "/v2/email/outbound-emails"


@pytest.fixture
def fake(tmp_path):
    with FakeAws(tmp_path, jwks={"keys": []}, hosts=["other.example"]) as aws:
        aws.key = aws.add_access_key(AccessKey("AKIAEXAMPLE", "secret"))
        yield aws


@pytest.fixture
def client(fake):
    with RudeClient(fake, fake.ses_host) as rude:
        yield rude


def good(fake):
    return serialize("POST", PATH, signed_headers(fake, fake.key, RAW), RAW)


def test_many_requests_share_one_connection(fake, client):
    for _ in range(5):
        assert client.exchange(good(fake)).status == 200
    assert fake.handshakes == 1
    assert [request.number for request in fake.requests] == [1, 2, 3, 4, 5]
    [connection] = fake.connections
    assert (connection.sni, connection.tls_version, connection.requests) == (fake.ses_host, "TLSv1.3", 5)


def test_pipelined_requests_are_answered_in_order(fake, client):
    client.send(good(fake) + good(fake))
    assert client.answer().status == 200
    assert client.answer().status == 200


def test_a_request_may_come_byte_by_byte(fake, client):
    for byte in good(fake):
        client.send(bytes([byte]))
    assert client.answer().status == 200


def test_headers_are_kept_as_they_came(fake, client):
    headers = {**signed_headers(fake, fake.key, RAW), "X-Envoy-Attempt-Count": "1", "x-lower": "a  b"}
    client.exchange(serialize("POST", PATH, headers, RAW))
    [request] = fake.requests
    assert ("X-Envoy-Attempt-Count", "1") in request.headers
    assert request.header("X-LOWER") == "a  b"
    assert request.body == RAW
    assert request.complete


@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        ({"Expect": "100-continue"}, 417, "ExpectationFailed"),
        ({"Transfer-Encoding": "chunked"}, 411, "MissingContentLength"),
        ({"Content-Length": "5"}, 400, "MalformedHttpRequestException"),
    ],
)
def test_headers_that_are_refused(fake, client, headers, status, error):
    answer = client.exchange(serialize("POST", PATH, {**signed_headers(fake, fake.key, RAW), **headers}, RAW))
    assert (answer.status, answer.error, answer.headers["connection"]) == (status, error, "close")
    assert client.is_closed()
    assert fake.mails == []


def test_a_body_without_a_length(fake, client):
    answer = client.exchange(serialize("POST", PATH, signed_headers(fake, fake.key, b""), b"", length=False))
    assert (answer.status, answer.error) == (411, "MissingContentLength")


@pytest.mark.parametrize("length", ["-1", "0x10", "1 2", "9" * 13, ""])
def test_a_malformed_length(fake, client, length):
    headers = {**signed_headers(fake, fake.key, RAW), "Content-Length": length}
    answer = client.exchange(serialize("POST", PATH, headers, b"", length=False))
    assert (answer.status, answer.error) == (400, "MalformedHttpRequestException")


def test_a_body_beyond_all_bounds(fake, client):
    headers = {**signed_headers(fake, fake.key, RAW), "Content-Length": str(65 * 1024 * 1024)}
    answer = client.exchange(serialize("POST", PATH, headers, b"", length=False))
    assert (answer.status, answer.error) == (413, "RequestEntityTooLarge")


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.0\r\nHost: H\r\n\r\n",
        b"POST  / HTTP/1.1\r\nHost: H\r\n\r\n",
        b"POST / HTTP/1.1 \r\nHost: H\r\n\r\n",
        b"PO(ST / HTTP/1.1\r\nHost: H\r\n\r\n",
        b"POST http://H/ HTTP/1.1\r\nHost: H\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost : H\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: H\r\n folded: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: H\r\nX: a\x00b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: H\r\nX: a\nY: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: H\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: H\r\nHost: H\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: H\r\nX: " + b"a" * 70000 + b"\r\n\r\n",
    ],
)
def test_malformed_requests(fake, client, data):
    answer = client.exchange(data.replace(b"H\r\n", fake.ses_host.encode() + b"\r\n"))
    assert (answer.status, answer.error) == (400, "MalformedHttpRequestException")
    assert client.is_closed()
    assert not any(request.complete for request in fake.requests)


def test_host_and_sni_must_agree(fake):
    with RudeClient(fake, fake.ses_host, sni=fake.sts_host) as client:
        answer = client.exchange(good(fake))
    assert answer.status == 421
    assert fake.mails == []


def test_a_host_that_serves_nothing(fake):
    with RudeClient(fake, "other.example") as client:
        answer = client.exchange(serialize("POST", "/", {"Host": "other.example"}, b""))
    assert (answer.status, answer.error) == (404, "UnknownOperationException")


def test_an_unknown_sni_is_refused_in_the_handshake(fake):
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        RudeClient(fake, "unknown.example")
    with fake.changed:
        assert fake.changed.wait_for(lambda: fake.failed_handshakes, 5)
    assert fake.handshakes == 0
    assert "unknown.example" in fake.failed_handshakes[0]


def test_each_host_has_its_own_certificate(fake):
    for host in (fake.sts_host, fake.ses_host):
        with RudeClient(fake, host) as client:
            names = client.stream.getpeercert()["subjectAltName"]
        assert names == (("DNS", host),)


def test_a_certificate_can_be_made_wrong(fake):
    fake.serve_certificate(fake.ses_host, fake.authority.issue("wrong.example"))
    with RudeClient(fake, fake.ses_host) as client:
        assert client.stream.getpeercert()["subjectAltName"] == (("DNS", "wrong.example"),)
    fake.serve_certificate(fake.ses_host, certs.HostAuthority("unknown CA").issue(fake.ses_host))
    with pytest.raises(ssl.SSLCertVerificationError):
        RudeClient(fake, fake.ses_host)
    fake.serve_certificate(fake.ses_host, fake.authority.issue(fake.ses_host, ttl=-60))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        RudeClient(fake, fake.ses_host)


def test_it_goes_and_comes_back_on_the_same_port(fake, client):
    assert client.exchange(good(fake)).status == 200
    port = fake.port
    fake.stop()
    assert client.is_closed()
    with pytest.raises(ConnectionRefusedError):
        RudeClient(fake, fake.ses_host)
    fake.start()
    assert fake.port == port
    with RudeClient(fake, fake.ses_host) as again:
        assert again.exchange(good(fake)).status == 200
    assert len(fake.mails) == 2


def test_idle_connections_can_be_closed(fake):
    fake.idle_timeout = 2
    request = good(fake)
    with RudeClient(fake, fake.ses_host) as client:
        assert client.exchange(request).status == 200
        assert client.is_closed()
