# SPDX-License-Identifier: Apache-2.0
"""`svidmail doctor` walks the chain to SES, names each thing that is wrong by its code, and sends no mail."""

import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from email.utils import formatdate

import pytest
from support import bad_gateway as bad
from support import certs
from support.bad_gateway import BadGateway
from support.gateway import Upstream
from support.issued_domain import file_identity
from support.mails import send
from support.ports import free_port
from support.processes import poll_until
from support.sidecar import SANITIZERS, SIDECAR_UID
from support.workload_api import INTERNAL, INVALID_ARGUMENT, PERMISSION_DENIED, UNAVAILABLE, UNIMPLEMENTED, Identity
from support.world import GATEWAY_PATH, INTRUDER_PATH, SES_HOST, SIDECAR_PATH, STRANGER_UID

STAGES = ("tcp", "tls", "peer", "policy", "aws")
PATH_WITH_SBIN = os.environ["PATH"] + ":/usr/sbin:/sbin"
GATEWAY_CHECKS = {f"gateway.{way}.{stage}" for way in ("mail", "sts") for stage in STAGES}


class Result:
    """What one run has found; .codes: the codes by check, .failed: those that are crosses."""

    def __init__(self, process: subprocess.CompletedProcess):
        assert process.stderr == "", process
        self.exit_code = process.returncode
        self.found = json.loads(process.stdout)
        self.checks = {check["id"]: check for check in self.found["checks"]}
        self.codes = {check["id"]: check["code"] for check in self.checks.values() if "code" in check}
        self.failed = {id: check["code"] for id, check in self.checks.items() if check["result"] == "failed"}
        self.unchecked = {id for id, check in self.checks.items() if check["result"] == "not_checked"}
        assert self.exit_code == (1 if self.failed else 0), process
        assert sum(self.found["counts"].values()) == len(self.checks)
        for check in self.checks.values():
            if "code" in check:
                assert check["cure"] and check["title"] and check["see"].startswith("docs/troubleshooting.md#sm"), check

    def text(self, id: str) -> str:
        return self.checks[id]["text"]

    def __repr__(self) -> str:
        return json.dumps(self.found, indent=1)


def doctor(sidecar, *options: str) -> Result:
    return Result(sidecar.cli("doctor", "--output", "json", *options, timeout=70))


def assert_way_ends(result: Result, way: str, stage: str, code: str) -> None:
    """It is good as far as to this stage, which has this code, and what comes behind it is not checked."""
    at = STAGES.index(stage)
    seen = [result.checks[f"gateway.{way}.{each}"] for each in STAGES]
    assert [check["result"] for check in seen] == ["ok"] * at + ["failed"] + ["not_checked"] * (4 - at), result
    assert seen[at]["code"] == code, result
    for check in seen[at + 1:]:
        assert seen[at]["check"] in check["text"], result


# --- all is well


@pytest.mark.parametrize("tls", ["gateway", "end-to-end"])
def test_healthy_chain_is_all_ticks_while_mail_flows_and_sends_none(new_sidecar, spire, gateway, aws, tls):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"tls": tls}})
    sidecar.wait_ready()
    replies = []
    is_over = threading.Event()

    def keep_sending():
        while not is_over.is_set():
            replies.append(send(sidecar)[0])

    sender = threading.Thread(target=keep_sending)
    assert send(sidecar)[0] == 250
    sender.start()
    results = [doctor(sidecar) for _ in range(3)]
    is_over.set()
    sender.join()
    for result in results:
        assert result.found["result"] == "ok" and result.unchecked == {"aws.account"}, result
        assert "get-account" in result.text("aws.account")
    assert set(replies) == {250}
    assert len(aws.mails) == len(replies) + 1
    assert result.found["took_ms"] < 5000


