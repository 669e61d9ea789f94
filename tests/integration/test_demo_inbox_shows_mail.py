# SPDX-License-Identifier: Apache-2.0
"""The inbox page: hostile mail stays text, every hop names who was seen there, and nothing is fetched from outside."""

import email.policy
import http.client
import json
import re
import urllib.error
import urllib.request
from email.message import EmailMessage
from html.parser import HTMLParser

import pytest
from support import aws_clients
from support.aws import AccessKey, FakeAws
from support.inbox import Inbox
from support.journey import Witnesses
from support.jwt_authority import JwtAuthority

SIDECAR = "spiffe://example.org/ns/shop/sa/checkout/svidmail"
GATEWAY = "spiffe://example.org/ns/mail-egress/sa/mail-egress"
EVIL = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


class World:
    """A fake AWS with credentials for one workload, the witnesses, and the page."""

    def __init__(self, directory):
        self.jwt = JwtAuthority(issuer="https://oidc.example.org")
        self.aws = FakeAws(directory, jwks=self.jwt.jwks)
        self.witnesses = Witnesses(self.aws, "the issuer")
        self.inbox = Inbox(self.witnesses.journeys, title=EVIL, port=0)
        self.client = None

    def assume(self):
        sts = aws_clients.botocore_client(self.aws, "sts")
        answer = sts.assume_role_with_web_identity(
            RoleArn="arn:aws:iam::123456789012:role/svidmail",
            RoleSessionName="checkout",
            WebIdentityToken=self.jwt.sign(SIDECAR, "sts.amazonaws.com"),
        )
        key = self.aws.sts.lookup(answer["Credentials"]["AccessKeyId"])
        self.client = aws_clients.botocore_client(self.aws, "sesv2", key)

    def send(self, message, recipients=("user@customer.example",)):
        raw = message if isinstance(message, bytes) else message.as_bytes(policy=email.policy.SMTP)
        if self.client is None:
            key = self.aws.add_access_key(AccessKey("AKIAEXAMPLE", "secret"))
            self.client = aws_clients.botocore_client(self.aws, "sesv2", key)
        self.client.send_email(Content={"Raw": {"Data": raw}}, Destination={"ToAddresses": list(recipients)})
        return self.aws.mails[-1]

    def get(self, path):
        with urllib.request.urlopen(self.inbox.url + path.lstrip("/"), timeout=10) as answer:
            return answer.read().decode("utf-8", "replace")


@pytest.fixture
def world(tmp_path, monkeypatch):
    aws_clients.resolve_amazon_to_loopback(monkeypatch)
    one = World(tmp_path)
    with one.aws, one.inbox:
        yield one


def letter(subject="hello", text="body\n", **headers):
    message = EmailMessage()
    message["From"] = "Shop <shop@shop.example>"
    message["To"] = "user@customer.example"
    message["Subject"] = subject
    for name, value in headers.items():
        message[name] = value
    message.set_content(text)
    return message


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.names = []
        self.links = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src")]


def test_an_empty_inbox_says_how_to_fill_it(world):
    page = world.get("/")
    assert "No mail yet" in page
    assert json.loads(world.get("/state"))["mails"] == 0


def test_a_mail_is_shown_decoded(world):
    message = letter("Grüße — 你好", "Schöne Grüße aus Köln\n", Cc="other@customer.example")
    message.add_attachment("Äpfel\n", subtype="csv", filename="Preise Ω.csv")
    world.send(message, ["user@customer.example", "hidden@customer.example"])
    page = world.get("/mail/1")
    for text in ("Grüße — 你好", "Schöne Grüße aus Köln", "hidden@customer.example", "Preise Ω.csv"):
        assert text in page
    assert world.get("/mail/1/part/0").splitlines() == ["Äpfel"]


def test_raw_is_the_mail_byte_by_byte_and_plain_text(world):
    mail = world.send(letter())
    with urllib.request.urlopen(f"{world.inbox.url}mail/1/raw", timeout=10) as answer:
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.read() == mail.raw


def test_hostile_text_stays_text(world):
    message = letter("x", EVIL + "\x1b[2J\x07\u202e\n", **{"X-A": "b"})
    raw = message.as_bytes(policy=email.policy.SMTP).replace(b"Subject: x", b"Subject: " + EVIL.encode())
    raw = raw.replace(b"Shop <", b'"' + b"<b>Shop</b>" + b'" <')
    world.send(raw)
    world.witnesses.on_access({"log": "api", "aws_request_id": world.aws.mails[0].request.request_id, "peer": EVIL})
    done = {"event": "mail.done", "ses_message_id": world.aws.mails[0].message_id, "reply": EVIL, "gateway": EVIL}
    world.witnesses.on_event(done)
    for path in ("/", "/mail/1", "/part/list?current=1", "/part/way?mail=1", "/part/list?current=%22%3E%3Cscript%3E"):
        page = world.get(path)
        assert Elements(page).names.count("script") == (1 if path in ("/", "/mail/1") else 0)
        assert not {"img", "b"} & set(Elements(page).names)
        assert "\u202e" not in page
        assert "\x1b" not in page


