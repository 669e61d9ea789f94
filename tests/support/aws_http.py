# SPDX-License-Identifier: Apache-2.0
"""The front door of the fake AWS: HTTP/1.1 over TLS, strict in what it takes, rude on demand.

Written by hand rather than on http.server: a test wants the headers as they came, in order and with
repeats, the SNI, the handshakes counted, and answers cut at any byte.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import re
import socket
import ssl
import struct
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
KEPT_BODY_BYTES = 1024 * 1024
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_REASONS = {
    200: "OK",
    301: "Moved Permanently",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    413: "Request Entity Too Large",
    417: "Expectation Failed",
    421: "Misdirected Request",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


@dataclass
class Connection:
    """One TLS connection that finished its handshake."""

    number: int
    peer: tuple[str, int]
    sni: str
    tls_version: str
    cipher: str
    resumed: bool
    opened_at: float
    requests: int = 0


@dataclass
class Request:
    """A request as it came in, and what became of it."""

    number: int
    connection: Connection
    at: float
    method: str
    target: str
    headers: list[tuple[str, str]]
    host: str = ""
    body: bytes = b""  # dropped from the record when large; the length and the hash stay
    body_length: int = 0
    body_sha256: str = ""
    complete: bool = False
    service: str = ""
    request_id: str = ""
    status: int = 0  # 0: no answer was sent
    error: str = ""
    message: str = ""
    fault: str = ""
    access_key_id: str = ""
    principal: str = ""
    signature_verified: bool = False
    message_id: str = ""
    debug: dict[str, str] = field(default_factory=dict)
    answered_at: float = 0

    def header(self, name: str) -> str | None:
        """The first value of that name; None if there is none."""
        return next(iter(self.header_values(name)), None)

    def header_values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header_names(self) -> list[str]:
        return [key.lower() for key, _ in self.headers]


@dataclass
class Response:
    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)
    close: bool = False


class Refusal(Exception):
    """An error answer, by AWS's own name for it."""

    def __init__(self, status: int, error: str, message: str, *, close: bool = False) -> None:
        super().__init__(f"{status} {error}: {message}")
        self.status = status
        self.error = error
        self.message = message
        self.close = close


@dataclass
class Fault:
    """What goes wrong with one request.

    `accept` says whether the request is carried out first (the mail counts as taken). By default it is
    when only the answer suffers (cut, delay, hang, trickle), and is not when the answer is an error.
    `cut`: before-body, before-answer, mid-head, mid-answer, after-answer.  `rst`: by RST, not by FIN.
    `early`: the answer is sent before the body is read.  `read_rate`: the body is read at bytes/second.
    `error_in`: header, __type or code: where the error's name stands.  `until`: the answer waits for it.
    """

    name: str = ""
    service: str = ""
    status: int = 0
    error: str = ""
    message: str = ""
    error_in: str = "header"
    body: bytes | None = None
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0
    until: threading.Event | None = None
    cut: str = ""
    rst: bool = False
    hang: bool = False
    trickle: float = 0
    early: bool = False
    read_rate: float = 0
    request_id: bool = True
    accept: bool | None = None
    times: int = 1
    skip: int = 0

    @property
    def is_accepting(self) -> bool:
        if self.accept is not None:
            return self.accept
        return not self.status and self.body is None and self.cut != "before-body" and not self.early


class _Closed(Exception):
    """The client ended the connection, or we did."""


class _Reader:
    """Buffered reading of one TLS connection."""

    def __init__(self, stream: ssl.SSLSocket) -> None:
        self.stream = stream
        self.buffer = bytearray()

    def head(self) -> bytes:
        """The request line and headers, without the empty line."""
        scanned = 0
        while (end := self.buffer.find(b"\r\n\r\n", scanned)) < 0:
            scanned = max(0, len(self.buffer) - 3)
            if scanned > MAX_HEAD_BYTES:
                break
            data = self.stream.recv(65536)
            if not data:
                raise _Closed
            self.buffer += data
        if not 0 <= end <= MAX_HEAD_BYTES:
            raise Refusal(400, "MalformedHttpRequestException", "headers too large", close=True)
        head = bytes(self.buffer[:end])
        del self.buffer[: end + 4]
        return head

    def body(self, length: int, wait: Callable[[float], bool], rate: float = 0) -> bytes:
        out = bytearray(length)
        have = min(length, len(self.buffer))
        out[:have] = self.buffer[:have]
        del self.buffer[:have]
        view = memoryview(out)
        while have < length:
            if rate:
                step = min(length - have, 16384)
                if wait(step / rate):
                    raise _Closed
            else:
                step = min(length - have, 1 << 20)
            got = self.stream.recv_into(view[have : have + step], step)
            if not got:
                raise _Closed
            have += got
        return bytes(out)


