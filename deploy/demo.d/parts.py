# SPDX-License-Identifier: Apache-2.0
"""The demo's parts, each started in one function, each with its end on the stack."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from support.aws import FakeAws
from support.gateway import ENVOY_UID, FileIdentity, Gateway, SpireIdentity, Upstream
from support.inbox import Inbox
from support.journey import EXTRA_ACCESS_LOG_FIELDS, Witnesses
from support.processes import Process, make_workdir, stage_program
from support.sidecar import ROLE_ARN, SIDECAR_UID, Sidecar
from support.spire import Spire
from support.workload_api import Identity, Issuer
from support.world import GATEWAY_PATH, SIDECAR_PATH

TRUST_DOMAIN = "example.org"
SVID_TTL_S = 120


PREFIX = "svidmail-demo-"
_locks: list[int] = []


def work_directory() -> pathlib.Path:
    """Short (a unix socket's path holds 107 bytes), and open to the other uids of --spire.

    A lock in it tells a running demo from one that was killed outright: those are cleared away here.
    """
    for former in pathlib.Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        _remove_if_abandoned(former)
    directory = make_workdir(PREFIX)
    _locks.append(os.open(f"{directory}/running", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    fcntl.flock(_locks[-1], fcntl.LOCK_EX)
    if os.getuid() != 0:
        # Where ports are reserved may have been made by root, in a test run before.
        tempfile.tempdir = directory
    return pathlib.Path(directory)


def _remove_if_abandoned(former: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        lock = os.open(former / "running", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(former, ignore_errors=True)
        finally:
            os.close(lock)


def keep(directory: pathlib.Path) -> None:
    """Its logs are wanted: no later demo clears it away. Keys and programs are not: they go now."""
    (directory / "running").unlink(missing_ok=True)
    for unwanted in (directory / "gateway" / "identity", directory / "bin"):
        shutil.rmtree(unwanted, ignore_errors=True)


def _directory(parent: pathlib.Path, name: str) -> str:
    path = parent / name
    path.mkdir()
    path.chmod(0o755)
    return str(path)


def _program(directory: pathlib.Path, path: str) -> str:
    """A copy where every uid can run it: the original may lie in a closed home directory."""
    place = directory / "bin"
    if not place.exists():
        _directory(directory, "bin")
    return stage_program(path, str(place))


@dataclass
class IdentityPart:
    """Whoever gives the identities: SPIRE, or the issuer in its place."""

    name: str
    says: str
    endpoint: str
    sidecar_id: str
    gateway_id: str
    jwks: Callable[[], Any]
    jwt_issuer: str
    gateway_identity: Callable[[], FileIdentity | SpireIdentity]
    sidecar_uid: int
    gateway_uid: int | None = None
    processes: list[Process] = field(default_factory=list)
    on_rotate: list[Callable[[], None]] = field(default_factory=list)


def start_identity(directory: pathlib.Path, *, is_spire: bool, ends: contextlib.ExitStack) -> IdentityPart:
    return _start_spire(directory, ends) if is_spire else _start_issuer(directory, ends)


def _start_spire(directory: pathlib.Path, ends: contextlib.ExitStack) -> IdentityPart:
    for name in ("spire-server", "spire-agent"):
        program = _program(directory, os.path.join(os.environ["SPIRE_BIN"], name))
    spire = Spire(os.path.dirname(program), _directory(directory, "spire"), trust_domain=TRUST_DOMAIN)
    ends.callback(spire.stop)
    spire.start()
    spire.create_entry(GATEWAY_PATH, ENVOY_UID)
    spire.create_entry(SIDECAR_PATH, SIDECAR_UID)
    return IdentityPart(
        name="SPIRE",
        says=f"SPIRE server and agent; uid {SIDECAR_UID} is svidmail, uid {ENVOY_UID} the gateway",
        endpoint=spire.endpoint,
        sidecar_id=spire.id(SIDECAR_PATH),
        gateway_id=spire.id(GATEWAY_PATH),
        jwks=spire.jwks,
        jwt_issuer=spire.jwt_issuer,
        gateway_identity=lambda: SpireIdentity(spire.socket_path),
        sidecar_uid=SIDECAR_UID,
        gateway_uid=ENVOY_UID,
        processes=[spire.server, spire.agent],
    )


def _start_issuer(directory: pathlib.Path, ends: contextlib.ExitStack) -> IdentityPart:
    jwt_issuer = f"https://oidc.{TRUST_DOMAIN}"
    issuer = Issuer(
        pathlib.Path(_directory(directory, "agent")) / "agent.sock",
        TRUST_DOMAIN,
        identities=[Identity(SIDECAR_PATH, ttl=SVID_TTL_S)],
        jwt_issuer=jwt_issuer,
        rotate_every=SVID_TTL_S / 2,
    )
    ends.callback(issuer.stop)

    def gateway_identity() -> FileIdentity:
        svid = issuer.domain.issue(GATEWAY_PATH, ttl=SVID_TTL_S)
        bundles = {TRUST_DOMAIN: issuer.domain.bundle_pem.decode()}
        return FileIdentity(svid.chain_pem.decode(), svid.key_pem.decode(), bundles)

    return IdentityPart(
        name="an issuer that stands in for SPIRE",
        says=f"stands in for SPIRE (--spire runs the real one); SVIDs live {SVID_TTL_S} s and rotate",
        endpoint=issuer.address,
        sidecar_id=issuer.domain.id + SIDECAR_PATH,
        gateway_id=issuer.domain.id + GATEWAY_PATH,
        jwks=issuer.jwks,
        jwt_issuer=jwt_issuer,
        gateway_identity=gateway_identity,
        sidecar_uid=os.getuid(),
        on_rotate=issuer.on_rotate,
    )


def start_aws(directory: pathlib.Path, identity: IdentityPart, region: str, ends: contextlib.ExitStack) -> FakeAws:
    """One account that trusts one issuer, one subject and one role."""
    aws = FakeAws(
        _directory(directory, "aws"),
        jwks=identity.jwks,
        region=region,
        issuer=identity.jwt_issuer,
        subjects=[identity.sidecar_id],
        roles=[ROLE_ARN],
        identities=["shop.example"],
    )
    ends.callback(aws.stop)
    aws.start()
    return aws


class TellingGateway(Gateway):
    """Logs a connection when it is made, and what joins a line to the request AWS saw."""

    def config(self) -> dict:
        config = super().config()
        _teach(config)
        return config


def _teach(node: Any) -> None:
    if isinstance(node, list):
        for each in node:
            _teach(each)
    elif isinstance(node, dict):
        if "json_format" in node:
            node["json_format"] |= EXTRA_ACCESS_LOG_FIELDS
        elif str(node.get("@type", "")).endswith(".TcpProxy"):
            node["access_log_options"] = {"flush_access_log_on_connected": True}
        for each in list(node.values()):
            _teach(each)


def start_gateway(
    directory: pathlib.Path, identity: IdentityPart, aws: FakeAws, witnesses: Witnesses, ends: contextlib.ExitStack
) -> Gateway:
    ses, sts = (Upstream(host, "127.0.0.1", aws.port) for host in (aws.ses_host, aws.sts_host))
    place = _directory(directory, "gateway")
    gateway = TellingGateway(
        _program(directory, os.environ["ENVOY_BIN"]),
        place,
        identity=identity.gateway_identity(),
        allowed=[identity.sidecar_id],
        api=[ses],
        end_to_end=[ses, sts],
        upstream_ca_file=str(aws.ca_file),
        uid=identity.gateway_uid,
        # The peer is known before AWS is dialled: the line that tells of the connection can name it.
        late_connect=True,
        on_access=witnesses.on_access,
    )
    ends.callback(gateway.stop)
    gateway.start()
    identity.on_rotate.append(lambda: gateway.set_identity(identity.gateway_identity()))
    return gateway


def start_sidecar(
    directory: pathlib.Path,
    identity: IdentityPart,
    gateway: Gateway,
    aws: FakeAws,
    options: argparse.Namespace,
    ends: contextlib.ExitStack,
) -> Sidecar:
    place = _directory(directory, "svidmail")
    config = {
        "identity": {"endpoint": identity.endpoint},
        "smtp": {"listen": [f"127.0.0.1:{options.smtp_port}", f"[::1]:{options.smtp_port}"]},
        "gateway": {
            "host": "127.0.0.1",
            "spiffe_ids": [identity.gateway_id],
            "ports": {"api": gateway.api_port, "end_to_end": gateway.end_to_end_port, "smtp": gateway.smtp_port},
            "tls": options.tls,
        },
        "ses": {"region": aws.region},
        "aws": {"ca_file": shutil.copy(aws.ca_file, place)},
        "log": {"level": "info"},
    }
    program = _program(directory, os.environ["SVIDMAIL_BIN"])
    sidecar = Sidecar(program, place, config, uid=identity.sidecar_uid)
    ends.callback(_stop, sidecar)
    sidecar.start()
    return sidecar


def _stop(sidecar: Sidecar) -> None:
    if sidecar.process is not None:
        sidecar.process.stop()


def start_inbox(witnesses: Witnesses, title: str, port: int, ends: contextlib.ExitStack) -> Inbox:
    inbox = Inbox(witnesses.journeys, title=title, port=port)
    ends.callback(inbox.stop)
    return inbox


def follow_log(process: Process, tell: Callable[[dict[str, Any]], None]) -> None:
    """Hands on each JSON line of its stderr as it comes."""

    def follow() -> None:
        at = 0
        while True:
            found = process.stderr.wait_for(lambda line: True, timeout=60, start=at)
            if found is not None:
                at = found[0] + 1
                with contextlib.suppress(ValueError, AttributeError):
                    tell(json.loads(process.stderr.items[found[0]]))
            elif not process.is_alive():
                return

    threading.Thread(target=follow, name="svidmail-log", daemon=True).start()