def test_nothing_secret_is_told(sidecar, aws, spire):
    assert send(sidecar)[0] == 250
    everything = sidecar.cli("doctor").stdout + sidecar.cli("doctor", "--output", "json").stdout
    [key] = aws.sts.keys.values()
    secrets = [key.secret_access_key, key.session_token, key.access_key_id, "PRIVATE KEY", "eyJ", "BEGIN CERTIFICATE"]
    assert not [secret for secret in secrets if secret in everything]


def test_screen_has_categories_one_line_per_check_and_a_sum(sidecar):
    assert send(sidecar)[0] == 250
    screen = sidecar.cli("doctor")
    assert screen.returncode == 0 and screen.stderr == ""
    lines = screen.stdout.splitlines()
    for category in ("configuration", "identity", "gateway", "aws", "mail"):
        assert lines[lines.index(category) + 1] == "-" * len(category)
    checks = json.loads(sidecar.cli("doctor", "-o", "json").stdout)["checks"]
    assert lines[-1] == f"{len(checks) - 1} fine, 0 to look at, 0 failed, 1 not checked", screen.stdout
    assert sum(line.startswith("√ ") for line in lines) == len(checks) - 1
    assert len(lines) == len(checks) + 3 * 5 + 1


def test_screen_shows_code_cure_and_where_the_gateways_log_decides(new_sidecar, new_gateway, spire, aws):
    sidecar = new_sidecar(spire, new_gateway(spire, aws, allowed=[]), aws, env={
        "POD_NAMESPACE": "shop", "POD_NAME": "checkout-1; reboot"})
    sidecar.expect_warning("pod.shared")  # so does this machine look to it, with the names of a pod
    sidecar.wait_for_event("credentials.failed")
    screen = sidecar.cli("doctor")
    assert screen.returncode == 1
    lines = screen.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("× way of the mail: it takes us: "))
    assert lines[at + 1] == "    SM061 The gateway's policy denies us"
    assert lines[at + 2].startswith("      kubectl ") and SIDECAR_PATH in screen.stdout
    assert "    gateway log: response_code_details=rbac_access_denied_matched_policy[none]" in lines
    assert "    see docs/troubleshooting.md#sm061" in lines
    assert "reboot" not in screen.stdout
    assert "- SES: not checked, because of " in screen.stdout


