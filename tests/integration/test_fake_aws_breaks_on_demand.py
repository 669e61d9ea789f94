# SPDX-License-Identifier: Apache-2.0
"""Fault injection: each way in which AWS, or the road to it, can fail one request at a chosen moment."""

import json
import time
import urllib.request

import pytest
from support.aws import FAULTS, AccessKey, FakeAws
from support.aws_clients import RudeClient, serialize, signed_headers
from support.jwt_authority import JwtAuthority

RAW = (
    b'{"Content":{"Raw":{"Data":"RnJvbTogYUBiLmV4YW1wbGUNCg0KaGkNCg=="}},"Destination":{"ToAddresses":["a@b.example"]}}'
)
PATH = "/v2/email/outbound-emails"
IN_BODY_OR_WIRE = {fault.name for fault in FAULTS.values() if fault.body is not None or not fault.status}


@pytest.fixture
def fake(tmp_path):
    with FakeAws(tmp_path, jwks={"keys": []}, control_port=0) as aws:
        aws.key = aws.add_access_key(AccessKey("AKIAEXAMPLE", "secret"))
        yield aws


@pytest.fixture
def client(fake):
    with RudeClient(fake, fake.ses_host) as rude:
        yield rude


def good(fake):
    return serialize("POST", PATH, signed_headers(fake, fake.key, RAW), RAW)


@pytest.mark.parametrize("name", sorted(set(FAULTS) - IN_BODY_OR_WIRE))
def test_each_named_error_comes_as_aws_sends_it(fake, name):
    fault = FAULTS[name]
    fake.inject(name)
    host = fake.sts_host if fault.service == "sts" else fake.ses_host
    with RudeClient(fake, host) as client:
        data = good(fake) if fault.service == "ses" else serialize("POST", "/", {"Host": host}, b"")
        answer = client.exchange(data)
        assert answer.status == fault.status
        assert answer.headers["x-amzn-requestid"]
        if fault.service == "sts":
            assert f"<Code>{fault.error}</Code>".encode() in answer.body
        else:
            assert answer.error == fault.error
            assert answer.json == {"message": fault.message}
        if fault.service == "ses":
            assert client.exchange(good(fake)).status == 200
    assert fake.requests[0].fault == name
    assert len(fake.mails) == (1 if fault.service == "ses" else 0)


@pytest.mark.parametrize(
    ("where", "body"),
    [("__type", {"__type": "com.amazonaws.ses#X", "message": "m"}), ("code", {"code": "X", "message": "m"})],
)
def test_the_name_may_stand_in_the_body(fake, client, where, body):
    fake.inject(status=400, error="X", message="m", error_in=where)
    answer = client.exchange(good(fake))
    assert answer.json == body
    assert "x-amzn-errortype" not in answer.headers


def test_times_and_skip_count_requests(fake, client):
    fake.inject("sending-rate", times=2, skip=1)
    assert [client.exchange(good(fake)).status for _ in range(5)] == [200, 429, 429, 200, 200]


def test_a_fault_waits_for_its_service(fake, client):
    fake.inject("sts-throttling")
    assert client.exchange(good(fake)).status == 200
    with RudeClient(fake, fake.sts_host) as sts:
        assert b"Throttling" in sts.exchange(serialize("POST", "/", {"Host": fake.sts_host}, b"")).body


def test_a_fault_can_be_sent_to_the_other_service(fake, client):
    fake.inject("html", service="sts")
    assert client.exchange(good(fake)).status == 200
    with RudeClient(fake, fake.sts_host) as sts:
        assert sts.exchange(serialize("POST", "/", {"Host": fake.sts_host}, b"")).status == 503


def test_bodies_that_nobody_should_send(fake, client):
    for name in ("html", "html-200", "redirect", "empty-200", "half-json", "envoy-reset", "envoy-timeout"):
        fake.inject(name)
        answer = client.exchange(good(fake))
        assert (answer.status, answer.body) == (FAULTS[name].status, FAULTS[name].body)
        assert ("x-amzn-requestid" in answer.headers) == FAULTS[name].request_id
    assert fake.mails == []


@pytest.mark.parametrize(
    ("name", "n_mails"), [("cut-before-body", 0), ("cut-before-answer", 1), ("reset-before-answer", 1)]
)
def test_the_connection_ends_without_an_answer(fake, name, n_mails):
    fake.inject(name)
    with RudeClient(fake, fake.ses_host) as client:
        client.send(good(fake))
        assert client.is_closed()
    [request] = fake.requests
    assert request.status == 0
    assert request.complete == (n_mails == 1)
    assert len(fake.mails) == n_mails


