# SPDX-License-Identifier: Apache-2.0
"""Every way in which the gateway refuses: what its client sees, and what the gateway itself says about it.

The tests provoke each of them, docs/gateway-refusals.md tells them, and a test holds the two together.
"""

import dataclasses

PORTS = {"api": "API, 9443", "end_to_end": "end to end, 9444", "smtp": "SMTP, 9465"}

# What a client sees.
DENIED = "the handshake succeeds; the answer is `403`, text/plain, `RBAC: access denied`, and `connection: close`"
RESET = "the connection is reset during the handshake, without a TLS alert"
NO_CERTIFICATE = "TLS 1.3: the handshake seems to succeed; the first read brings alert 116, `certificate required`"
BAD_CERTIFICATE = "TLS 1.3: the handshake seems to succeed; the first read brings alert 46, `certificate unknown`"
ENDED = "the handshake succeeds; the stream ends after the client's first bytes, without a word"

# What the gateway says: fields of its access log, or a statistic of the listener.
POLICY_HTTP = {"response_code": 403, "response_code_details": "rbac_access_denied_matched_policy[none]"}
POLICY_TCP = {"connection_termination_details": "rbac_access_denied_matched_policy[none]"}
NO_CHAIN = {"response_flags": "NR", "response_code_details": "filter_chain_not_found"}


@dataclasses.dataclass(frozen=True)
class Refusal:
    who: str
    port: str
    sees: str
    log: dict | None = None
    stat: str = ""

    @property
    def name(self) -> str:
        return f"{self.port}: {self.who}"

    def row(self) -> str:
        log = ", ".join(f"`{name}` `{value}`" for name, value in (self.log or {}).items())
        stat = f"no line of its own; statistic `ssl.{self.stat}`" if self.stat else ""
        return f"| {self.who} | {self.sees} | {log or stat} |"


def _of_strangers(who: str) -> list[Refusal]:
    """Somebody the mesh knows by another name."""
    return [Refusal(who, "api", DENIED, POLICY_HTTP), Refusal(who, "end_to_end", ENDED, POLICY_TCP),
            Refusal(who, "smtp", BAD_CERTIFICATE, stat="fail_verify_san")]


def _everywhere(who: str, sees: str, **evidence) -> list[Refusal]:
    return [Refusal(who, port, sees, **evidence) for port in PORTS]


REFUSALS = [
    *_of_strangers("another workload's SPIFFE ID"),
    *_of_strangers("an ID one step shallower than the policy's (the pod's own)"),
    *_of_strangers("an ID one step deeper than the policy's"),
    *_of_strangers("an ID of which the policy's is a prefix"),
    *_everywhere("no client certificate", NO_CERTIFICATE, stat="fail_verify_no_cert"),
    *_everywhere("the policy's own ID, certified by a CA of somebody else", BAD_CERTIFICATE, stat="fail_verify_error"),
    *_everywhere("the policy's path in another trust domain", BAD_CERTIFICATE, stat="fail_verify_error"),
    *_everywhere("an SVID that has expired", BAD_CERTIFICATE, stat="fail_verify_error"),
    *_everywhere("an SNI that the port does not serve", RESET, log=NO_CHAIN),
    *_everywhere("no SNI", RESET, log=NO_CHAIN),
    Refusal("STS, on the API port", "api", RESET, NO_CHAIN),
    Refusal("another Host than the SNI", "api", DENIED, POLICY_HTTP),
    Refusal("another path", "api", DENIED, POLICY_HTTP),
    Refusal("a path below the allowed one", "api", DENIED, POLICY_HTTP),
    Refusal("another method", "api", DENIED, POLICY_HTTP),
]


def tables() -> str:
    """As they stand in the documentation."""
    parts = []
    for port, title in PORTS.items():
        rows = [refusal.row() for refusal in REFUSALS if refusal.port == port]
        parts.append("\n".join([f"### {title}", "", "| who or what | the client sees | the gateway's log says |",
                                "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"