def test_offline_asks_nobody(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_ready()
    sidecar.wait_for_event("credentials.renewed")
    requests = len(aws.requests)
    result = doctor(sidecar, "--offline")
    assert result.found["offline"] and result.found["result"] == "ok", result
    assert result.unchecked > GATEWAY_CHECKS and result.checks["svid.mesh"]["result"] == "ok"
    assert len(aws.requests) == requests


@pytest.mark.parametrize("arguments", [["--no-such"], ["--output", "xml"], ["stray"]], ids=str)
def test_wrong_usage_is_2(svidmail, arguments):
    assert svidmail("doctor", *arguments).returncode == 2


# --- the agent


@pytest.fixture
def broken_agent(new_sidecar, gateway, aws, spire, workdir):
    """broken_agent(make): a sidecar whose agent's socket is what make(path) has put there."""

    def start(make=lambda path: None):
        path = os.path.join(workdir(), "agent.sock")
        make(path)
        sidecar = new_sidecar(spire, gateway, aws, {"identity": {"endpoint": f"unix://{path}"}})
        poll_until("the trouble with the agent", lambda: sidecar.status()["identity"].get("last_error"), 20)
        return sidecar

    return start


def assert_agent_is(sidecar, code: str) -> None:
    result = doctor(sidecar)
    assert result.failed == {"agent.socket": code}, result
    assert {"svid.offered", "svid.mesh", "aws.ses"} | result.unchecked >= GATEWAY_CHECKS
    assert "SPIRE agent" in result.text("gateway.mail.aws"), result
    assert "svidmail doctor" in sidecar.cli("status").stdout


def make_file(path: str) -> None:
    open(path, "w").close()


def make_stale_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    os.chmod(path, 0o777)


def make_forbidden_socket(path: str) -> None:
    make_stale_socket(path)
    os.chmod(path, 0o700)


BROKEN_AGENTS = {"absent": (lambda path: None, "SM012"), "a file": (make_file, "SM013"),
                 "forbidden": (make_forbidden_socket, "SM014"), "stale": (make_stale_socket, "SM015")}


@pytest.mark.parametrize("kind", BROKEN_AGENTS)
def test_agents_socket(broken_agent, kind):
    make, code = BROKEN_AGENTS[kind]
    assert_agent_is(broken_agent(make), code)


def test_agents_volume_is_not_mounted(new_sidecar, gateway, aws, spire, workdir):
    sidecar = new_sidecar(spire, gateway, aws, {"identity": {"endpoint": f"unix://{workdir()}/none/agent.sock"}})
    sidecar.wait_for_event("workload_api.waiting")
    assert_agent_is(sidecar, "SM011")


def test_agents_socket_is_istios(issued_world):
    issuer, _, _, sidecar = issued_world(start=False)
    issuer.fail("FetchX509SVID", UNIMPLEMENTED, "unknown service SpiffeWorkloadAPI")
    sidecar.expect_warning("workload_api.broken")
    sidecar.start()
    sidecar.wait_for_event("workload_api.broken")
    assert_agent_is(sidecar, "SM016")


def test_agent_hangs(broken_agent):
    listeners = []

    def listen(path: str) -> None:
        listeners.append(socket.socket(socket.AF_UNIX))
        listeners[0].bind(path)
        listeners[0].listen()
        os.chmod(path, 0o777)

    assert_agent_is(broken_agent(listen), "SM017")
    listeners[0].close()


def test_agent_gone_while_its_svid_still_serves(new_sidecar, new_spire, new_aws, new_gateway):
    spire = new_spire()
    aws = new_aws(spire)
    sidecar = new_sidecar(spire, new_gateway(spire, aws), aws)
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    spire.stop_agent()
    poll_until("the loss of the agent", lambda: not sidecar.status()["identity"]["connected"], 20)
    result = doctor(sidecar)
    assert set(result.failed) == {"agent.socket"}, result
    assert result.checks["aws.ses"]["result"] == "ok"


@pytest.mark.parametrize("status, code", [(INTERNAL, "SM020"), (INVALID_ARGUMENT, "SM019")], ids=["fails", "refuses"])
def test_agent_ends_the_stream(issued_world, status, code):
    issuer, _, _, sidecar = issued_world(start=False)
    issuer.fail("FetchX509SVID", status, "because of this")
    sidecar.expect_warning("workload_api.broken")
    sidecar.start()
    poll_until("the trouble with the agent", lambda: sidecar.status()["identity"].get("last_error"), 20)
    assert_agent_is(sidecar, code)


# --- identities


def test_no_identity_issued(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws, uid=STRANGER_UID)
    sidecar.wait_for_event("workload_api.waiting")
    result = doctor(sidecar)
    assert result.failed == {"svid.offered": "SM021"}, result
    assert result.checks["agent.socket"]["result"] == "ok" and result.unchecked >= GATEWAY_CHECKS


def test_identity_denied_by_an_agent_that_has_restarted(issued_world):
    issuer, _, _, sidecar = issued_world()
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    issuer.fail("FetchX509SVID", PERMISSION_DENIED, "no identity issued")
    issuer.end_streams(UNAVAILABLE)
    sidecar.wait_for_event("workload_api.waiting", error=lambda error: "no identity issued" in error)
    result = doctor(sidecar)
    assert result.codes == {"svid.offered": "SM030"} and result.exit_code == 0, result
    assert result.checks["aws.ses"]["result"] == "ok"


@pytest.mark.parametrize("mesh, code", [({}, "SM022"), ({"spiffe_id": "spiffe://example.org/nobody"}, "SM023"),
                                        ({"hint": "nothing"}, "SM024")], ids=["none named", "wrong ID", "wrong hint"])
def test_several_svids(issued_world, mesh, code):
    _, _, _, sidecar = issued_world({"identity": {"mesh": mesh}}, identities=[
        Identity(SIDECAR_PATH), Identity("/ns/shop/sa/checkout", hint="pod")])
    sidecar.wait_for_event("svid.rotated")
    result = doctor(sidecar)
    assert result.failed == {"svid.mesh": code, "svid.aws": code}, result
    assert "/ns/shop/sa/checkout (hint pod)" in result.text("svid.offered")
    assert result.unchecked >= GATEWAY_CHECKS


def test_gateway_of_a_trust_domain_without_a_bundle(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"spiffe_ids": ["spiffe://other.test" + GATEWAY_PATH]}})
    sidecar.wait_for_event("credentials.failed")
    result = doctor(sidecar)
    assert result.codes["bundle.gateway"] == "SM028"
    assert_way_ends(result, "mail", "peer", "SM054")


