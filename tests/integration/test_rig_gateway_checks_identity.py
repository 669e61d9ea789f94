# SPDX-License-Identifier: Apache-2.0
"""The rig's own gateway lets the right SVID pass and refuses everybody else, each in its own way.

If these fail, what the other files say about svidmail means nothing.
"""

import contextlib
import ssl

import pytest
from support.gateway import FileIdentity, Upstream
from support.processes import poll_until
from support.sidecar import SIDECAR_UID
from support.tls_upstream import TlsUpstream, mtls_client, peer_uri
from support.world import GATEWAY_PATH, INTRUDER_PATH, INTRUDER_UID, SES_HOST, SIDECAR_PATH

REQUEST = (f"POST /v2/email/outbound-emails HTTP/1.1\r\nhost: {SES_HOST}\r\nx-mark: 7\r\n"
           "content-length: 0\r\n\r\n").encode()


@pytest.fixture
def upstream(workdir):
    with TlsUpstream(workdir(), SES_HOST) as server:
        yield server


@pytest.fixture
def gate(new_gateway, spire, upstream):
    return new_gateway(spire, upstream)


@pytest.fixture
def svid(spire, workdir):
    """svid(uid): the files of a workload's SVID."""
    return lambda uid: spire.write_svid(uid, f"{workdir()}/svid")


def ask(stream: ssl.SSLSocket, request: bytes = REQUEST) -> bytes:
    with stream:
        stream.sendall(request)
        return stream.recv(65536)


def test_the_allowed_identity_reaches_aws_and_is_logged(gate, spire, svid, upstream):
    files = svid(SIDECAR_UID)
    stream = mtls_client(gate.api_port, SES_HOST, files, files["bundle"])
    assert peer_uri(stream) == [spire.id(GATEWAY_PATH)]
    answer = ask(stream)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"x-envoy-upstream-service-time:" in answer
    assert upstream.snis == [SES_HOST]
    line = gate.wait_for_access(log="api", code=200)
    assert line["peer"] == spire.id(SIDECAR_PATH)
    assert line["sni"] == SES_HOST


def test_no_header_of_the_gateway_reaches_aws(gate, svid, upstream):
    files = svid(SIDECAR_UID)
    ask(mtls_client(gate.api_port, SES_HOST, files, files["bundle"]))
    names = {line.split(b":")[0] for line in upstream.requests[0].split(b"\r\n")[1:] if line}
    assert names == {b"host", b"x-mark", b"content-length"}


def test_another_identity_gets_403_from_the_gateway_itself(gate, spire, svid, upstream):
    files = svid(INTRUDER_UID)
    answer = ask(mtls_client(gate.api_port, SES_HOST, files, files["bundle"]))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert body == b"RBAC: access denied"
    assert b"x-envoy-upstream-service-time" not in head
    assert gate.wait_for_access(code=403)["details"] == "rbac_access_denied_matched_policy[none]"
    assert upstream.dialled == 0


@pytest.mark.parametrize("path", ["/v2/email/identities", "/"])
def test_another_path_gets_403(gate, svid, upstream, path):
    files = svid(SIDECAR_UID)
    request = REQUEST.replace(b"/v2/email/outbound-emails", path.encode())
    assert ask(mtls_client(gate.api_port, SES_HOST, files, files["bundle"]), request).startswith(b"HTTP/1.1 403 ")
    assert upstream.dialled == 0


@pytest.mark.parametrize("sni", ["sts.us-east-1.amazonaws.com", None])
def test_an_unknown_or_missing_sni_is_reset_without_an_alert(gate, svid, sni):
    files = svid(SIDECAR_UID)
    with pytest.raises(ConnectionResetError):
        mtls_client(gate.api_port, sni, files, files["bundle"])
    assert gate.wait_for_access(flags="NR")["details"] == "filter_chain_not_found"


def test_no_certificate_is_alert_116_after_the_handshake(gate, svid):
    stream = mtls_client(gate.api_port, SES_HOST, None, svid(SIDECAR_UID)["bundle"])
    with stream, pytest.raises(ssl.SSLError) as error:
        stream.recv(1)      # a write may fail first, and with nothing but EPIPE
    assert error.value.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    gate.wait_for_stat("listener.api.ssl.fail_verify_no_cert")
    # What is logged of one who is let in comes behind all that there would be of the other.
    files = svid(SIDECAR_UID)
    ask(mtls_client(gate.api_port, SES_HOST, files, files["bundle"]))
    allowed = gate.wait_for_access(code=200)
    assert gate.access_log() == [allowed]


def test_a_certificate_of_another_ca_is_alert_46(gate, new_spire, svid, workdir):
    rogue = new_spire()
    files = rogue.write_svid(SIDECAR_UID, f"{workdir()}/svid")
    stream = mtls_client(gate.api_port, SES_HOST, files, svid(SIDECAR_UID)["bundle"])
    with stream, pytest.raises(ssl.SSLError) as error:
        stream.recv(1)
    assert error.value.reason == "SSLV3_ALERT_CERTIFICATE_UNKNOWN"
    gate.wait_for_stat("listener.api.ssl.fail_verify_error")


