# SPDX-License-Identifier: Apache-2.0
"""A mail to SES and a token to STS as the independent clients of the mesh tests put them: signed by botocore."""

import base64
import json
import urllib.parse

from .aws import AccessKey, FakeAws
from .aws_clients import signed_headers
from .aws_ses import SEND_EMAIL
from .sidecar import ROLE_ARN

RAW = b"From: Shop <shop@shop.example>\r\nTo: user@customer.example\r\nSubject: hello\r\n\r\nbody\r\n"


def send_email(aws: FakeAws, raw: bytes = RAW) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a SendEmail that SES takes."""
    key = aws.add_access_key(AccessKey("AKIAMESHMESHMESHMESH", "a secret of this test"))
    body = json.dumps({"Content": {"Raw": {"Data": base64.b64encode(raw).decode()}},
                       "Destination": {"ToAddresses": ["user@customer.example"]}}).encode()
    return body, signed_headers(aws, key, body)


def post_mail(connection, aws: FakeAws, *, method: str = "POST", path: str = SEND_EMAIL,
              host: str | None = None, raw: bytes = RAW) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of the answer, on any of the clients of mesh_clients; host: what the Host header says."""
    body, headers = send_email(aws, raw)
    connection.request(method, path, body=body, headers=headers | ({"Host": host} if host else {}))
    response = connection.getresponse()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def assume_role(connection, token: str) -> tuple[int, bytes]:
    """Trades a JWT-SVID for credentials at STS."""
    form = urllib.parse.urlencode({"Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "RoleArn": ROLE_ARN,
                                   "RoleSessionName": "mesh", "WebIdentityToken": token})
    connection.request("POST", "/", body=form, headers={"Content-Type": "application/x-www-form-urlencoded"})
    response = connection.getresponse()
    return response.status, response.read()
