# SPDX-License-Identifier: Apache-2.0
"""An issuer that speaks the SPIFFE Workload API, for what SPIRE cannot be made to do.

The tests run against real SPIRE. This stands in where a test needs an answer at an exact moment or an
answer that no honest agent gives (a torn stream, a malformed SVID, two hints alike), and in the demo,
where it saves a build of two minutes. It never checks who calls: everyone on the socket gets everything.

    with Issuer(tmp / "agent.sock", identities=[Identity("/ns/shop/sa/checkout")]) as issuer:
        issuer.rotate()                                   # new SVIDs, pushed to every open stream
        issuer.end_streams(PERMISSION_DENIED, "no identity issued")
        issuer.fail("FetchX509SVID", UNAVAILABLE, times=3)
        issuer.stall("FetchJWTSVID")

As a process: python3 -m support.workload_api --socket S --trust-domain example.org --spiffe-id ID --ttl 60
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

# The parent of Envoy and of the sidecar forks: gRPC's own fork handlers would only get in the way.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import jwt

from . import certs
from . import workload_messages as messages
from .jwt_authority import Edit, JwtAuthority
from .unix_relay import UnixRelay

OK = grpc.StatusCode.OK
CANCELLED = grpc.StatusCode.CANCELLED
UNKNOWN = grpc.StatusCode.UNKNOWN
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
INTERNAL = grpc.StatusCode.INTERNAL
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

STREAMS = ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles")
HEADER = "workload.spiffe.io"


@dataclass
class Identity:
    """One registration entry: what each caller of this issuer is given.

    A path alone gets the issuer's trust domain put before it. `options` go to Authority.issue (the
    certificate's defects), `edit(message)` spoils the X509SVID message itself, `authority` signs in
    place of the trust domain's own (a chain with intermediates, or a wrong one).
    """

    spiffe_id: str
    hint: str = ""
    ttl: float = 3600
    dns: Sequence[str] = ()
    trust_domain: certs.TrustDomain | None = None
    authority: certs.Authority | None = None
    options: dict[str, Any] = field(default_factory=dict)
    edit: Callable[[Any], None] | None = None


@dataclass(frozen=True)
class Call:
    """A call as it arrived; `at` is monotonic."""

    rpc: str
    at: float
    metadata: tuple[tuple[str, str], ...]
    request: Any
    authority: str


@dataclass
class _Failure:
    code: grpc.StatusCode
    details: str
    left: int | None


@dataclass(frozen=True)
class _End:
    code: grpc.StatusCode
    details: str


_CLOSED = object()


class Issuer:
    """The Workload API on a unix socket, with a hand on every answer."""

    def __init__(
        self,
        socket: str | os.PathLike[str],
        trust_domain: str | certs.TrustDomain = "example.org",
        *,
        identities: Sequence[Identity | str] = (),
        federated: Sequence[certs.TrustDomain] = (),
        jwt_ttl: float = 300,
        jwt_issuer: str = "",
        jwt_algorithm: str = "ES256",
        rotate_every: float = 0,
        torn: bool = False,
        start: bool = True,
    ) -> None:
        """`torn=True` puts a relay (`.relay`) before the socket, which can stall and cut mid-frame."""
        self.socket = pathlib.Path(socket)
        self.domain = certs.TrustDomain(trust_domain) if isinstance(trust_domain, str) else trust_domain
        self.jwt = JwtAuthority(jwt_algorithm, issuer=jwt_issuer)
        self.jwt_ttl = jwt_ttl
        self.jwt_age: float = 0
        self.jwt_edit: Edit | None = None
        self.edit_x509: Callable[[Any], None] | None = None
        self.on_rotate: list[Callable[[], None]] = []  # told after each rotation: who keeps SVIDs in files
        self.calls: list[Call] = []
        self.relay: UnixRelay | None = None
        self._torn = torn
        self._changed = threading.Condition(threading.RLock())
        self._identities = [self._identity(item) for item in identities]
        self._federated: dict[str, bytes] = {domain.id: domain.bundle_der for domain in federated}
        self._federated_jwks: dict[str, bytes] = {}
        self._svids: list[tuple[Identity, certs.Credential]] = []
        self._overrides: dict[str, Any] = {}
        self._failures: dict[str, _Failure] = {}
        self._stalled: set[str] = set()
        self._subscribers: dict[str, list[queue.SimpleQueue]] = {rpc: [] for rpc in STREAMS}
        self._server: grpc.Server | None = None
        self._rotate_every = rotate_every
        self._stopping = threading.Event()
        self._rotator: threading.Thread | None = None
        self._issue()
        if start:
            self.start()

    # --- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Issuer:
        if self._server is None:
            self.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """For `identity.endpoint`."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Binds the socket; after stop() too, as a restarted agent does."""
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        path = self.socket.with_name(self.socket.name + ".grpc") if self._torn else self.socket
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        # A stream holds a worker for as long as it is open.
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=256, thread_name_prefix="issuer"))
        handlers = {}
        for rpc, (request, _, streaming) in messages.RPCS.items():
            make = grpc.unary_stream_rpc_method_handler if streaming else grpc.unary_unary_rpc_method_handler
            behaviour = self._stream_behaviour(rpc) if streaming else self._unary_behaviour(rpc)
            handlers[rpc] = make(
                behaviour,
                request_deserializer=messages.message_class(request).FromString,
                response_serializer=lambda item: item if isinstance(item, bytes) else item.SerializeToString(),
            )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(messages.SERVICE, handlers),))
        server.add_insecure_port(f"unix:{path}")
        server.start()
        path.chmod(0o777)
        self._server = server
        self._stopping.clear()
        if self._torn:
            self.relay = UnixRelay(self.socket, path)
        if self._rotate_every > 0:
            self._rotator = threading.Thread(target=self._rotate_forever, name="issuer-rotation", daemon=True)
            self._rotator.start()

    def stop(self) -> None:
        """Breaks every stream and removes the socket, as a stopped agent does."""
        self._stopping.set()
        if self._rotator:
            self._rotator.join()
            self._rotator = None
        with self._changed:
            self._changed.notify_all()
        if self.relay:
            self.relay.close()
            self.relay = None
        if self._server:
            self._server.stop(None).wait(5)
            self._server = None
        for path in (self.socket, self.socket.with_name(self.socket.name + ".grpc")):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _rotate_forever(self) -> None:
        while not self._stopping.wait(self._rotate_every):
            self.rotate()

    # --- what is served --------------------------------------------------------------------------

    def _identity(self, item: Identity | str) -> Identity:
        identity = Identity(item) if isinstance(item, str) else item
        if identity.spiffe_id.startswith("/"):
            identity.spiffe_id = self.domain.id + identity.spiffe_id
        return identity

    def _issue(self) -> None:
        self._svids = []
        for identity in self._identities:
            signer = identity.authority or (identity.trust_domain or self.domain)
            options = {"ttl": identity.ttl, "dns": identity.dns, **identity.options}
            self._svids.append((identity, signer.issue(identity.spiffe_id, **options)))

    @property
    def svids(self) -> list[certs.Credential]:
        """What is being served now, in the order served."""
        with self._changed:
            return [svid for _, svid in self._svids]

    def set_identities(self, *identities: Identity | str, push: bool = True) -> None:
        """Replaces the entries; none at all ends the streams as SPIRE does, with PermissionDenied."""
        with self._changed:
            self._identities = [self._identity(item) for item in identities]
            self._issue()
        if not push:
            return
        if identities:
            self.push("FetchX509SVID")
        else:
            self.end_streams(PERMISSION_DENIED, "no identity issued", rpc="FetchX509SVID")

    def set_federated(self, bundles: dict[str, bytes] | Sequence[certs.TrustDomain], *, push: bool = True) -> None:
        """Foreign bundles: trust domains, or raw bytes by SPIFFE ID where they shall be malformed."""
        if not isinstance(bundles, dict):
            bundles = {domain.id: domain.bundle_der for domain in bundles}
        with self._changed:
            self._federated = dict(bundles)
        if push:
            self.push("FetchX509SVID")
            self.push("FetchX509Bundles")

    def set_response(self, rpc: str, response: Any | None, *, push: bool = True) -> None:
        """Serves this message (or these bytes, sent as they are) instead; None goes back to normal."""
        with self._changed:
            if response is None:
                self._overrides.pop(rpc, None)
            else:
                self._overrides[rpc] = response
        if push and rpc in STREAMS:
            self.push(rpc)

    def set_x509_response(self, response: Any | None, *, push: bool = True) -> None:
        self.set_response("FetchX509SVID", response, push=push)

    def rotate(self) -> None:
        """New certificates and keys for every identity, pushed to every open stream."""
        with self._changed:     # whoever registers in between would get the same twice
            self._issue()
            self.push("FetchX509SVID")
        for tell in self.on_rotate:
            tell()

    def rotate_ca(self, *, keep_old: bool = True) -> None:
        """A new CA, new SVIDs by it; `keep_old=False` takes the former one away at the same moment."""
        with self._changed:
            self.domain.rotate(keep_old=keep_old)
        self.rotate()
        self.push("FetchX509Bundles")

    def rotate_jwt_key(self, *, keep_old: bool = True, publish: bool = True) -> None:
        with self._changed:
            self.jwt.rotate(keep_old=keep_old, publish=publish)
        self.push("FetchJWTBundles")

    def jwks(self) -> dict[str, Any]:
        """The published JWT keys: what FakeAws(jwks=issuer.jwks) asks at each call."""
        with self._changed:
            return self.jwt.jwks()

    # --- faults and moments ----------------------------------------------------------------------

    def push(self, rpc: str = "FetchX509SVID", response: Any | None = None) -> int:
        """Sends to every open stream now, changed or not; returns how many there were."""
        with self._changed:
            subscribers = list(self._subscribers[rpc])
            if subscribers:
                item = self._response(rpc) if response is None else response
                for subscriber in subscribers:
                    subscriber.put(item)
        return len(subscribers)

    def end_streams(self, code: grpc.StatusCode = OK, details: str = "", *, rpc: str | None = None) -> int:
        """Ends the open streams with this status; OK is the clean end of a stopping agent."""
        count = 0
        with self._changed:
            for name in [rpc] if rpc else STREAMS:
                for subscriber in self._subscribers[name]:
                    subscriber.put(_End(code, details))
                    count += 1
        return count

    def fail(
        self,
        rpc: str,
        code: grpc.StatusCode,
        details: str = "",
        *,
        times: int | None = None,
        live: bool = False,
    ) -> None:
        """The next `times` calls (None: all, until heal) get this status; `live` ends open streams with it too."""
        with self._changed:
            self._failures[rpc] = _Failure(code, details or code.name.lower().replace("_", " "), times)
        if live and rpc in STREAMS:
            self.end_streams(code, details, rpc=rpc)

    def heal(self, rpc: str | None = None) -> None:
        """Takes back fail and stall; stalled calls go on."""
        with self._changed:
            for name in [rpc] if rpc else list(messages.RPCS):
                self._failures.pop(name, None)
                self._stalled.discard(name)
            self._changed.notify_all()

    def stall(self, rpc: str) -> None:
        """Calls are taken and not answered until heal: an entry without an SVID yet, or an agent that hangs."""
        with self._changed:
            self._stalled.add(rpc)

    def open_streams(self, rpc: str = "FetchX509SVID") -> int:
        with self._changed:
            return len(self._subscribers[rpc])

    def calls_of(self, rpc: str) -> list[Call]:
        with self._changed:
            return [call for call in self.calls if call.rpc == rpc]

    def wait_for_calls(self, rpc: str, count: int, timeout: float = 10) -> list[Call]:
        """Waits for the count-th call of this rpc since the start."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.calls_of(rpc)) >= count, timeout):
                raise TimeoutError(f"{rpc}: {len(self.calls_of(rpc))} calls, not {count}, after {timeout} s")
            return self.calls_of(rpc)

    def wait_for_streams(self, count: int = 1, rpc: str = "FetchX509SVID", timeout: float = 10) -> None:
        """Waits until exactly this many streams of this rpc are open."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._subscribers[rpc]) == count, timeout):
                raise TimeoutError(f"{rpc}: {self.open_streams(rpc)} streams, not {count}, after {timeout} s")

    # --- answers ---------------------------------------------------------------------------------

    def x509_response(self) -> Any:
        """The X509SVIDResponse an honest agent would send now; a test spoils a copy of it."""
        with self._changed:
            response = messages.X509SVIDResponse()
            for identity, svid in self._svids:
                message = response.svids.add(
                    spiffe_id=identity.spiffe_id,
                    x509_svid=svid.chain_der,
                    x509_svid_key=svid.key_der,
                    bundle=(identity.trust_domain or self.domain).bundle_der,
                    hint=identity.hint,
                )
                if identity.edit:
                    identity.edit(message)
            for name, bundle in self._federated.items():
                response.federated_bundles[name] = bundle
            if self.edit_x509:
                self.edit_x509(response)
            return response

    def _response(self, rpc: str) -> Any:
        if rpc in self._overrides:
            return self._overrides[rpc]
        if rpc == "FetchX509SVID":
            return self.x509_response()
        domains = {domain.id: domain for domain in self._domains()}
        if rpc == "FetchX509Bundles":
            bundles = {name: domain.bundle_der for name, domain in domains.items()}
            return messages.X509BundlesResponse(bundles={**self._federated, **bundles})
        jwks = json.dumps(self.jwt.jwks()).encode()
        return messages.JWTBundlesResponse(bundles={**self._federated_jwks, self.domain.id: jwks})

    def _domains(self) -> list[certs.TrustDomain]:
        return [
            self.domain,
            *(identity.trust_domain for identity in self._identities if identity.trust_domain),
        ]

    def _admit(self, rpc: str, request: Any, context: grpc.ServicerContext) -> None:
        """Records the call and applies what every rpc shares: the header, ordered failures, stalls."""
        metadata = tuple((key, value) for key, value in context.invocation_metadata())
        # Python's API hides the :authority, which clients get wrong on unix sockets; a test wants to see it.
        authority = context._rpc_event.call_details.host.decode()
        with self._changed:
            self.calls.append(Call(rpc, time.monotonic(), metadata, request, authority))
            self._changed.notify_all()
            failure = self._failures.get(rpc)
            if failure and failure.left is not None:
                failure.left -= 1
                if failure.left <= 0:
                    del self._failures[rpc]
        if [value for key, value in metadata if key == HEADER] != ["true"]:
            context.abort(INVALID_ARGUMENT, "security header missing from request")
        if failure:
            context.abort(failure.code, failure.details)
        context.add_callback(self._wake)
        with self._changed:
            self._changed.wait_for(
                lambda: rpc not in self._stalled or self._stopping.is_set() or not context.is_active()
            )

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _stream_behaviour(self, rpc: str) -> Callable[[Any, grpc.ServicerContext], Iterator[Any]]:
        def behaviour(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            self._admit(rpc, request, context)
            mailbox: queue.SimpleQueue = queue.SimpleQueue()
            with self._changed:
                if rpc == "FetchX509SVID" and not self._identities and rpc not in self._overrides:
                    nothing = True
                else:
                    nothing = False
                    mailbox.put(self._response(rpc))
                    self._subscribers[rpc].append(mailbox)
                    self._changed.notify_all()
            if nothing:
                context.abort(PERMISSION_DENIED, "no identity issued")
            if not context.add_callback(lambda: mailbox.put(_CLOSED)):
                mailbox.put(_CLOSED)
            try:
                while (item := mailbox.get()) is not _CLOSED:
                    if not isinstance(item, _End):
                        yield item
                    elif item.code is OK:
                        return
                    else:
                        context.abort(item.code, item.details)
            finally:
                with self._changed:
                    self._subscribers[rpc].remove(mailbox)
                    self._changed.notify_all()

        return behaviour

    def _unary_behaviour(self, rpc: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        def behaviour(request: Any, context: grpc.ServicerContext) -> Any:
            self._admit(rpc, request, context)
            with self._changed:
                override = self._overrides.get(rpc)
            if override is not None:
                return override
            return self._fetch_jwt(request, context) if rpc == "FetchJWTSVID" else self._validate(request, context)

        return behaviour

    def _fetch_jwt(self, request: Any, context: grpc.ServicerContext) -> Any:
        if not request.audience:
            context.abort(INVALID_ARGUMENT, "audience must be specified")
        if request.spiffe_id and not request.spiffe_id.startswith("spiffe://"):
            context.abort(INVALID_ARGUMENT, "invalid requested SPIFFE ID: scheme is missing or invalid")
        with self._changed:
            wanted = [i for i in self._identities if request.spiffe_id in ("", i.spiffe_id)]
            response = messages.JWTSVIDResponse()
            for identity in wanted:
                token = self.jwt.sign(
                    identity.spiffe_id,
                    list(request.audience),
                    ttl=self.jwt_ttl,
                    age=self.jwt_age,
                    edit=self.jwt_edit,
                )
                response.svids.add(spiffe_id=identity.spiffe_id, svid=token, hint=identity.hint)
        if not wanted:
            context.abort(PERMISSION_DENIED, "no identity issued")
        return response

    def _validate(self, request: Any, context: grpc.ServicerContext) -> Any:
        if not request.audience or not request.svid:
            context.abort(INVALID_ARGUMENT, "audience and svid must be specified")
        try:
            key = jwt.PyJWKSet.from_dict(self.jwks())[jwt.get_unverified_header(request.svid)["kid"]]
            claims = jwt.decode(request.svid, key.key, [self.jwt.algorithm], audience=request.audience)
        except (jwt.PyJWTError, KeyError) as problem:
            context.abort(INVALID_ARGUMENT, str(problem))
        response = messages.ValidateJWTSVIDResponse(spiffe_id=claims["sub"])
        response.claims.update(claims)
        return response


def write_pem(issuer: Issuer, directory: str | os.PathLike[str], spiffe_id: str, ttl: float) -> None:
    """svid.pem, svid.key and bundle.pem of one more identity: for a gateway that reads files."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    certs.write_private(directory / "bundle.pem", issuer.domain.bundle_pem, 0o644)
    issuer.domain.issue(spiffe_id, ttl=ttl).write(directory)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="workload_api", description="a Workload API issuer for trials")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--trust-domain", default="example.org")
    parser.add_argument("--spiffe-id", action="append", required=True, metavar="ID[=HINT]")
    parser.add_argument("--ttl", type=float, default=3600, help="life of an X.509-SVID, in seconds")
    parser.add_argument("--rotate-every", type=float, default=None, help="default: half the ttl; 0: never")
    parser.add_argument("--jwt-ttl", type=float, default=300)
    parser.add_argument("--jwt-issuer", default="")
    parser.add_argument("--jwt-algorithm", default="ES256", choices=["ES256", "ES384", "RS256"])
    parser.add_argument("--jwks-file", help="keep the published JWT keys in this file")
    parser.add_argument("--pem-dir", help="keep svid.pem, svid.key and bundle.pem of --pem-id here")
    parser.add_argument("--pem-id", default="/ns/mail-egress/sa/mail-egress")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGINT or SIGTERM; prints one line once the socket answers."""
    options = _parse(arguments)
    identities = []
    for item in options.spiffe_id:
        spiffe_id, _, hint = item.partition("=")
        identities.append(Identity(spiffe_id, hint=hint, ttl=options.ttl))
    issuer = Issuer(
        options.socket,
        options.trust_domain,
        identities=identities,
        jwt_ttl=options.jwt_ttl,
        jwt_issuer=options.jwt_issuer,
        jwt_algorithm=options.jwt_algorithm,
        rotate_every=options.ttl / 2 if options.rotate_every is None else options.rotate_every,
        start=False,
    )
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    if options.jwks_file:
        certs.write_private(options.jwks_file, json.dumps(issuer.jwks()).encode(), 0o644)
    if options.pem_dir:
        issuer.on_rotate.append(lambda: write_pem(issuer, options.pem_dir, options.pem_id, options.ttl))
        issuer.on_rotate[0]()
    with issuer:
        print(json.dumps({"event": "listening", "socket": options.socket}), flush=True)
        signal.sigwait(signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
