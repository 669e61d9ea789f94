# SPDX-License-Identifier: Apache-2.0
"""The Workload API's protobuf messages, made at run time from one table.

No protoc at set-up and no generated file in the tree: the table below is the standard's field table
(SPIFFE_Workload_API.md), written a second time on purpose. The C side compiles proto/workload.proto;
tests/integration/test_issuer_messages.py holds the two against one another.
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

STRING = "string"
BYTES = "bytes"
STRUCT = "google.protobuf.Struct"

# message -> [(field, number, type, repeated)]; type "map" is map<string, bytes>
MESSAGES: dict[str, list[tuple[str, int, str, bool]]] = {
    "X509SVIDRequest": [],
    "X509SVID": [
        ("spiffe_id", 1, STRING, False),
        ("x509_svid", 2, BYTES, False),
        ("x509_svid_key", 3, BYTES, False),
        ("bundle", 4, BYTES, False),
        ("hint", 5, STRING, False),
    ],
    "X509SVIDResponse": [
        ("svids", 1, "X509SVID", True),
        ("crl", 2, BYTES, True),
        ("federated_bundles", 3, "map", False),
    ],
    "X509BundlesRequest": [],
    "X509BundlesResponse": [("crl", 1, BYTES, True), ("bundles", 2, "map", False)],
    "JWTSVIDRequest": [("audience", 1, STRING, True), ("spiffe_id", 2, STRING, False)],
    "JWTSVID": [("spiffe_id", 1, STRING, False), ("svid", 2, STRING, False), ("hint", 3, STRING, False)],
    "JWTSVIDResponse": [("svids", 1, "JWTSVID", True)],
    "JWTBundlesRequest": [],
    "JWTBundlesResponse": [("bundles", 1, "map", False)],
    "ValidateJWTSVIDRequest": [("audience", 1, STRING, False), ("svid", 2, STRING, False)],
    "ValidateJWTSVIDResponse": [("spiffe_id", 1, STRING, False), ("claims", 2, STRUCT, False)],
}

SERVICE = "SpiffeWorkloadAPI"

# rpc -> (request, response, server stream)
RPCS: dict[str, tuple[str, str, bool]] = {
    "FetchX509SVID": ("X509SVIDRequest", "X509SVIDResponse", True),
    "FetchX509Bundles": ("X509BundlesRequest", "X509BundlesResponse", True),
    "FetchJWTSVID": ("JWTSVIDRequest", "JWTSVIDResponse", False),
    "FetchJWTBundles": ("JWTBundlesRequest", "JWTBundlesResponse", True),
    "ValidateJWTSVID": ("ValidateJWTSVIDRequest", "ValidateJWTSVIDResponse", False),
}

_Field = descriptor_pb2.FieldDescriptorProto


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="workload.proto", syntax="proto3", dependency=["google/protobuf/struct.proto"]
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, repeated in fields:
            field = message.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
            if repeated or kind == "map":
                field.label = _Field.LABEL_REPEATED
            if kind == STRING:
                field.type = _Field.TYPE_STRING
            elif kind == BYTES:
                field.type = _Field.TYPE_BYTES
            elif kind == "map":
                entry = message.nested_type.add(name=f"{_camel(field_name)}Entry")
                entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
                entry.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_BYTES)
                entry.options.map_entry = True
                field.type = _Field.TYPE_MESSAGE
                field.type_name = f".{name}.{entry.name}"
            else:
                field.type = _Field.TYPE_MESSAGE
                field.type_name = f".{kind}"
    return file


def _classes() -> dict[str, type]:
    # A pool of its own: the messages have no package, and another module may bring the same names.
    pool = descriptor_pool.DescriptorPool()
    struct_file = descriptor_pb2.FileDescriptorProto()
    struct_pb2.DESCRIPTOR.CopyToProto(struct_file)
    pool.Add(struct_file)
    pool.Add(_file())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in MESSAGES}


_CLASSES = _classes()

X509SVIDRequest = _CLASSES["X509SVIDRequest"]
X509SVID = _CLASSES["X509SVID"]
X509SVIDResponse = _CLASSES["X509SVIDResponse"]
X509BundlesRequest = _CLASSES["X509BundlesRequest"]
X509BundlesResponse = _CLASSES["X509BundlesResponse"]
JWTSVIDRequest = _CLASSES["JWTSVIDRequest"]
JWTSVID = _CLASSES["JWTSVID"]
JWTSVIDResponse = _CLASSES["JWTSVIDResponse"]
JWTBundlesRequest = _CLASSES["JWTBundlesRequest"]
JWTBundlesResponse = _CLASSES["JWTBundlesResponse"]
ValidateJWTSVIDRequest = _CLASSES["ValidateJWTSVIDRequest"]
ValidateJWTSVIDResponse = _CLASSES["ValidateJWTSVIDResponse"]


def message_class(name: str) -> type:
    """The message class of that name, for code that goes through RPCS."""
    return _CLASSES[name]