# --- the way to the gateway


def test_gateways_name_does_not_resolve(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"host": "gateway.invalid"}})
    sidecar.wait_for_event("credentials.failed", timeout=30)
    with pytest.raises(socket.gaierror) as seen:
        socket.getaddrinfo("gateway.invalid", 443)
    result = doctor(sidecar)
    expected = "SM031" if seen.value.errno in (socket.EAI_NONAME, socket.EAI_NODATA) else "SM032"
    assert result.failed == {"gateway.name": expected}, result
    assert result.unchecked >= GATEWAY_CHECKS


def test_gateway_refuses_connections(new_sidecar, new_gateway, spire, aws):
    sidecar = new_sidecar(spire, new_gateway(spire, aws, start=False), aws)
    sidecar.wait_for_event("credentials.failed")
    result = doctor(sidecar)
    assert_way_ends(result, "mail", "tcp", "SM033")
    assert_way_ends(result, "sts", "tcp", "SM033")
    assert {"aws.ses", "aws.credentials", "aws.clock"} <= result.unchecked
    assert result.checks["aws.token"]["result"] == "ok"


@pytest.fixture
def black_hole():
    """A port whose backlog is full: the kernel drops every further SYN, as a NetworkPolicy does."""
    listener = socket.create_server(("127.0.0.1", free_port()), backlog=0)
    address = listener.getsockname()
    fillers = []
    for _ in range(2):
        fillers.append(socket.socket())
        fillers[-1].setblocking(False)
        fillers[-1].connect_ex(address)
    yield address[1]
    for each in [*fillers, listener]:
        each.close()


def test_gateway_does_not_accept(new_sidecar, spire, gateway, aws, black_hole):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"ports": {"api": black_hole}}})
    sidecar.wait_ready()
    result = doctor(sidecar)
    assert_way_ends(result, "mail", "tcp", "SM035")
    assert result.checks["gateway.sts.aws"]["result"] == "ok" and result.checks["aws.credentials"]["result"] == "ok"


def test_gateway_has_no_chain_for_this_sni(new_sidecar, new_gateway, spire, aws):
    other = Upstream("other.example", "127.0.0.1", aws.port)
    sidecar = new_sidecar(spire, new_gateway(spire, aws, api=[other], end_to_end=[other]), aws)
    sidecar.wait_for_event("credentials.failed")
    result = doctor(sidecar)
    assert_way_ends(result, "mail", "tls", "SM041")
    assert_way_ends(result, "sts", "tls", "SM041")
    assert SES_HOST in result.text("gateway.mail.tls")
    assert "filter_chain_not_found" in result.checks["gateway.mail.tls"]["gateway_log"]


