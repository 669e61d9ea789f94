# SPDX-License-Identifier: Apache-2.0
"""Our SigV4 signer and botocore's give the same signature for the same request: 2,000 of them, drawn from a seed.

What is drawn is what goes over the wire: paths with dot segments, doubled slashes and escapes, repeated and empty
query parameters, headers with odd spacing and repeats, session tokens, dates from 1980 on.
"""

import datetime
import hashlib
import json
import os
import pathlib
import random
import string
import subprocess
from unittest import mock
from urllib.parse import quote

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SEED = 20261123
N_REQUESTS = 2000

TOKEN_CHARACTERS = string.ascii_letters + string.digits + "+/="
NAME_CHARACTERS = string.ascii_letters + string.digits + "-_"
VALUE_CHARACTERS = string.ascii_letters + string.digits + "!#$%&'()*+,-./:;<=>?@[]^_`{|}~\"\\"
SEGMENTS = ["..", ".", "", "a", "v2", "email", "outbound-emails", "~user", "...", "..a", "a..", "%2F", "%2e%2e", "%"]
TEXTS = ["", "a", "A", "a b", "ä", "ሴ", "x=y", "a&b", "%41", "+", "~", "-_.~", "a/b", "😀", "a,b", "key", "Key", "ke"]


@pytest.fixture(scope="module")
def signer():
    program = os.environ.get("SVIDMAIL_BIN", str(ROOT / "build" / "dev" / "sidecar" / "svidmail"))
    driver = pathlib.Path(program).parent.parent / "tests" / "unit" / "sigv4_sign"
    if not driver.exists():
        pytest.fail(f"{driver} is not there: tests/run builds it", pytrace=False)
    return driver


def draw(rng: random.Random, characters: str, longest: int, shortest: int = 0) -> str:
    return "".join(rng.choice(characters) for _ in range(rng.randint(shortest, longest)))


def draw_segment(rng: random.Random) -> str:
    if rng.random() < 0.6:
        return rng.choice(SEGMENTS)
    return quote(draw(rng, VALUE_CHARACTERS + "äሴ ", 12), safe=rng.choice(["-_.~", "-_.~!$'()*+,:;=@&"]))


def draw_path(rng: random.Random) -> str:
    return "/" + "/".join(draw_segment(rng) for _ in range(rng.randint(0, 6)))


def draw_query(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return ""
    pairs = []
    for _ in range(rng.randint(1, 6)):
        name = quote(rng.choice(TEXTS) if rng.random() < 0.7 else draw(rng, VALUE_CHARACTERS, 8), safe="-_.~")
        value = quote(rng.choice(TEXTS) if rng.random() < 0.7 else draw(rng, VALUE_CHARACTERS, 20), safe="-_.~")
        pairs.append(rng.choice([f"{name}={value}", f"{name}=", name, ""] if len(pairs) else [f"{name}={value}"]))
    return "&".join(pairs)


def draw_value(rng: random.Random) -> str:
    words = [draw(rng, VALUE_CHARACTERS, 12, 1) for _ in range(rng.randint(0, 4))]
    spaces = [" ", "  ", "\t", " \t ", "     "]
    return rng.choice(["", " ", "\t "]) + rng.choice(spaces).join(words) + rng.choice(["", " ", "  \t"])


def draw_headers(rng: random.Random) -> list[tuple[str, str]]:
    # These botocore leaves out of its signature, or writes itself.
    not_ours = {"host", "user-agent", "expect", "transfer-encoding", "x-amzn-trace-id", "date", "authorization"}
    headers = []
    for _ in range(rng.randint(0, 8)):
        name = rng.choice(["Content-Type", "X-Amz-Meta-", "My-Header", "x-amz-", ""]) + draw(rng, NAME_CHARACTERS, 6, 1)
        if name.lower() in not_ours or name.lower().startswith(("x-amz-date", "x-amz-security", "x-amz-content")):
            continue
        headers += [(name, draw_value(rng))] * rng.choice([1, 1, 1, 2])
        if rng.random() < 0.2:
            headers.append((name.swapcase(), draw_value(rng)))
    rng.shuffle(headers)
    return headers


def draw_request(rng: random.Random) -> dict:
    moment = datetime.datetime.fromtimestamp(rng.randint(315532800, 4102444799), datetime.UTC)
    body = rng.randbytes(rng.randint(0, 64))
    return {
        "method": rng.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"]),
        "path": draw_path(rng),
        "query": draw_query(rng),
        "host": rng.choice(["email.eu-central-1.amazonaws.com", "example.com:8443", "localhost"]),
        "headers": draw_headers(rng),
        "token": draw(rng, TOKEN_CHARACTERS, 1200, 16) if rng.random() < 0.7 else "",
        "moment": moment,
        "body": body,
        "access_key_id": "ASIA" + draw(rng, string.ascii_uppercase + "234567", 16, 16),
        "secret_access_key": draw(rng, TOKEN_CHARACTERS, 40, 40),
        "region": rng.choice(["eu-central-1", "us-east-1", "ap-southeast-3", "us-gov-west-1", "cn-north-1"]),
        "service": rng.choice(["ses", "sts", "service", "rolesanywhere"]),
        "normalize_path": True,
    }


def stamp(request: dict) -> str:
    return request["moment"].strftime("%Y%m%dT%H%M%SZ")


def sign_with_botocore(request: dict, signer_class=SigV4Auth) -> str:
    url = f"https://{request['host']}{request['path']}" + (f"?{request['query']}" if request["query"] else "")
    made = AWSRequest(request["method"], url, data=request["body"])
    for name, value in request["headers"]:
        made.headers.add_header(name, value)
    key = Credentials(request["access_key_id"], request["secret_access_key"], request["token"] or None)
    naive = request["moment"].replace(tzinfo=None)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=naive):
        signer_class(key, request["service"], request["region"]).add_auth(made)
    return made.headers["Authorization"]


