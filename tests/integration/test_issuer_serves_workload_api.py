# SPDX-License-Identifier: Apache-2.0
"""The issuer is an honest Workload API until it is told otherwise, and dishonest exactly as told."""

import json
import pathlib
import signal
import subprocess
import sys
import threading

import grpc
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key
from support import certs, workload_api
from support import workload_messages as messages
from support.workload_api import (
    INVALID_ARGUMENT,
    OK,
    PERMISSION_DENIED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    Identity,
    Issuer,
)

HEADER = (("workload.spiffe.io", "true"),)
CHECKOUT = "spiffe://example.org/ns/shop/sa/checkout"


@pytest.fixture
def issuer(tmp_path):
    with Issuer(tmp_path / "agent.sock", identities=[CHECKOUT]) as one:
        yield one


class Client:
    """The five calls, by grpc's own client."""

    def __init__(self, socket):
        self.channel = grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost")])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def call(self, rpc, metadata=HEADER, **fields):
        request, response, streaming = messages.RPCS[rpc]
        make = self.channel.unary_stream if streaming else self.channel.unary_unary
        behaviour = make(
            f"/SpiffeWorkloadAPI/{rpc}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=messages.message_class(response).FromString,
        )
        return behaviour(messages.message_class(request)(**fields), metadata=metadata, timeout=20)

    def refusal(self, rpc, metadata=HEADER, **fields):
        with pytest.raises(grpc.RpcError) as problem:
            answer = self.call(rpc, metadata, **fields)
            next(iter(answer))
        return problem.value.code(), problem.value.details()


@pytest.fixture
def client(issuer):
    with Client(issuer.socket) as one:
        yield one


def ends_with(stream):
    with pytest.raises(grpc.RpcError) as problem:
        for _ in stream:
            pass
    return problem.value.code()


def test_the_first_message_holds_a_usable_svid(issuer, client):
    stream = client.call("FetchX509SVID")
    response = next(stream)
    [svid] = response.svids
    cert = x509.load_der_x509_certificate(svid.x509_svid)
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [svid.spiffe_id] == [CHECKOUT]
    assert load_der_private_key(svid.x509_svid_key, None).public_key() == cert.public_key()
    cert.verify_directly_issued_by(x509.load_der_x509_certificate(svid.bundle))


@pytest.mark.parametrize("metadata", [(), (("workload.spiffe.io", "false"),), HEADER + HEADER])
@pytest.mark.parametrize("rpc", sorted(messages.RPCS))
def test_the_security_header_is_asked_of_every_call(client, rpc, metadata):
    assert client.refusal(rpc, metadata) == (INVALID_ARGUMENT, "security header missing from request")


def test_calls_are_recorded_with_their_authority(issuer, client):
    next(client.call("FetchX509SVID"))
    [call] = issuer.wait_for_calls("FetchX509SVID", 1)
    assert call.authority == "localhost"
    assert ("workload.spiffe.io", "true") in call.metadata


def test_every_open_stream_gets_a_rotation(issuer, client):
    streams = [client.call("FetchX509SVID") for _ in range(3)]
    before = {next(stream).svids[0].x509_svid for stream in streams}
    issuer.wait_for_streams(3)
    issuer.rotate()
    after = {next(stream).svids[0].x509_svid for stream in streams}
    assert len(before) == len(after) == 1
    assert before != after


def test_a_push_repeats_the_same_message(issuer, client):
    stream = client.call("FetchX509SVID")
    first = next(stream)
    assert issuer.push() == 1
    assert next(stream) == first


def test_rotation_by_the_clock(tmp_path):
    told = threading.Semaphore(0)
    with Issuer(tmp_path / "s", identities=[CHECKOUT], rotate_every=0.02) as issuer, Client(issuer.socket) as client:
        issuer.on_rotate.append(told.release)
        stream = client.call("FetchX509SVID")
        assert len({next(stream).svids[0].x509_svid for _ in range(4)}) == 4
        assert told.acquire(timeout=5)