# A pod's network as istio-init leaves it: a connection to these ports ends at port 15001 of the pod itself, where a
# proxy hangs up at the ClientHello, as a gateway does to an SNI it does not know.  Then svidmail takes this place.
CAPTURING_POD = """
import os, select, socket, subprocess, sys
captured, ports, svidmail = sys.argv[1].split(), sys.argv[2].split(), sys.argv[3:]
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
for port in captured:
    subprocess.run(["iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", port, "-j", "REDIRECT",
                    "--to-ports", "15001"], check=True)
listeners = [socket.create_server(("0.0.0.0", int(port))) for port in ["15001", *ports]]
pod = os.getpid()
if os.fork() == 0:
    while os.getppid() == pod:
        for listener in select.select(listeners, [], [], 0.5)[0]:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.close()
    sys.exit()
os.execv(svidmail[0], svidmail)
"""


@pytest.mark.parametrize("captured", [["api"], ["end_to_end"], []], ids=["mail", "credentials", "nothing"])
def test_istio_proxy_captures_the_way(new_sidecar, spire, gateway, aws, workdir, captured):
    ports = {"api": str(gateway.api_port), "end_to_end": str(gateway.end_to_end_port)}
    sidecar = new_sidecar(
        spire, gateway, aws, env={"XTABLES_LOCKFILE": os.path.join(workdir(), "lock"), "PATH": PATH_WITH_SBIN},
        wrapper=("unshare", "--map-root-user", "--net", "/usr/bin/python3", "-c", CAPTURING_POD,
                 " ".join(ports[name] for name in captured), " ".join(ports.values())))
    sidecar.wait_for_event("credentials.failed")
    result = doctor(sidecar)
    assert result.codes.get("gateway.capture") == ("SM036" if captured else None), result
    if captured:
        assert f":{ports[captured[0]]} " in result.text("gateway.capture")
    assert_way_ends(result, "mail", "tls", "SM041")


BAD_GATEWAYS = {
    "plain HTTP": (bad.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), "tls", "SM044"),
    "SSH": (bad.say(b"SSH-2.0-OpenSSH_9.2\r\n"), "tls", "SM046"),
    "TLS 1.2": (bad.show(at_most=ssl.TLSVersion.TLSv1_2), "tls", "SM045"),
    "a part of a ServerHello": (bad.say_and_close(b"\x16\x03\x03\x00\x7a\x02\x00"), "tls", "SM042"),
    "reset on ClientHello": (bad.reset_on_hello, "tls", "SM041"),
    "no SVID": (bad.show(uri_sans=[], dns=["gateway.test"]), "peer", "SM051"),
    "another CA": (bad.show(domain=certs.TrustDomain("example.org")), "peer", "SM052"),
    "another domain": (bad.show(domain=certs.TrustDomain("other.test")), "peer", "SM053"),
    "another ID": (bad.show(uri_sans=["spiffe://example.org" + INTRUDER_PATH]), "peer", "SM054"),
    "cut after the handshake": (bad.after_handshake(bad.cut_at_once), "policy", "SM070"),
    "closed after the handshake": (bad.after_handshake(bad.close_at_once), "policy", "SM070"),
    "cut after the request": (bad.answer(keep=False), "policy", "SM070"),
    "no cluster": (bad.answer(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), "policy", "SM069"),
    "a filter": (bad.answer(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n"), "policy", "SM062"),
    "connect timeout": (bad.answer(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 91\r\n\r\n"
                                   b"upstream connect error or disconnect/reset before headers. "
                                   b"reset reason: connection timeout"), "aws", "SM066"),
    "a web page": (bad.answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"),
                   "aws", "SM080"),
}


@pytest.mark.parametrize("kind", BAD_GATEWAYS)
def test_gateway_misbehaves(bad_world, kind):
    gateway, sidecar = bad_world
    behaviour, stage, code = BAD_GATEWAYS[kind]
    gateway.behave(behaviour)
    result = doctor(sidecar)
    assert_way_ends(result, "mail", stage, code)
    assert result.checks["gateway.sts.aws"]["result"] == "ok" and "aws.ses" in result.unchecked
    gateway.heal()
    assert doctor(sidecar).found["result"] == "ok"


@pytest.fixture
def bad_world(new_issuer, new_aws, new_sidecar):
    """(gateway, sidecar): one that does what it is told, and svidmail with credentials."""
    domain = new_issuer()
    aws = new_aws(domain)
    gateway = BadGateway(aws, domain.certificates)
    sidecar = new_sidecar(domain, gateway, aws)
    sidecar.wait_ready()
    sidecar.wait_for_event("credentials.renewed")
    yield gateway, sidecar
    gateway.stop()


@pytest.mark.slow
def test_gateway_accepts_and_says_nothing(bad_world):
    gateway, sidecar = bad_world
    gateway.behave(bad.say_nothing)
    result = doctor(sidecar)
    assert_way_ends(result, "mail", "tls", "SM043")
    assert result.found["took_ms"] < 20_000


@pytest.mark.slow
def test_all_connections_are_busy_with_mail(new_issuer, new_aws, new_sidecar):
    domain = new_issuer()
    aws = new_aws(domain)
    gateway = BadGateway(aws, domain.certificates)
    is_sent, may_end = threading.Event(), threading.Event()

    def hold(self, stream):
        self.read_request(stream)
        is_sent.set()
        may_end.wait(30)
        stream.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"MessageId":"1"}')

    try:
        sidecar = new_sidecar(domain, gateway, aws, {"gateway": {"max_connections": 1}})
        sidecar.wait_ready()
        sidecar.wait_for_event("credentials.renewed")
        gateway.behave(bad.after_handshake(hold))
        replies = []
        mail = threading.Thread(target=lambda: replies.append(send(sidecar)))
        mail.start()
        assert is_sent.wait(10)
        result = doctor(sidecar)
        may_end.set()
        mail.join()
        assert replies == [(250, "2.0.0 Ok 1")]
        assert result.found["result"] == "ok" and "busy with mail" in result.text("gateway.mail.tcp"), result
        assert {"gateway.mail.aws", "aws.ses"} <= result.unchecked and "gateway.sts.aws" not in result.unchecked
    finally:
        may_end.set()
        gateway.stop()