@pytest.mark.parametrize("name", ["cut-mid-head", "cut-mid-answer"])
def test_the_answer_breaks_off(fake, client, name):
    fake.inject(name)
    client.send(good(fake))
    with pytest.raises(EOFError):
        client.answer()
    assert len(fake.mails) == 1


def test_the_connection_ends_after_the_answer_without_a_word(fake, client):
    fake.inject("cut-after-answer")
    answer = client.exchange(good(fake))
    assert (answer.status, answer.headers["connection"]) == (200, "keep-alive")
    assert client.is_closed()


def test_whether_the_mail_was_taken_can_be_chosen(fake):
    fake.inject("cut-before-answer", accept=False)
    fake.inject("unavailable", accept=True)
    with RudeClient(fake, fake.ses_host) as client:
        client.send(good(fake))
        assert client.is_closed()
    assert fake.mails == []
    with RudeClient(fake, fake.ses_host) as client:
        assert client.exchange(good(fake)).status == 503
    assert len(fake.mails) == 1


def test_an_early_answer_leaves_the_body_unread(fake, client):
    fake.inject("unavailable", early=True)
    answer = client.exchange(good(fake)[: -len(RAW)])
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert fake.requests[0].body_length == 0


def test_delay_and_trickle_take_their_time(fake, client):
    fake.inject(delay=0.2)
    started = time.monotonic()
    assert client.exchange(good(fake)).status == 200
    assert time.monotonic() - started >= 0.2
    fake.inject(trickle=0.001)
    started = time.monotonic()
    assert client.exchange(good(fake)).status == 200
    assert time.monotonic() - started >= 0.1


def test_a_slow_reader(fake, client):
    fake.inject(read_rate=1000)
    started = time.monotonic()
    client.send(good(fake)[: -len(RAW)])
    fake.wait_for_requests(1)
    assert client.exchange(RAW).status == 200
    assert time.monotonic() - started >= len(RAW) / 1000


def test_a_request_hangs_until_it_is_let_go(fake, client):
    fake.inject("hang")
    client.send(good(fake))
    fake.wait_for_mails(1)
    with fake.changed:
        fake.changed.wait_for(lambda: fake.requests[0].fault == "hang", 5)
    client.stream.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.stream.recv(1)
    client.stream.settimeout(10)
    fake.clear_faults()
    assert client.is_closed()


def test_stop_does_not_wait_for_what_hangs(tmp_path):
    aws = FakeAws(tmp_path, jwks={})
    aws.start()
    aws.inject("hang", service="")
    with RudeClient(aws, aws.ses_host) as client:
        client.send(serialize("POST", "/", {"Host": aws.ses_host}, b""))
        aws.wait_for_requests(1)
        started = time.monotonic()
        aws.stop()
        assert client.is_closed()
        assert time.monotonic() - started < 2


def test_quick_mode_answers_without_a_look(fake):
    fake.quick = True
    with RudeClient(fake, fake.ses_host) as client:
        for _ in range(3):
            assert client.exchange(serialize("POST", PATH, {"Host": fake.ses_host}, b"rubbish")).json["MessageId"]
    with RudeClient(fake, fake.sts_host) as client:
        assert b"<AccessKeyId>" in client.exchange(serialize("POST", "/", {"Host": fake.sts_host}, b"rubbish")).body
    assert fake.request_count == 4
    assert fake.handshakes == 2


def ask(fake, path, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{fake.control_port}{path}", data=body)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def test_the_control_port_tells_and_injects(fake, client):
    client.exchange(good(fake))
    assert json.loads(ask(fake, "/wait?mails=1&timeout=5"))["mails"] == 1
    [mail] = json.loads(ask(fake, "/mails"))
    assert mail["recipients"] == ["a@b.example"]
    assert ask(fake, f"/mails/{mail['number']}/raw") == fake.mails[0].raw
    [request] = json.loads(ask(fake, "/requests"))
    assert request["connection"]["sni"] == fake.ses_host
    ask(fake, "/inject", json.dumps({"fault": "daily-quota", "times": 1}).encode())
    assert client.exchange(good(fake)).status == 429
    ask(fake, "/reset", b"")
    assert json.loads(ask(fake, "/status"))["mails"] == 0
    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(fake, "/inject", b'{"fault": "no-such-fault"}')


def test_it_runs_as_a_process(tmp_path):
    import pathlib
    import signal
    import subprocess
    import sys

    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps(JwtAuthority().jwks()))
    tests = pathlib.Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "support.aws", "--directory", str(tmp_path), "--jwks-file", str(jwks)]
    with subprocess.Popen(command, cwd=tests, stdout=subprocess.PIPE, text=True) as process:
        ready = json.loads(process.stdout.readline())
        address = f"http://127.0.0.1:{ready['control_port']}/status"
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert json.loads(answer.read())["port"] == ready["port"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