def sign_with_ours(signer: pathlib.Path, requests: list[dict], more_headers=()) -> list[dict]:
    lines = []
    for request in requests:
        headers = [("Host", request["host"]), ("X-Amz-Date", stamp(request)), *request["headers"]]
        if request["token"]:
            headers.append(("X-Amz-Security-Token", request["token"]))
        body_sha256 = hashlib.sha256(request["body"]).hexdigest()
        headers += [(name, body_sha256) for name in more_headers]
        line = {key: value for key, value in request.items() if isinstance(value, (str, bool))}
        line |= {"headers": headers, "body_sha256": body_sha256, "wall_ms": int(request["moment"].timestamp() * 1000)}
        lines.append(json.dumps(line, ensure_ascii=False))
    done = subprocess.run([signer], input="\n".join(lines), capture_output=True, text=True, check=True, timeout=100)
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_same(requests: list[dict], theirs: list[str], ours: list[dict]) -> None:
    assert len(ours) == len(requests)
    for request, their, our in zip(requests, theirs, ours, strict=True):
        assert our.get("authorization") == their, f"{request}\n{our}"


def test_random_requests_are_signed_as_botocore_signs_them(signer):
    rng = random.Random(SEED)
    requests = [draw_request(rng) for _ in range(N_REQUESTS)]
    check_same(requests, [sign_with_botocore(request) for request in requests], sign_with_ours(signer, requests))


def test_paths_of_s3_are_left_as_they_are_sent(signer):
    rng = random.Random(SEED + 1)
    requests = []
    for _ in range(200):
        request = draw_request(rng)
        # S3 wants the path encoded once, all but the unreserved bytes.
        request["path"] = quote(draw_path(rng), safe="/-_.~")
        request |= {"normalize_path": False, "service": "s3"}
        requests.append(request)
    theirs = [sign_with_botocore(request, S3SigV4Auth) for request in requests]
    check_same(requests, theirs, sign_with_ours(signer, requests, more_headers=["X-Amz-Content-SHA256"]))


def test_a_request_as_svidmail_sends_it_is_signed_as_botocore_signs_it(signer):
    rng = random.Random(SEED + 2)
    requests = []
    for _ in range(20):
        request = draw_request(rng)
        request |= {
            "method": "POST",
            "host": "email.eu-central-1.amazonaws.com",
            "path": "/v2/email/outbound-emails",
            "query": "",
            "headers": [("Content-Type", "application/json")],
            "token": draw(rng, TOKEN_CHARACTERS, 1200, 800),
        }
        requests.append(request)
    check_same(requests, [sign_with_botocore(request) for request in requests], sign_with_ours(signer, requests))