def test_gateway_does_not_trust_our_ca(new_issuer, new_aws, new_gateway, new_sidecar):
    domain = new_issuer()
    aws = new_aws(domain)
    stranger = certs.TrustDomain("example.org")
    gateway = new_gateway(domain, aws, identity=file_identity(domain.certificates, stranger))
    sidecar = new_sidecar(domain, gateway, aws)
    sidecar.wait_for_event("credentials.failed")
    result = doctor(sidecar)
    assert_way_ends(result, "mail", "policy", "SM056")
    assert_way_ends(result, "sts", "policy", "SM056")


# --- policy, and AWS behind the gateway


def test_policy_denies_this_identity(new_sidecar, new_gateway, spire, aws):
    sidecar = new_sidecar(spire, new_gateway(spire, aws, allowed=[]), aws)
    sidecar.wait_for_event("credentials.failed")
    result = doctor(sidecar)
    assert_way_ends(result, "mail", "policy", "SM061")
    assert_way_ends(result, "sts", "policy", "SM070")
    assert spire.id(SIDECAR_PATH).removeprefix("spiffe://") in result.checks["gateway.mail.policy"]["cure"][0]
    assert aws.requests == []


def test_aws_down_behind_the_gateway(new_sidecar, gateway, spire, aws):
    sidecar = new_sidecar(spire, gateway, aws)
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250
    aws.stop()
    result = doctor(sidecar)
    assert_way_ends(result, "mail", "aws", "SM064")
    assert_way_ends(result, "sts", "policy", "SM070")
    aws.start()


def test_aws_with_a_wrong_certificate(new_sidecar, gateway, spire, aws):
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"tls": "end-to-end"}})
    sidecar.wait_ready()  # and no mail: a TLS session that is resumed shows no certificate
    aws.serve_certificate(SES_HOST, aws.authority.issue("wrong.example"))
    assert_way_ends(doctor(sidecar), "mail", "aws", "SM078")