def test_several_svids_with_hints_and_foreign_bundles(tmp_path):
    other = certs.TrustDomain("other.example")
    identities = [Identity("/a", hint="mesh"), Identity("/b", hint="mesh", dns=["b.example"], ttl=60)]
    with (
        Issuer(tmp_path / "s", identities=identities, federated=[other]) as issuer,
        Client(issuer.socket) as client,
    ):
        stream = client.call("FetchX509SVID")
        response = next(stream)
        assert [(svid.spiffe_id, svid.hint) for svid in response.svids] == [
            ("spiffe://example.org/a", "mesh"),
            ("spiffe://example.org/b", "mesh"),
        ]
        assert dict(response.federated_bundles) == {"spiffe://other.example": other.bundle_der}
        issuer.set_federated({})
        assert dict(next(stream).federated_bundles) == {}


def test_identities_can_be_of_several_trust_domains(tmp_path):
    other = certs.TrustDomain("other.example")
    identities = ["/a", Identity("spiffe://other.example/a", trust_domain=other)]
    with Issuer(tmp_path / "s", identities=identities) as issuer, Client(issuer.socket) as client:
        assert [svid.bundle for svid in next(client.call("FetchX509SVID")).svids] == [
            issuer.domain.bundle_der,
            other.bundle_der,
        ]
        bundles = next(client.call("FetchX509Bundles")).bundles
        assert set(bundles) == {"spiffe://example.org", "spiffe://other.example"}


def test_an_svid_can_be_spoiled_in_the_certificate_and_in_the_message(tmp_path):
    identities = [
        Identity("/a", options={"ca": True}),
        Identity("/b", edit=lambda svid: setattr(svid, "x509_svid_key", b"rubbish")),
    ]
    with Issuer(tmp_path / "s", identities=identities) as issuer, Client(issuer.socket) as client:
        first, second = next(client.call("FetchX509SVID")).svids
        cert = x509.load_der_x509_certificate(first.x509_svid)
        assert cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert second.x509_svid_key == b"rubbish"


def test_any_message_and_any_bytes_can_be_served(issuer, client):
    stream = client.call("FetchX509SVID")
    next(stream)
    issuer.set_x509_response(messages.X509SVIDResponse())
    assert len(next(stream).svids) == 0
    issuer.set_x509_response(b"\xff\xff no protobuf")
    assert ends_with(stream) is grpc.StatusCode.INTERNAL
    issuer.set_x509_response(None)
    assert next(client.call("FetchX509SVID")).svids


@pytest.mark.parametrize("code", [PERMISSION_DENIED, UNAVAILABLE, workload_api.UNKNOWN, workload_api.CANCELLED])
def test_open_streams_end_with_a_status(issuer, client, code):
    stream = client.call("FetchX509SVID")
    next(stream)
    issuer.wait_for_streams(1)
    assert issuer.end_streams(code, "told so") == 1
    assert ends_with(stream) is code
    issuer.wait_for_streams(0)


def test_open_streams_end_in_good_order(issuer, client):
    stream = client.call("FetchX509SVID")
    next(stream)
    issuer.end_streams(OK)
    assert list(stream) == []
    assert stream.code() is OK


def test_taking_every_identity_away_is_a_redaction(issuer, client):
    stream = client.call("FetchX509SVID")
    next(stream)
    issuer.set_identities()
    assert ends_with(stream) is PERMISSION_DENIED
    assert client.refusal("FetchX509SVID") == (PERMISSION_DENIED, "no identity issued")
    assert client.refusal("FetchJWTSVID", audience=["a"])[0] is PERMISSION_DENIED
    issuer.set_identities("/new")
    assert next(client.call("FetchX509SVID")).svids[0].spiffe_id == "spiffe://example.org/new"


def test_failures_come_as_often_as_asked(issuer, client):
    issuer.fail("FetchX509SVID", UNAVAILABLE, "not yet", times=2)
    issuer.fail("FetchX509Bundles", UNIMPLEMENTED)
    assert client.refusal("FetchX509SVID") == (UNAVAILABLE, "not yet")
    assert client.refusal("FetchX509SVID") == (UNAVAILABLE, "not yet")
    assert next(client.call("FetchX509SVID")).svids
    for _ in range(3):
        assert client.refusal("FetchX509Bundles")[0] is UNIMPLEMENTED
    issuer.heal()
    assert next(client.call("FetchX509Bundles")).bundles