def test_tls_inside_tls_is_verified_end_to_end(gate, svid, upstream):
    files = svid(SIDECAR_UID)
    outer = mtls_client(gate.end_to_end_port, SES_HOST, files, files["bundle"])
    inner_context = ssl.create_default_context(cafile=upstream.ca_file)
    to_aws, from_aws = ssl.MemoryBIO(), ssl.MemoryBIO()
    inner = inner_context.wrap_bio(from_aws, to_aws, server_hostname=SES_HOST)

    def pump(step):
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                outer.sendall(to_aws.read())
                from_aws.write(outer.recv(65536))

    with outer:
        pump(inner.do_handshake)
        inner.write(REQUEST)
        outer.sendall(to_aws.read())
        assert pump(lambda: inner.read(65536)).startswith(b"HTTP/1.1 200 OK\r\n")
    assert upstream.requests == [REQUEST]


def test_tls_inside_tls_ends_for_another_identity_at_its_first_bytes(gate, svid):
    files = svid(INTRUDER_UID)
    assert ask(mtls_client(gate.end_to_end_port, SES_HOST, files, files["bundle"]), b"\x16\x03\x01") == b""
    assert gate.wait_for_access(log="end_to_end")["terminated"] == "rbac_access_denied_matched_policy[none]"


def test_aws_under_another_name_is_503_with_the_reason_in_the_log_only(new_gateway, spire, svid, workdir):
    files = svid(SIDECAR_UID)
    with TlsUpstream(workdir(), "somebody.else.test") as wrong:
        gate = new_gateway(spire, wrong)
        answer = ask(mtls_client(gate.api_port, SES_HOST, files, files["bundle"]))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert body.startswith(b"upstream connect error or disconnect/reset before headers. reset reason: ")
    assert "SAN" in gate.wait_for_access(code=503)["upstream_failure"]


def test_a_restart_keeps_the_ports_and_the_log(gate, svid):
    files = svid(SIDECAR_UID)
    ask(mtls_client(gate.api_port, SES_HOST, files, files["bundle"]))
    gate.wait_for_access(code=200)
    gate.restart()
    assert ask(mtls_client(gate.api_port, SES_HOST, files, files["bundle"])).startswith(b"HTTP/1.1 200")
    gate.stop()
    assert len(gate.access_log(code=200)) == 2


def test_a_changed_policy_acts_after_a_restart(gate, spire, svid):
    gate.allowed = []
    gate.restart()
    files = svid(SIDECAR_UID)
    assert ask(mtls_client(gate.api_port, SES_HOST, files, files["bundle"])).startswith(b"HTTP/1.1 403 ")


def test_a_gateway_started_before_spire_heals_by_itself(new_gateway, new_spire, upstream, workdir):
    domain = new_spire()
    files = domain.write_svid(SIDECAR_UID, f"{workdir()}/svid")
    domain.stop_agent()
    gate = new_gateway(domain, upstream, start=False)
    gate.start(wait=False)
    domain.start_agent()
    gate.wait_ready()
    assert ask(mtls_client(gate.api_port, SES_HOST, files, files["bundle"])).startswith(b"HTTP/1.1 200")


def read_identity(spire, files) -> FileIdentity:
    texts = {}
    for name in ("cert", "key"):
        with open(files[name]) as file:
            texts[name] = file.read()
    return FileIdentity(texts["cert"], texts["key"], {spire.trust_domain: spire.bundle_pem()})


def test_a_gateway_without_spire_takes_new_files_without_a_restart(new_gateway, spire, svid, upstream):
    """The demo's way: PEM in, and rewritten when the issuer rotates."""
    gate = new_gateway(spire, upstream, identity=read_identity(spire, svid(INTRUDER_UID)))
    files = svid(SIDECAR_UID)

    def shown() -> list[str]:
        with mtls_client(gate.api_port, SES_HOST, files, files["bundle"]) as stream:
            return peer_uri(stream)

    assert shown() == [spire.id(INTRUDER_PATH)]
    gate.set_identity(read_identity(spire, svid(gate.uid)))
    poll_until("the new SVID", lambda: shown() == [spire.id(GATEWAY_PATH)], timeout=5)


def test_a_name_that_does_not_resolve_is_503_no_healthy_upstream(new_gateway, spire, svid, upstream):
    nowhere = Upstream(SES_HOST, "nowhere.invalid", 443)
    gate = new_gateway(spire, upstream, api=[nowhere])
    files = svid(SIDECAR_UID)
    answer = ask(mtls_client(gate.api_port, SES_HOST, files, files["bundle"]))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.endswith(b"\r\n\r\nno healthy upstream")


def test_nothing_is_left_when_a_gateway_has_stopped(gate):
    pid = gate.process.pid
    gate.stop()
    with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/cmdline") as left:
        pytest.fail(f"process {pid} is still there: {left.read()}")
