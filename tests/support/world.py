# SPDX-License-Identifier: Apache-2.0
"""Who is who in the tests: names that fixtures, tests and the demo share."""

from .gateway import ENVOY_UID
from .sidecar import SIDECAR_UID

REGION = "eu-central-1"
SES_HOST = f"email.{REGION}.amazonaws.com"
STS_HOST = f"sts.{REGION}.amazonaws.com"
SMTP_HOST = f"email-smtp.{REGION}.amazonaws.com"
ROLES_ANYWHERE_HOST = f"rolesanywhere.{REGION}.amazonaws.com"

GATEWAY_PATH = "/ns/mail-egress/sa/mail-egress"
SIDECAR_PATH = "/ns/shop/sa/checkout/svidmail"
INTRUDER_PATH = "/ns/other/sa/intruder"

INTRUDER_UID = 21003
STRANGER_UID = 21009     # has no entry anywhere

USUAL_ENTRIES = [(GATEWAY_PATH, ENVOY_UID), (SIDECAR_PATH, SIDECAR_UID), (INTRUDER_PATH, INTRUDER_UID)]