def test_a_failure_can_strike_open_streams_too(issuer, client):
    stream = client.call("FetchX509SVID")
    next(stream)
    issuer.fail("FetchX509SVID", UNAVAILABLE, "shedding", live=True)
    assert ends_with(stream) is UNAVAILABLE


@pytest.mark.parametrize("rpc", ["FetchX509SVID", "FetchJWTSVID"])
def test_a_stalled_call_is_taken_and_answered_later(issuer, client, rpc):
    issuer.stall(rpc)
    done = threading.Event()

    def ask():
        answer = client.call(rpc, **({"audience": ["a"]} if rpc == "FetchJWTSVID" else {}))
        assert (next(answer) if rpc == "FetchX509SVID" else answer).svids
        done.set()

    thread = threading.Thread(target=ask)
    thread.start()
    issuer.wait_for_calls(rpc, 1)
    assert not done.wait(0.1)
    issuer.heal(rpc)
    thread.join(5)
    assert done.is_set()


def test_a_client_that_gives_up_frees_its_stream(issuer, client):
    stream = client.call("FetchX509SVID")
    next(stream)
    issuer.wait_for_streams(1)
    stream.cancel()
    issuer.wait_for_streams(0)


def test_the_agent_stops_and_comes_back(issuer):
    with Client(issuer.socket) as client:
        stream = client.call("FetchX509SVID")
        next(stream)
        issuer.stop()
        assert ends_with(stream) is UNAVAILABLE
        assert not issuer.socket.exists()
    issuer.start()
    with Client(issuer.socket) as client:
        assert next(client.call("FetchX509SVID")).svids


def test_a_ca_rotation_reaches_bundles_and_svids(issuer, client):
    svids, bundles = client.call("FetchX509SVID"), client.call("FetchX509Bundles")
    old = next(svids).svids[0].bundle
    assert next(bundles).bundles["spiffe://example.org"] == old
    issuer.wait_for_streams(1, "FetchX509Bundles")
    issuer.rotate_ca()
    svid = next(svids).svids[0]
    assert svid.bundle.startswith(old)
    assert len(svid.bundle) > len(old)
    assert next(bundles).bundles["spiffe://example.org"] == svid.bundle
    issuer.rotate_ca(keep_old=False)
    cert = x509.load_der_x509_certificate((svid := next(svids).svids[0]).x509_svid)
    cert.verify_directly_issued_by(x509.load_der_x509_certificate(svid.bundle))


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_jwt_svids_are_signed_by_the_published_key(tmp_path, algorithm):
    with (
        Issuer(
            tmp_path / "s", identities=["/a", "/b"], jwt_algorithm=algorithm, jwt_issuer="https://oidc", jwt_ttl=60
        ) as issuer,
        Client(issuer.socket) as client,
    ):
        response = client.call("FetchJWTSVID", audience=["sts.amazonaws.com", "x"])
        assert [svid.spiffe_id for svid in response.svids] == ["spiffe://example.org/a", "spiffe://example.org/b"]
        [only] = client.call("FetchJWTSVID", audience=["x"], spiffe_id="spiffe://example.org/b").svids
        header = jwt.get_unverified_header(only.svid)
        assert (header["alg"], header["typ"]) == (algorithm, "JWT")
        key = jwt.PyJWKSet.from_dict(issuer.jwks())[header["kid"]]
        claims = jwt.decode(only.svid, key.key, [algorithm], audience="x", issuer="https://oidc")
        assert claims["sub"] == only.spiffe_id == "spiffe://example.org/b"
        assert claims["aud"] == ["x"]
        assert claims["exp"] - claims["iat"] == 60
        published = json.loads(next(client.call("FetchJWTBundles")).bundles["spiffe://example.org"])
        assert published == issuer.jwks()
        assert {key["use"] for key in published["keys"]} == {"jwt-svid"}