def parse_head(head: bytes) -> tuple[str, str, list[tuple[str, str]]]:
    """Method, target and headers; everything a lenient server forgives is refused here."""

    def refuse(why: str) -> Refusal:
        return Refusal(400, "MalformedHttpRequestException", why, close=True)

    lines = head.split(b"\r\n")
    parts = lines[0].split(b" ")
    if len(parts) != 3 or parts[2] != b"HTTP/1.1":
        raise refuse("not an HTTP/1.1 request line")
    if not _TOKEN.match(parts[0]) or not parts[1].startswith(b"/"):
        raise refuse("method or target is malformed")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.match(name):
            raise refuse(f"malformed header line {line[:60]!r}")
        if re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise refuse(f"control character in header {name.decode()}")
        headers.append((name.decode("ascii"), value.strip(b" \t").decode("latin-1")))
    return parts[0].decode("ascii"), parts[1].decode("latin-1"), headers


class HttpServer:
    """Accepts, records, and asks `handle(request) -> Response`; one thread per connection."""

    def __init__(self, contexts: dict[str, ssl.SSLContext], *, address: str = "127.0.0.1", port: int = 0) -> None:
        self.contexts = contexts
        self.address = address
        self.port = port
        self.changed = threading.Condition(threading.RLock())
        self.connections: list[Connection] = []
        self.failed_handshakes: list[str] = []
        self.requests: list[Request] = []
        self.request_count = 0
        self.dialled = 0  # TCP connections, whatever became of them
        self.refuse_unknown_sni = True
        self.clock: Callable[[], float] = time.time
        self.idle_timeout: float | None = None
        self.faults: list[Fault] = []
        self.quick = False
        self._streams: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._released = threading.Event()
        self._cuts = 0
        self._sni: dict[int, str] = {}

    # Told by the subclass.
    def service_of(self, request: Request) -> str:
        raise NotImplementedError

    def handle(self, request: Request) -> Response:
        raise NotImplementedError

    def handle_quick(self, head: bytes, body: bytes) -> bytes:
        raise NotImplementedError

    def error_response(self, request: Request, refusal: Refusal, error_in: str = "header") -> Response:
        raise NotImplementedError

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listens; after stop() again on the same port, as a service that comes back."""
        self._released = threading.Event()
        for context in self.contexts.values():
            context.sni_callback = self._choose_context
        self._listener = socket.create_server((self.address, self.port), backlog=256)
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), name="aws", daemon=True).start()

    def stop(self) -> None:
        """Closes the port and cuts every connection."""
        self._released.set()
        if self._listener:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.cut_connections()

    def cut_connections(self) -> int:
        """Ends every open connection, as a load balancer does that is taken out of service."""
        with self.changed:
            self._cuts += 1
            streams = list(self._streams)
        for stream in streams:
            # Not SSLSocket.shutdown: that takes the TLS state from under the thread that reads.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(stream, socket.SHUT_RDWR)
        return len(streams)

    def release(self) -> None:
        """Lets go every request that has its fault (one that hangs gets no answer); what comes later is not meant."""
        with self.changed:
            held, self._released = self._released, threading.Event()
        held.set()

    @property
    def open_connections(self) -> int:
        with self.changed:
            return len(self._streams)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                stream, peer = listener.accept()
            except OSError:
                return
            with self.changed:
                self.dialled += 1
            threading.Thread(target=self._serve, args=(stream, peer), name="aws-connection", daemon=True).start()

    def _choose_context(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        self._sni[threading.get_ident()] = name or ""
        context = self.contexts.get(name or "")
        if context is not None:
            tls.context = context
        elif self.refuse_unknown_sni:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        return None

    def _serve(self, plain: socket.socket, peer: tuple[str, int]) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(30)
        first = next(iter(self.contexts.values()))
        me = threading.get_ident()
        self._sni[me] = ""
        stream: socket.socket = plain
        with self.changed:
            self._streams.add(plain)
            cuts = self._cuts
        try:
            tls = first.wrap_socket(plain, server_side=True)
            stream = tls
            with self.changed:
                self._streams.discard(plain)
                self._streams.add(tls)
                if self._cuts != cuts:  # within the handshake nobody but it has the socket
                    raise _Closed
                connection = Connection(
                    len(self.connections) + 1,
                    peer,
                    self._sni[me],
                    tls.version() or "",
                    (tls.cipher() or ("",))[0],
                    bool(tls.session_reused),
                    time.monotonic(),
                )
                self.connections.append(connection)
                self.changed.notify_all()
            tls.settimeout(self.idle_timeout)
            self._requests(tls, connection)
        except (_Closed, OSError) as problem:
            if stream is plain:
                with self.changed:
                    self.failed_handshakes.append(f"sni={self._sni[me]!r}: {problem}")
                    self.changed.notify_all()
        finally:
            self._sni.pop(me, None)
            with self.changed:
                self._streams.discard(plain)
                self._streams.discard(stream)
                self.changed.notify_all()
            stream.close()

    # --- requests --------------------------------------------------------------------------------

    def _requests(self, tls: ssl.SSLSocket, connection: Connection) -> None:
        reader = _Reader(tls)
        while True:
            if self.quick:
                self._one_quick(reader, connection)
            else:
                self._one(reader, connection)

    def _one_quick(self, reader: _Reader, connection: Connection) -> None:
        """As little work as an answer takes: for benchmarks of what stands before it."""
        head = reader.head()
        match = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        body = reader.body(int(match.group(1)) if match else 0, self._released.wait)
        connection.requests += 1
        with self.changed:
            self.request_count += 1
        reader.stream.sendall(self.handle_quick(head, body))

    def _one(self, reader: _Reader, connection: Connection) -> None:
        request, refusal = self._begin(reader, connection)
        fault, released = self._take_fault(request.service)
        if fault:
            request.fault = fault.name or fault.cut or fault.error or "fault"
        if fault and fault.cut == "before-body":
            self._end(reader.stream, fault)
        body = b""
        if refusal is None and not (fault and fault.early):
            length, refusal = self._length(request)
            if refusal is None:
                body = reader.body(length, released.wait, fault.read_rate if fault else 0)
        response = self._respond(request, body, fault, refusal)
        self._send(reader.stream, request, response, fault, released)
        if response.close:
            # Whoever still sends a body would get a reset, and with it lose the answer: read a little of it.
            with contextlib.suppress(OSError):
                reader.stream.settimeout(0.2)
                while reader.stream.recv(65536):
                    pass
            raise _Closed

    def _begin(self, reader: _Reader, connection: Connection) -> tuple[Request, Refusal | None]:
        request = Request(0, connection, time.monotonic(), "", "", [])
        refusal = None
        try:
            request.method, request.target, request.headers = parse_head(reader.head())
            hosts = request.header_values("host")
            if len(hosts) != 1:
                raise Refusal(400, "MalformedHttpRequestException", "not exactly one Host header", close=True)
            request.host = hosts[0].rpartition(":")[0] if re.search(r":\d+\Z", hosts[0]) else hosts[0]
            if request.host != connection.sni:
                raise Refusal(
                    421, "MisdirectedRequest", f"Host {request.host} came by SNI {connection.sni}", close=True
                )
            if request.header("expect") is not None:
                raise Refusal(417, "ExpectationFailed", "Expect is not taken here", close=True)
            if request.header("transfer-encoding") is not None:
                raise Refusal(411, "MissingContentLength", "You must provide the Content-Length header", close=True)
        except Refusal as problem:
            refusal = problem
        request.service = self.service_of(request)
        request.request_id = str(uuid.uuid4())
        with self.changed:
            self.request_count += 1
            connection.requests += 1
            request.number = self.request_count
            self.requests.append(request)
            self.changed.notify_all()
        return request, refusal

    def _length(self, request: Request) -> tuple[int, Refusal | None]:
        values = request.header_values("content-length")
        if not values:
            if request.method in ("GET", "HEAD", "DELETE"):
                return 0, None
            return 0, Refusal(411, "MissingContentLength", "You must provide the Content-Length header", close=True)
        if len(values) > 1 or not re.fullmatch(r"\d{1,12}", values[0]):
            return 0, Refusal(400, "MalformedHttpRequestException", "malformed Content-Length", close=True)
        if int(values[0]) > MAX_BODY_BYTES:
            return 0, Refusal(413, "RequestEntityTooLarge", "Request entity too large", close=True)
        return int(values[0]), None

    def _take_fault(self, service: str) -> tuple[Fault | None, threading.Event]:
        """What goes wrong, and what lets it go: release() means the requests that have their fault by then."""
        with self.changed:
            for fault in self.faults:
                if fault.service not in ("", service):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return fault, self._released
            return None, self._released

    def _respond(self, request: Request, body: bytes, fault: Fault | None, refusal: Refusal | None) -> Response:
        request.complete = refusal is None
        request.body_length = len(body)
        request.body_sha256 = hashlib.sha256(body).hexdigest()
        request.body = body
        response = None
        if refusal is None and (fault is None or fault.is_accepting):
            try:
                response = self.handle(request)
            except Refusal as problem:
                refusal = problem
        if len(body) > KEPT_BODY_BYTES:
            request.body = b""
        if refusal is not None:
            request.error, request.message = refusal.error, refusal.message
            response = self.error_response(request, refusal)
            response.close = response.close or refusal.close
        if fault:
            response = self._spoil(request, response, fault)
        assert response is not None
        with self.changed:
            request.status = response.status
            self.changed.notify_all()
        return response

    def _spoil(self, request: Request, response: Response | None, fault: Fault) -> Response:
        """The answer the fault wants instead of the true one."""
        if fault.body is not None:
            response = Response(fault.status or 200, fault.body, fault.content_type or "application/json")
        elif fault.status:
            request.error, request.message = fault.error, fault.message
            refusal = Refusal(fault.status, fault.error, fault.message)
            response = self.error_response(request, refusal, fault.error_in)
            if fault.content_type:
                response.content_type = fault.content_type
        elif response is None:
            response = Response(200)
        response.headers.extend(fault.headers)
        response.close = response.close or fault.early
        return response

    def _send(
        self,
        stream: ssl.SSLSocket,
        request: Request,
        response: Response,
        fault: Fault | None,
        released: threading.Event,
    ) -> None:
        if fault and fault.delay and released.wait(fault.delay):
            raise _Closed
        if fault and fault.until:
            fault.until.wait(60)
        if fault and fault.hang:
            self._unanswered(request)
            released.wait()
            self._end(stream, fault)
        if fault and fault.cut == "before-answer":
            self._unanswered(request)
            self._end(stream, fault)
        head = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Status')}"]
        head.append(f"Date: {email.utils.formatdate(self.clock(), usegmt=True)}")
        if not fault or fault.request_id:
            head.append(f"x-amzn-RequestId: {request.request_id}")
        if response.content_type:
            head.append(f"Content-Type: {response.content_type}")
        head += [f"{name}: {value}" for name, value in response.headers]
        head.append(f"Content-Length: {len(response.body)}")
        head.append(f"Connection: {'close' if response.close else 'keep-alive'}")
        lines = "\r\n".join(head).encode("latin-1") + b"\r\n\r\n"
        data = lines + response.body
        if fault and fault.cut in ("mid-head", "mid-answer"):
            stream.sendall(data[: len(lines) // 2 if fault.cut == "mid-head" else len(lines) + len(response.body) // 2])
            self._unanswered(request)
            self._end(stream, fault)
        if fault and fault.trickle:
            for byte in data:
                stream.sendall(bytes([byte]))
                if released.wait(fault.trickle):
                    raise _Closed
        else:
            stream.sendall(data)
        request.answered_at = time.monotonic()
        if fault and fault.cut == "after-answer":
            self._end(stream, fault)

    def _unanswered(self, request: Request) -> None:
        with self.changed:
            request.status = 0
            self.changed.notify_all()

    def _end(self, stream: ssl.SSLSocket, fault: Fault) -> None:
        """Ends without a close_notify, as a crash does; by RST if asked."""
        if fault.rst:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _Closed

    # --- waiting ---------------------------------------------------------------------------------

    def _wait(self, what: str, count: Callable[[], int], wanted: int, timeout: float) -> Any:
        with self.changed:
            if not self.changed.wait_for(lambda: count() >= wanted, timeout):
                raise TimeoutError(f"{count()} {what}, not {wanted}, after {timeout} s")
