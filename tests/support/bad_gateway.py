# SPDX-License-Identifier: Apache-2.0
"""A gateway for what Envoy cannot be made to do: broken handshakes, wrong SVIDs, answers that are none.

    gateway = BadGateway(aws, domain.certificates)
    gateway.behave(answer_then(b"HTTP/1.1 200 OK\r\n..."))     # on api_port, from the next connection on
    gateway.heal()                                             # a plain relay again

A behaviour is a function of (gateway, plain socket) in a thread of its own.  end_to_end_port always relays.
"""

import contextlib
import select
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable

from . import certs, ports
from .world import GATEWAY_PATH, SES_HOST


class BadGateway:
    """Two ports as Gateway has them; of the api port: .accepted and .closed connections, .requests that were whole."""

    def __init__(self, aws, domain: certs.TrustDomain):
        self.domain = domain
        self.aws = aws
        self.host = "127.0.0.1"
        self.accepted = self.closed = 0
        self.requests: list[bytes] = []
        self.api_port, self.end_to_end_port, self.smtp_port = (ports.free_port() for _ in range(3))
        self._behaviour: Callable = relay_api
        self._open: dict[int, socket.socket] = {}  # by the thread that serves it
        self._lock = threading.Lock()
        self._good = self.context()
        self._listeners = [self._listen(self.api_port, self._serve_api),
                           self._listen(self.end_to_end_port, relay_bytes)]

    def _listen(self, port: int, serve: Callable) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener, serve), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket, serve: Callable) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._run, args=(serve, connection), daemon=True).start()

    def _run(self, serve: Callable, connection: socket.socket) -> None:
        with self._lock:
            self._open[threading.get_ident()] = connection
        with contextlib.suppress(OSError, ValueError):
            serve(self, connection)
        with self._lock:
            last = self._open.pop(threading.get_ident())
        with contextlib.suppress(OSError):
            last.close()
        with self._lock:
            self.closed += serve == self._serve_api

    @staticmethod
    def _serve_api(self: "BadGateway", connection: socket.socket) -> None:
        with self._lock:
            self.accepted += 1
        self._behaviour(self, connection)

    def stop(self) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._cut_all()

    def behave(self, behaviour: Callable) -> None:
        self._behaviour = behaviour

    def heal(self) -> None:
        """A relay again; what is open has ended."""
        self._behaviour = relay_api
        self._cut_all()

    def _cut_all(self) -> None:
        with self._lock:
            rest = list(self._open.values())
        for connection in rest:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def context(self, *, domain: certs.TrustDomain | None = None, asks: bool = True,
                at_most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, **defects) -> ssl.SSLContext:
        """A server's side with the gateway's SVID, by default an honest one; defects go to Authority.issue()."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = at_most
        context.set_alpn_protocols(["http/1.1"])
        with tempfile.TemporaryDirectory() as directory:
            cert, key = (domain or self.domain).issue(GATEWAY_PATH, **defects).write(directory)
            context.load_cert_chain(cert, key)
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self.domain.bundle_pem.decode())
        return context

    def handshake(self, connection: socket.socket, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        with self._lock:
            stream = (context or self._good).wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            self._open[threading.get_ident()] = stream
        stream.do_handshake()
        return stream

    def read_request(self, stream: ssl.SSLSocket) -> bytes:
        """One whole request; one that ends within its body is none: nobody can have taken it."""
        data = read_head(stream)
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))[15:])
        while len(body) < length:
            more = stream.recv(65536)
            if not more:
                raise OSError("the client has gone within the body")
            body += more
        with self._lock:
            self.requests.append(head + b"\r\n\r\n" + body)
        return body


def read_head(stream: ssl.SSLSocket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = stream.recv(65536)
        if not more:
            raise OSError("the client has gone")
        data += more
    return data


# --- good behaviour


def relay_api(gateway: BadGateway, connection: socket.socket) -> None:
    stream = gateway.handshake(connection)
    context = ssl.create_default_context(cafile=str(gateway.aws.ca_file))
    plain = socket.create_connection(("127.0.0.1", gateway.aws.port))
    with context.wrap_socket(plain, server_hostname=SES_HOST) as far:
        _pump(stream, far)


def relay_bytes(gateway: BadGateway, connection: socket.socket) -> None:
    stream = gateway.handshake(connection)
    with socket.create_connection(("127.0.0.1", gateway.aws.port)) as far:
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _pump(stream, far)


def _readable(*ends: socket.socket) -> list[socket.socket]:
    """Those that can be read, waited for.  By poll, for select knows no descriptor beyond 1,023."""
    waiting = select.poll()
    for end in ends:
        waiting.register(end, select.POLLIN)
    ready = {descriptor for descriptor, _ in waiting.poll()}
    return [end for end in ends if end.fileno() in ready]


def _pump(one: socket.socket, other: socket.socket) -> None:
    """Bytes both ways in one thread (an SSL object bears no two), until either end is over."""
    while True:
        ready = [end for end in (one, other) if isinstance(end, ssl.SSLSocket) and end.pending()]
        for end in ready or _readable(one, other):
            end.settimeout(0)
            try:
                data = end.recv(65536)
            except (ssl.SSLWantReadError, BlockingIOError):
                continue  # a record without data, as a session ticket is
            finally:
                end.settimeout(30)
            if not data:
                return
            (other if end is one else one).sendall(data)


# --- bad behaviours: before TLS


def say_nothing(gateway: BadGateway, connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def reset(connection: socket.socket) -> None:
    """The next close is an RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_on_hello(gateway: BadGateway, connection: socket.socket) -> None:
    connection.recv(65536)
    reset(connection)


