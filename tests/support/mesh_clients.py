# SPDX-License-Identifier: Apache-2.0
"""Clients of the egress gateway that owe nothing to svidmail: the standard library's HTTP, SMTP and TLS.

Each dials the gateway's port with an SVID's files (Spire.write_svid) and the name of an AWS host as SNI.
"""

import http.client
import io
import smtplib
import ssl

from .tls_upstream import mtls_client

LARGEST_READ = 65536


class GatewayHttp(http.client.HTTPConnection):
    """HTTP to an AWS host, spoken to the gateway inside mutual TLS; sni: another name than the Host's."""

    def __init__(self, port: int, host: str, files: dict[str, str] | None, bundle: str, *,
                 sni: str | None = None, timeout: float = 20):
        super().__init__(host, timeout=timeout)
        self._dial = lambda: mtls_client(port, sni or host, files, bundle)

    def connect(self) -> None:
        self.sock = self._dial()


class GatewaySmtp(smtplib.SMTP):
    """SMTP to SES, spoken to the gateway inside mutual TLS; the gateway makes the TLS to SES."""

    def __init__(self, port: int, host: str, files: dict[str, str] | None, bundle: str, *, timeout: float = 20):
        self._dial = lambda: mtls_client(port, host, files, bundle)
        super().__init__(host, port, local_hostname="app.test", timeout=timeout)

    def _get_socket(self, host, port, timeout):
        return self._dial()


class TlsInTls:
    """A TLS stream to AWS inside a stream to the gateway: what the client verifies here is AWS itself."""

    def __init__(self, outer: ssl.SSLSocket, host: str, ca_file: str):
        self._outer = outer
        self._from_aws, self._to_aws = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=ca_file)
        self._inner = context.wrap_bio(self._from_aws, self._to_aws, server_hostname=host)
        self._pump(self._inner.do_handshake)

    def _pump(self, step):
        while True:
            try:
                answer = step()
            except ssl.SSLWantReadError:
                self._outer.sendall(self._to_aws.read())
                data = self._outer.recv(LARGEST_READ)
                if not data:
                    raise EOFError("the stream to the gateway ended") from None
                self._from_aws.write(data)
            else:
                self._outer.sendall(self._to_aws.read())
                return answer

    # What http.client wants of a socket.

    def sendall(self, data: bytes) -> None:
        self._pump(lambda: self._inner.write(data))

    def recv(self, size: int) -> bytes:
        return self._pump(lambda: self._inner.read(min(size, LARGEST_READ)))

    def makefile(self, *_args, **_options):
        """For one answer: closing it leaves the stream open."""
        return io.BufferedReader(_Reading(self))

    def settimeout(self, timeout: float) -> None:
        self._outer.settimeout(timeout)

    def close(self) -> None:
        self._outer.close()


class _Reading(io.RawIOBase):
    def __init__(self, stream: TlsInTls):
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._stream.recv(len(buffer))
        buffer[:len(data)] = data
        return len(data)


class EndToEndHttp(http.client.HTTPConnection):
    """HTTPS to an AWS host through the gateway's TLS-in-TLS port."""

    def __init__(self, port: int, host: str, files: dict[str, str] | None, bundle: str, *, ca_file: str,
                 timeout: float = 20):
        super().__init__(host, timeout=timeout)
        self._dial = lambda: TlsInTls(mtls_client(port, host, files, bundle), host, ca_file)

    def connect(self) -> None:
        self.sock = self._dial()
