# SPDX-License-Identifier: Apache-2.0
"""What whoever owns a container of a pod may try, with SPIRE's own client and the standard library.

intruder.py identities       the SPIFFE IDs that the Workload API gives this container
intruder.py call ID          SES's API at the gateway, with that one's certificate; ID "none": without any
intruder.py plain            the same without TLS: whatever is on the way may wrap it in its own
Each says what came of it as one line of JSON on stdout.
"""

import contextlib
import http.client
import json
import pathlib
import re
import socket
import ssl
import subprocess
import sys
import tempfile

AGENT = "/spiffe-workload-api/spire-agent.sock"
GATEWAY = ("mail-egress.mail-egress.svc.cluster.local", 9443)
SES_HOST = "email.eu-central-1.amazonaws.com"
PATH = "/v2/email/outbound-emails"


def fetch(directory: str) -> list[str]:
    """The certificates lie in the directory as svid.N.pem and svid.N.key, in this order."""
    done = subprocess.run(["spire-agent", "api", "fetch", "x509", "-socketPath", AGENT, "-timeout", "5s", "-write",
                           directory], capture_output=True, text=True)
    if done.returncode != 0:
        raise PermissionError(done.stderr.strip() or done.stdout.strip())
    return re.findall(r"^SPIFFE ID:\s+(\S+)", done.stdout, re.MULTILINE)


def dial(spiffe_id: str) -> ssl.SSLSocket:
    # Who the gateway is does not matter to an intruder.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if spiffe_id != "none":
        with tempfile.TemporaryDirectory() as directory:
            stem = pathlib.Path(directory, f"svid.{fetch(directory).index(spiffe_id)}")
            context.load_cert_chain(f"{stem}.pem", f"{stem}.key")
    stream = context.wrap_socket(socket.create_connection(GATEWAY, timeout=10), server_hostname=SES_HOST)
    if spiffe_id == "none":
        # By TLS 1.3 the server misses a certificate after the client's handshake only; what is written until then may
        # hide its alert.
        stream.settimeout(3)
        with contextlib.suppress(TimeoutError):
            stream.recv(1)
    return stream


def post(stream: socket.socket) -> dict:
    connection = http.client.HTTPConnection(SES_HOST, timeout=10)
    connection.sock = stream
    try:
        connection.request("POST", PATH, body="{}", headers={"Content-Type": "application/json"})
        answer = connection.getresponse()
        return {"status": answer.status, "body": answer.read().decode()}
    finally:
        connection.close()


def main(command: str, *arguments: str) -> dict:
    try:
        if command == "identities":
            with tempfile.TemporaryDirectory() as directory:
                return {"identities": fetch(directory)}
        return post(dial(arguments[0]) if command == "call" else socket.create_connection(GATEWAY, timeout=10))
    except (OSError, http.client.HTTPException) as problem:
        return {"error": f"{type(problem).__name__}: {problem}"}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