def test_jwt_requests_that_are_refused(client):
    assert client.refusal("FetchJWTSVID")[0] is INVALID_ARGUMENT
    assert client.refusal("FetchJWTSVID", audience=["a"], spiffe_id="checkout")[0] is INVALID_ARGUMENT
    assert client.refusal("FetchJWTSVID", audience=["a"], spiffe_id="spiffe://example.org/x")[0] is PERMISSION_DENIED


def test_tokens_can_be_half_lived_or_spoiled(issuer, client):
    issuer.jwt_age = 200
    issuer.jwt_edit = lambda claims, headers: claims.pop("sub")
    [svid] = client.call("FetchJWTSVID", audience=["a"]).svids
    claims = jwt.decode(svid.svid, options={"verify_signature": False})
    assert "sub" not in claims
    assert claims["exp"] - claims["iat"] == 300


def test_a_jwt_key_can_be_used_before_it_is_published(issuer, client):
    issuer.rotate_jwt_key(publish=False)
    [svid] = client.call("FetchJWTSVID", audience=["a"]).svids
    kid = jwt.get_unverified_header(svid.svid)["kid"]
    assert kid not in [key["kid"] for key in issuer.jwks()["keys"]]
    issuer.jwt.publish()
    assert kid in [key["kid"] for key in issuer.jwks()["keys"]]


def test_validation_judges_a_token(client):
    [svid] = client.call("FetchJWTSVID", audience=["a"]).svids
    answer = client.call("ValidateJWTSVID", audience="a", svid=svid.svid)
    assert (answer.spiffe_id, answer.claims["sub"]) == (CHECKOUT, CHECKOUT)
    assert client.refusal("ValidateJWTSVID", audience="b", svid=svid.svid)[0] is INVALID_ARGUMENT
    assert client.refusal("ValidateJWTSVID", audience="a", svid="x.y.z")[0] is INVALID_ARGUMENT


def test_a_stream_torn_in_the_middle_of_a_frame(tmp_path):
    with Issuer(tmp_path / "s", identities=["/a"], torn=True) as issuer, Client(issuer.socket) as client:
        stream = client.call("FetchX509SVID")
        next(stream)
        issuer.relay.cut_after(100)
        issuer.rotate()
        assert ends_with(stream) is UNAVAILABLE
        assert next(client.call("FetchX509SVID")).svids
        assert issuer.relay.accepted == 2


def test_a_connection_that_stalls_and_one_that_is_cut(tmp_path):
    with Issuer(tmp_path / "s", identities=["/a"], torn=True) as issuer, Client(issuer.socket) as client:
        stream = client.call("FetchX509SVID")
        next(stream)
        issuer.relay.stall()
        issuer.rotate()
        arrived = threading.Event()
        threading.Thread(target=lambda: (next(stream), arrived.set()), daemon=True).start()
        assert not arrived.wait(0.1)
        issuer.relay.resume()
        assert arrived.wait(5)
        issuer.relay.cut()
        assert ends_with(stream) is UNAVAILABLE


def test_it_runs_as_a_process(tmp_path):
    tests = pathlib.Path(__file__).resolve().parent.parent
    socket = tmp_path / "agent.sock"
    command = [sys.executable, "-m", "support.workload_api", "--socket", str(socket), "--spiffe-id", f"{CHECKOUT}=aws"]
    command += ["--ttl", "60", "--jwks-file", str(tmp_path / "jwks"), "--pem-dir", str(tmp_path / "gw")]
    with subprocess.Popen(command, cwd=tests, stdout=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["event"] == "listening"
        with Client(socket) as client:
            [svid] = next(client.call("FetchX509SVID")).svids
        assert (svid.spiffe_id, svid.hint) == (CHECKOUT, "aws")
        assert json.loads((tmp_path / "jwks").read_bytes())["keys"]
        gateway = x509.load_pem_x509_certificate((tmp_path / "gw" / "svid.pem").read_bytes())
        gateway.verify_directly_issued_by(x509.load_pem_x509_certificate((tmp_path / "gw" / "bundle.pem").read_bytes()))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert not socket.exists()