def test_html_mail_is_shown_as_source(world):
    message = letter()
    message.set_content("<p>hi <b>there</b></p>", subtype="html")
    world.send(message)
    page = world.get("/mail/1")
    assert "&lt;b&gt;there&lt;/b&gt;" in page
    assert "HTML only" in page


@pytest.mark.parametrize(
    "raw",
    [
        b"From: a@b.example\r\n\r\n",
        b"From: a@b.example\r\nSubject: =?utf-8?B?////?=\r\nContent-Type: text/plain; charset=no-such\r\n\r\n\xff\r\n",
        b"From: a@b.example\r\nContent-Type: multipart/mixed\r\n\r\nno boundary\r\n",
        b"From: a@b.example\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n",
        b"From: a@b.example\r\nTo: =?x?y?z\r\nSubject:\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!\r\n",
        b"From: a@b.example\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ntext\r\n",
        b"From: a@b.example\r\nSubject: " + b"x" * 900 + b"\r\nSubject2: \xff\r\n\r\n" + b"y" * 300_000 + b"\r\n",
    ],
)
def test_a_broken_mail_breaks_no_page(world, raw):
    world.send(raw)
    assert "svidmail inbox" in world.get("/mail/1")
    assert world.get("/mail/1/raw")


def test_every_hop_names_who_was_seen(world):
    world.assume()
    mail = world.send(letter())
    way = world.get("/part/way?mail=1")
    assert "svidmail has not logged this mail yet" in way
    assert "the gateway logs it when" in way
    before = json.loads(world.get("/state"))["state"]
    world.witnesses.on_event(
        {"event": "mail.done", "ses_message_id": mail.message_id, "mail": "m-1", "gateway": GATEWAY, "total_us": 4200}
    )
    world.witnesses.on_access(
        {"log": "api", "aws_request_id": mail.request.request_id, "peer": SIDECAR, "sni": "S", "tls_version": "TLSv1.3"}
    )
    sts_peer = world.aws.requests_of("sts")[0].connection.peer
    stranger = {"log": "end_to_end", "upstream_local": "127.0.0.1:1", "peer": "spiffe://example.org/stranger"}
    seen = {"log": "end_to_end", "upstream_local": f"{sts_peer[0]}:{sts_peer[1]}", "peer": SIDECAR, "sni": "T"}
    world.witnesses.on_access(stranger)
    world.witnesses.on_access(seen)
    assert json.loads(world.get("/state"))["state"] != before
    way = world.get("/part/way?mail=1")
    assert "pending" not in way
    assert "stranger" not in way
    assert way.count(f'<span class="identity">{SIDECAR}</span>') == 3
    for text in (
        GATEWAY,
        "arn:aws:sts::123456789012:assumed-role/svidmail/checkout",
        "signature verified",
        "token verified",
        "4.2 ms",
        mail.message_id,
        mail.request.request_id,
        mail.request.access_key_id,
    ):
        assert text in way
    assert world.witnesses.wait_complete(mail, 0.01).is_complete


def test_a_connection_that_aws_saw_from_elsewhere_is_not_mixed_up(world):
    world.assume()
    mail = world.send(letter())
    world.witnesses.on_access({"log": "api", "aws_request_id": "another", "peer": SIDECAR})
    gateway_hop = next(hop for hop in world.witnesses.journey(mail).hops if hop.end == "egress gateway")
    assert gateway_hop.pending
    assert gateway_hop.identity == ""


def test_the_page_needs_nothing_from_elsewhere(world):
    world.send(letter())
    page = world.get("/mail/1")
    assert all(link.startswith("/") or link == "data:," for link in Elements(page).links)
    with urllib.request.urlopen(world.inbox.url, timeout=10) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy
    assert not re.search(r"https?://", world.get("/style.css") + world.get("/script.js"))
    assert "style=" not in page
    assert "onclick" not in page


@pytest.mark.parametrize("path", ["/mail/7", "/mail/x", "/mail/1/part/9", "/mail/1/nothing", "/etc/passwd", "/mail/"])
def test_what_is_not_there_is_404(world, path):
    world.send(letter())
    with pytest.raises(urllib.error.HTTPError, match="404"):
        world.get(path)


def test_another_host_name_is_refused(world):
    connection = http.client.HTTPConnection("127.0.0.1", world.inbox.port, timeout=10)
    connection.request("GET", "/", headers={"Host": "attacker.example:8025"})
    assert connection.getresponse().status == 421
    connection.close()