def test_sts_denies_the_role(new_sidecar, new_gateway, new_aws, spire):
    aws = new_aws(spire, subjects=["spiffe://example.org/ns/other"])
    sidecar = new_sidecar(spire, new_gateway(spire, aws), aws)
    sidecar.wait_for_event("credentials.failed")
    result = doctor(sidecar)
    assert result.failed == {"aws.credentials": "SM072"}, result
    assert "aws.ses" in result.unchecked and result.checks["gateway.mail.aws"]["result"] == "ok"
    assert spire.id(SIDECAR_PATH) in "".join(result.checks["aws.credentials"]["cure"])


def test_agent_gives_no_token(issued_world):
    issuer, aws, _, sidecar = issued_world(start=False)
    issuer.fail("FetchJWTSVID", INTERNAL, "no key")
    sidecar.start()
    sidecar.wait_for_event("credentials.failed")
    result = doctor(sidecar)
    assert result.failed == {"aws.token": "SM071"} and "no key" in result.text("aws.token"), result
    assert {"aws.credentials", "aws.ses"} <= result.unchecked and aws.tokens == []


def test_sts_does_not_know_the_issuer(new_sidecar, new_gateway, new_aws, spire):
    aws = new_aws(spire, issuer="https://other.example")
    sidecar = new_sidecar(spire, new_gateway(spire, aws), aws)
    sidecar.wait_for_event("credentials.failed")
    assert doctor(sidecar).failed == {"aws.credentials": "SM073"}


SES_SAYS = {"AccessDeniedException": (403, "failed", "SM083"), "UnrecognizedClientException": (403, "failed", "SM084"),
            "SignatureDoesNotMatch": (403, "failed", "SM085"), "AccountSuspendedException": (400, "failed", "SM086"),
            "TooManyRequestsException": (429, "warning", "SM087"), "InternalFailure": (500, "warning", "SM088")}


@pytest.mark.parametrize("error", SES_SAYS)
def test_ses_refuses(sidecar, aws, error):
    status, result_name, code = SES_SAYS[error]
    assert send(sidecar)[0] == 250
    aws.inject(status=status, error=error, message="because of this", skip=1, times=2)  # the way itself is open
    result = doctor(sidecar)
    assert result.codes == {"aws.ses": code}, result
    assert result.checks["aws.ses"]["result"] == result_name and "because of this" in result.text("aws.ses")
    assert result.checks["gateway.mail.aws"]["result"] == "ok" and len(aws.mails) == 1


@pytest.mark.parametrize("skew_s, code", [(100, "SM082"), (-1000, "SM081")])
def test_clock_differs_from_awss(bad_world, skew_s, code):
    gateway, sidecar = bad_world
    date = formatdate(time.time() + skew_s, usegmt=True).encode()
    gateway.behave(bad.answer(b"HTTP/1.1 403 Forbidden\r\nx-amzn-RequestId: 1\r\nDate: " + date
                              + b"\r\nContent-Length: 0\r\n\r\n"))
    result = doctor(sidecar)
    assert result.codes["aws.clock"] == code, result


def test_last_mail_that_failed_is_told(sidecar, aws):
    aws.inject("sender-not-verified")
    assert send(sidecar)[0] == 550
    result = doctor(sidecar)
    assert result.codes == {"mail.last": "SM092"} and "not verified" in result.text("mail.last"), result
    assert "svidmail doctor" in sidecar.cli("status").stdout


# --- configuration


def test_configuration_changed_on_disk(sidecar):
    with open(sidecar.config_file, "a") as file:
        file.write("# changed\n")
    assert doctor(sidecar, "--offline").codes == {"config.file": "SM005"}
    with open(sidecar.config_file, "a") as file:
        file.write("nonsense: 1\n")
    result = doctor(sidecar, "--offline")
    assert result.failed == {"config.file": "SM004"} and "nonsense" in result.text("config.file"), result


def test_role_of_another_partition(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws, {"aws": {"role_arn": "arn:aws-cn:iam::123456789012:role/x"}})
    sidecar.wait_for_event("credentials.failed")
    assert doctor(sidecar, "--offline").failed == {"config.values": "SM003"}


