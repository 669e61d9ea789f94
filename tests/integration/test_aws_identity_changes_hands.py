# SPDX-License-Identifier: Apache-2.0
"""Credentials are the identity's that AWS has seen: when another one, or none, takes its place, they are not used.

Told apart by hint, for the mesh identity stays; the issuer of tests/support says at which moment.
"""

from support.mails import send
from support.workload_api import Identity
from support.world import SIDECAR_PATH

ROLES_BY_HINT = {"identity": {"mesh": {"hint": "mesh"}, "aws": {"hint": "aws"}}}


def test_credentials_end_with_the_identity_they_were_issued_to(new_issuer, new_aws, new_gateway, new_sidecar):
    mesh = Identity(SIDECAR_PATH, hint="mesh")
    domain = new_issuer(identities=[mesh, Identity("/first", hint="aws")])
    issuer, aws = domain.issuer, new_aws(domain, subjects=[domain.id("/first"), domain.id("/second")])
    gateway = new_gateway(domain, aws, identity=domain.gateway_identity())
    sidecar = new_sidecar(domain, gateway, aws, ROLES_BY_HINT)
    sidecar.wait_ready()
    assert send(sidecar)[0] == 250

    issuer.set_identities(mesh, Identity("/second", hint="aws"))
    sidecar.wait_for_event("credentials.renewed", after=1, timeout=8)
    assert send(sidecar)[0] == 250
    subjects = [token.subject for mail in aws.mails for token in aws.tokens
                if token.access_key_id == mail.request.access_key_id]
    assert subjects == [domain.id("/first"), domain.id("/second")]

    issuer.set_identities(mesh)
    sidecar.wait_for_event("svid.rotated", svids=1)
    assert not sidecar.status()["credentials"]["usable"]
    assert send(sidecar)[0] == 451
    assert len(aws.mails) == 2
