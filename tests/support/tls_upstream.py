# SPDX-License-Identifier: Apache-2.0
"""A tiny TLS server behind the gateway, and a tiny mTLS client before it: for tests of the rig itself.

Stock ssl and sockets, so that what they say about the gateway does not lean on svidmail or on the fake AWS.
"""

import contextlib
import datetime
import os
import socket
import ssl
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class TlsUpstream:
    """Answers every request with 200; keeps the raw requests, and the SNI of each connection."""

    def __init__(self, directory: str, host: str):
        self.ca_file = os.path.join(directory, "upstream.pem")
        self.requests: list[bytes] = []
        self.snis: list[str | None] = []
        self.dialled = 0
        key_file = _self_signed(self.ca_file, host)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self.ca_file, key_file)
        self._tls.sni_callback = lambda _socket, name, _context: self.snis.append(name)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "TlsUpstream":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.dialled += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError), self._tls.wrap_socket(connection, server_side=True) as stream:
            while request := stream.recv(65536):
                self.requests.append(request)
                stream.sendall(ANSWER)


def mtls_client(port: int, sni: str | None, files: dict[str, str] | None, bundle: str) -> ssl.SSLSocket:
    """A TLS connection to the gateway; files as Spire.write_svid() gives them, None to show no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False      # the gateway's SVID has a SPIFFE ID and no DNS name
    context.load_verify_locations(bundle)
    if files is not None:
        context.load_cert_chain(files["cert"], files["key"])
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname=sni)


def peer_uri(stream: ssl.SSLSocket) -> list[str]:
    """The URI SANs of the certificate the peer has shown."""
    certificate = x509.load_der_x509_certificate(stream.getpeercert(binary_form=True))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _self_signed(path: str, host: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
                   .serial_number(x509.random_serial_number())
                   .not_valid_before(now - datetime.timedelta(minutes=5))
                   .not_valid_after(now + datetime.timedelta(days=1))
                   .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
                   .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
                   .sign(key, hashes.SHA256()))
    with open(path, "wb") as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
    with open(path + ".key", "wb") as file:
        file.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                     serialization.NoEncryption()))
    return path + ".key"
