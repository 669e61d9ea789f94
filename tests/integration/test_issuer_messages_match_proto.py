# SPDX-License-Identifier: Apache-2.0
"""The Workload API's field table is written twice, in C's .proto and in Python: they must say the same."""

import pathlib
import re

from support import workload_messages as messages

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto" / "workload.proto"


def parse(text):
    text = re.sub(r"//[^\n]*", "", text)
    parsed = {}
    for name, body in re.findall(r"message\s+(\w+)\s*\{([^}]*)\}", text):
        fields = []
        for label, kind, field, number in re.findall(
            r"(repeated\s+)?(map<\s*string,\s*bytes\s*>|[\w.]+)\s+(\w+)\s*=\s*(\d+)\s*;", body
        ):
            fields.append((field, int(number), "map" if kind.startswith("map") else kind, bool(label)))
        parsed[name] = fields
    return parsed


def test_messages_and_fields():
    parsed = parse(PROTO.read_text())
    assert "X509SVIDResponse" in parsed
    for name, fields in parsed.items():
        assert fields == messages.MESSAGES[name], name


def test_calls():
    calls = re.findall(r"rpc\s+(\w+)\s*\((\w+)\)\s*returns\s*\((stream\s+)?(\w+)\)", PROTO.read_text())
    assert calls
    for rpc, request, stream, response in calls:
        assert messages.RPCS[rpc] == (request, response, bool(stream))