def close_on_hello(gateway: BadGateway, connection: socket.socket) -> None:
    connection.recv(65536)


def say(data: bytes) -> Callable:
    """Plain bytes instead of a ServerHello."""

    def behaviour(gateway: BadGateway, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)
        say_nothing(gateway, connection)

    return behaviour


def say_and_close(data: bytes) -> Callable:
    """The beginning of an answer, and no more."""

    def behaviour(gateway: BadGateway, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)

    return behaviour


def show(**how) -> Callable:
    """A handshake by a context(**how), then a request is read and none answered."""

    def behaviour(gateway: BadGateway, connection: socket.socket) -> None:
        gateway.read_request(gateway.handshake(connection, gateway.context(**how)))

    return behaviour


# --- bad behaviours: inside TLS


def after_handshake(act: Callable) -> Callable:
    """act(gateway, stream); what comes after it ends without a close_notify."""

    def behaviour(gateway: BadGateway, connection: socket.socket) -> None:
        stream = gateway.handshake(connection)
        act(gateway, stream)
        stream.close()

    return behaviour


def answer(*pieces: bytes, keep: bool = True) -> Callable:
    """To each whole request these bytes; then the stream stays open, or is cut."""

    def act(gateway: BadGateway, stream: ssl.SSLSocket) -> None:
        while True:
            gateway.read_request(stream)
            for piece in pieces:
                stream.sendall(piece)
            if not keep:
                return

    return after_handshake(act)


def answer_endlessly(start: bytes, piece: bytes, pause: Callable[[], bool] = lambda: False) -> Callable:
    """The same piece again and again, until the client has had enough; pause() true ends it."""

    def act(gateway: BadGateway, stream: ssl.SSLSocket) -> None:
        gateway.read_request(stream)
        stream.sendall(start)
        while not pause():
            stream.sendall(piece)

    return after_handshake(act)


def answer_unread(data: bytes) -> Callable:
    """The answer comes after the head of the request, and the end with it."""

    def act(gateway: BadGateway, stream: ssl.SSLSocket) -> None:
        read_head(stream)
        stream.sendall(data)
        with contextlib.suppress(OSError):
            stream.unwrap()

    return after_handshake(act)


def close_at_once(gateway: BadGateway, stream: ssl.SSLSocket) -> None:
    """In good order, with a close_notify."""
    with contextlib.suppress(OSError):
        stream.unwrap()


def cut_at_once(gateway: BadGateway, stream: ssl.SSLSocket) -> None:
    """Without one."""
    stream.shutdown(socket.SHUT_RDWR)


def reset_at_once(gateway: BadGateway, stream: ssl.SSLSocket) -> None:
    reset(stream)