def test_roots_that_cannot_be_read(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws, {"aws": {"ca_file": "/nonexistent/roots.pem"}})
    sidecar.wait_for_event("credentials.failed")
    assert doctor(sidecar, "--offline").failed == {"config.roots": "SM002"}


# --- who asks


def test_all_who_ask_at_once_get_the_same_answer(bad_world):
    gateway, sidecar = bad_world
    is_asked, may_end = threading.Event(), threading.Event()

    def wait(self, connection):
        is_asked.set()
        may_end.wait(10)

    gateway.behave(wait)
    answers = []
    first = threading.Thread(target=lambda: answers.append(sidecar.admin("/doctor")))
    second = threading.Thread(target=lambda: answers.append(sidecar.admin("/doctor")))
    first.start()
    assert is_asked.wait(10)
    second.start()
    assert json.loads(sidecar.admin("/doctor?offline"))["offline"]  # is not kept waiting, nor are probes
    assert sidecar.cli("health").returncode == 0
    may_end.set()
    first.join()
    second.join()
    assert answers[0] == answers[1] and gateway.accepted == 1
    gateway.heal()
    assert doctor(sidecar).found["result"] == "ok"


def test_examinations_leave_nothing_behind(new_sidecar, spire, gateway, aws):
    quick_to_free = {"ASAN_OPTIONS": SANITIZERS["ASAN_OPTIONS"] + ":quarantine_size_mb=0"}
    sidecar = new_sidecar(spire, gateway, aws, env=quick_to_free)
    sidecar.wait_ready()

    def held() -> tuple[int, int, int]:
        return (len(os.listdir(f"/proc/{sidecar.pid}/fd")), gateway.connections("api"),
                gateway.connections("end_to_end"))

    assert doctor(sidecar).exit_code == 0  # SES's own connection is kept, as a mail's is

    def at_rest() -> tuple[int, int, int] | None:
        """The asker's own descriptor may not be closed yet."""
        first = held()
        for _ in range(20):
            time.sleep(0.1)
            if held() != first:
                return None
        return first

    before, before_kb = poll_until("it to rest", at_rest, 10), sidecar.memory_kb()["RssAnon"]
    for _ in range(20):
        assert doctor(sidecar).exit_code == 0
    poll_until(f"everything to be let go: {before}", lambda: held() == before, 10)
    assert sidecar.memory_kb()["RssAnon"] - before_kb < 10_000


def test_asker_that_goes_away_leaves_nothing_behind(bad_world):
    gateway, sidecar = bad_world
    is_asked, may_end = threading.Event(), threading.Event()

    def wait(self, connection):
        is_asked.set()
        may_end.wait(10)

    gateway.behave(wait)
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(sidecar.admin_socket)
        asker.sendall(b"GET /doctor HTTP/1.1\r\nHost: x\r\n\r\n")
        assert is_asked.wait(10)
    may_end.set()
    gateway.heal()
    # Who asks now may yet be told what the abandoned examination finds.
    poll_until("a good examination", lambda: doctor(sidecar).exit_code == 0, 20)
    assert send(sidecar)[0] == 250


def test_sigterm_ends_an_examination(bad_world):
    gateway, sidecar = bad_world
    is_asked, may_end = threading.Event(), threading.Event()

    def wait(self, connection):
        is_asked.set()
        may_end.wait(10)

    gateway.behave(wait)
    with subprocess.Popen([sidecar.program, "doctor", "--socket", sidecar.admin_socket], user=SIDECAR_UID, cwd="/",
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asker:
        assert is_asked.wait(10)
        sidecar.process.send_signal(signal.SIGTERM)
        assert sidecar.process.wait(5) == 0
        stdout, stderr = asker.communicate(timeout=5)
    may_end.set()
    assert asker.returncode == 1 and "svidmail is stopping" in stderr and stdout == ""
