# SPDX-License-Identifier: Apache-2.0
"""The egress gateway: a real Envoy whose configuration does what Istio's would, written without istiod.

api         mTLS by SVID, HTTP, TLS to AWS made by the gateway: it sees the mail
end_to_end  mTLS by SVID, bytes: the AWS host's own TLS runs inside, the gateway sees identity and length
smtp        mTLS by SVID, bytes, TLS to an SMTP host made by the gateway

Each listener has one filter chain per AWS host, chosen by SNI.  Any SVID the bundle vouches for passes the handshake;
who may go on is decided by `allowed` alone, as an Istio AuthorizationPolicy does it.
"""

import dataclasses
import http.client
import ipaddress
import json
import os
from collections.abc import Callable, Iterable

from . import ports
from .processes import Failure, Process, has_fields, poll_until

ENVOY_UID = 21001

# What a gateway would tell AWS about the pod; rig for rig the same list as in the chart's VirtualService.
REMOVED_HEADERS = [
    "x-forwarded-client-cert", "x-forwarded-for", "x-forwarded-proto", "x-request-id", "x-envoy-attempt-count",
    "x-envoy-external-address", "x-envoy-decorator-operation", "x-envoy-expected-rq-timeout-ms", "x-envoy-internal",
    "traceparent", "tracestate",
]

ACCESS_LOG_FIELDS = {
    "time": "%START_TIME%",
    "peer": "%DOWNSTREAM_PEER_URI_SAN%",
    "sni": "%REQUESTED_SERVER_NAME%",
    "tls_version": "%DOWNSTREAM_TLS_VERSION%",
    "connection": "%CONNECTION_ID%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "authority": "%REQ(:AUTHORITY)%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "code": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "terminated": "%CONNECTION_TERMINATION_DETAILS%",
    "upstream": "%UPSTREAM_HOST%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "downstream_failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    "received": "%BYTES_RECEIVED%",
    "sent": "%BYTES_SENT%",
    "ms": "%DURATION%",
}

TYPE = "type.googleapis.com/envoy."


@dataclasses.dataclass
class SpireIdentity:
    """The gateway's SVID and bundle come from a SPIRE agent by SDS.  federated: also peers of federated domains."""

    socket_path: str
    federated: bool = False


@dataclasses.dataclass
class FileIdentity:
    """The SVID and the bundles are given as PEM; Gateway.set_identity() changes them without a restart."""

    cert_pem: str
    key_pem: str
    bundles: dict[str, str]     # trust domain -> its X.509 authorities


@dataclasses.dataclass
class Upstream:
    """Where the gateway finds an AWS host: an address (or a name, to be resolved) and a port."""

    host: str
    address: str
    port: int


class Gateway:
    """One Envoy.  Change `allowed`, `upstreams` or a timeout, then restart(): the ports stay."""

    def __init__(self, envoy: str, directory: str, *, identity: SpireIdentity | FileIdentity,
                 allowed: Iterable[str], api: Iterable[Upstream] = (), end_to_end: Iterable[Upstream] = (),
                 smtp: Iterable[Upstream] = (), upstream_ca_file: str | None = None, uid: int | None = ENVOY_UID,
                 api_port: int | None = None, end_to_end_port: int | None = None, smtp_port: int | None = None,
                 timeout: str = "30s", connect_timeout: str = "5s", late_connect: bool = False,
                 on_access: Callable[[dict], None] | None = None):
        self.directory = directory
        self.host = "127.0.0.1"
        self.identity = identity
        self.allowed = list(allowed)
        self.upstreams = {"api": list(api), "end_to_end": list(end_to_end), "smtp": list(smtp)}
        self.upstream_ca_file = upstream_ca_file
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.late_connect = late_connect
        self.api_port = api_port or ports.free_port()
        self.end_to_end_port = end_to_end_port or ports.free_port()
        self.smtp_port = smtp_port or ports.free_port()
        self.admin_port = ports.free_port()
        self.process: Process | None = None
        self._envoy = envoy
        self.uid = uid
        self._on_access = on_access
        self._past_access: list[dict] = []
        os.makedirs(self._identity_dir, exist_ok=True)
        os.chmod(directory, 0o755)

    def __enter__(self) -> "Gateway":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    # --- life

    def start(self, wait: bool = True, timeout: float = 20) -> None:
        """wait=False: for a gateway that is to start without its identity, and so without listeners."""
        if isinstance(self.identity, FileIdentity):
            self.set_identity(self.identity)
        config = os.path.join(self.directory, "envoy.json")
        with open(config, "w") as file:
            json.dump(self.config(), file, indent=1)
        self.process = Process(
            "envoy", [self._envoy, "-c", config, "--use-dynamic-base-id", "--disable-hot-restart",
                      "--concurrency", "1", "--file-flush-interval-msec", "100", "--log-level", "info"],
            log_dir=self.directory, uid=self.uid, on_stdout=self._report_access)
        if wait:
            self.wait_ready(timeout)

    def wait_ready(self, timeout: float = 20) -> None:
        """Identity there, listeners open."""
        self.process.wait_for_line("all dependencies initialized. starting workers", timeout)
        poll_until("the gateway's listeners", self._is_listening, timeout)

    def stop(self) -> None:
        self._end(Process.stop)

    def kill(self) -> None:
        """Connections are reset, not closed in order."""
        self._end(Process.kill)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _end(self, how: Callable) -> None:
        if self.process is not None:
            how(self.process)
            self._past_access += self._lines_of_this_run()
            self.process = None

    def set_identity(self, identity: FileIdentity) -> None:
        """New SVID and bundles: Envoy sees the renamed files and takes them for new connections."""
        self.identity = identity
        self._write_secret("svid", {
            "name": "default",
            "tls_certificate": {"certificate_chain": {"inline_string": identity.cert_pem},
                                "private_key": {"inline_string": identity.key_pem}}})
        self._write_secret("bundle", {
            "name": "ROOTCA",
            "validation_context": {"custom_validator_config": {
                "name": "envoy.tls.cert_validator.spiffe",
                "typed_config": {
                    "@type": TYPE + "extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
                    "trust_domains": [{"name": domain, "trust_bundle": {"inline_string": pem}}
                                      for domain, pem in identity.bundles.items()]}}}})

    # --- what it saw

    def access_log(self, **fields) -> list[dict]:
        """The lines so far, oldest first, that have these fields; see ACCESS_LOG_FIELDS, and "log" for the listener."""
        entries = self._past_access + (self._lines_of_this_run() if self.process else [])
        return [entry for entry in entries if has_fields(entry, fields)]

    def wait_for_access(self, timeout: float = 5, **fields) -> dict:
        """The first line with these fields; a line is written when its request or connection has ended."""
        for entry in self._past_access:
            if has_fields(entry, fields):
                return entry

        def matching(line: str):
            entry = _parse(line)
            return entry if entry is not None and has_fields(entry, fields) else None

        return self.process.wait_for_line(matching, timeout, stream="stdout", what=f"an access of {fields}")

    def stats(self, contains: str = "") -> dict[str, int]:
        """Envoy's counters and gauges, e.g. listener.api.ssl.fail_verify_no_cert."""
        answer = self._admin("GET", "/stats?format=json")
        return {stat["name"]: stat["value"] for stat in json.loads(answer)["stats"]
                if "name" in stat and contains in stat["name"]}

    def wait_for_stat(self, name: str, at_least: int = 1, timeout: float = 5) -> int:
        return poll_until(f"{name} >= {at_least}",
                          lambda: next((v for k, v in self.stats(name).items() if v >= at_least), None), timeout)

    def connections(self, listener: str) -> int:
        """Connections open now on "api", "end_to_end" or "smtp"."""
        return self.stats(f"listener.{listener}.downstream_cx_active").get(
            f"listener.{listener}.downstream_cx_active", 0)

    def _lines_of_this_run(self) -> list[dict]:
        return [entry for entry in map(_parse, list(self.process.stdout.items)) if entry is not None]

    def _report_access(self, line: str) -> None:
        entry = _parse(line)
        if entry is not None and self._on_access is not None:
            self._on_access(entry)

    def _admin(self, method: str, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read().decode()
        finally:
            connection.close()
        if response.status != 200:
            raise Failure(f"the gateway's admin answered {response.status} to {path}: {body}")
        return body

    def _is_listening(self) -> bool:
        listeners = json.loads(self._admin("GET", "/listeners?format=json"))
        return len(listeners.get("listener_statuses", [])) >= sum(1 for hosts in self.upstreams.values() if hosts)

    # --- configuration

    def config(self) -> dict:
        listeners, clusters = [], []
        if self.upstreams["api"]:
            listeners.append(self._listener("api", self.api_port, self._http_filters))
            clusters += [self._cluster(f"api {u.host}", u, is_tls=True) for u in self.upstreams["api"]]
        if self.upstreams["end_to_end"]:
            listeners.append(self._listener("end_to_end", self.end_to_end_port, self._tcp_filters))
            clusters += [self._cluster(f"end_to_end {u.host}", u, is_tls=False)
                         for u in self.upstreams["end_to_end"]]
        if self.upstreams["smtp"]:
            listeners.append(self._listener("smtp", self.smtp_port, self._tcp_filters))
            clusters += [self._cluster(f"smtp {u.host}", u, is_tls=True) for u in self.upstreams["smtp"]]
        if isinstance(self.identity, SpireIdentity):
            clusters.append(self._sds_cluster())
        return {
            "node": {"id": "mail-egress", "cluster": "mail-egress"},
            "admin": {"address": _address("127.0.0.1", self.admin_port)},
            "layered_runtime": {"layers": [{"name": "static", "static_layer": {
                "overload.global_downstream_max_connections": 1000}}]},
            "static_resources": {"listeners": listeners, "clusters": clusters},
        }

    def _listener(self, name: str, port: int, filters: Callable) -> dict:
        return {
            "name": name,
            "stat_prefix": name,
            "address": _address("127.0.0.1", port),
            "listener_filters": [_extension("envoy.filters.listener.tls_inspector",
                                            "extensions.filters.listener.tls_inspector.v3.TlsInspector")],
            "filter_chains": [{
                "name": f"{name} {upstream.host}",
                "filter_chain_match": {"server_names": [upstream.host]},
                "transport_socket": _extension("envoy.transport_sockets.tls",
                                               "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                                               **self._downstream_tls(name)),
                "filters": filters(name, upstream),
            } for upstream in self.upstreams[name]],
            # A connection whose SNI fits no chain never meets a filter that could log it.
            "access_log": [self._access_log(name, filter={"response_flag_filter": {"flags": ["NR"]}})],
        }

    def _downstream_tls(self, listener: str) -> dict:
        bundle = "ALL" if isinstance(self.identity, SpireIdentity) and self.identity.federated else "ROOTCA"
        return {
            "require_client_certificate": True,
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"] if listener == "api" else [],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificate_sds_secret_configs": [self._secret("default", "svid")],
                "validation_context_sds_secret_config": self._secret(bundle, "bundle"),
            },
        }

    def _secret(self, name: str, file: str) -> dict:
        if isinstance(self.identity, FileIdentity):
            source = {"path_config_source": {"path": os.path.join(self._identity_dir, f"{file}.json")},
                      "resource_api_version": "V3"}
        else:
            source = {"api_config_source": {
                "api_type": "GRPC", "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "spire"}}]}, "resource_api_version": "V3"}
        return {"name": name, "sds_config": source}

    def _http_filters(self, listener: str, upstream: Upstream) -> list[dict]:
        may = {"and_rules": {"rules": [
            {"header": {"name": ":authority", "string_match": {"exact": upstream.host}}},
            {"header": {"name": ":method", "string_match": {"exact": "POST"}}},
            {"url_path": {"path": {"exact": "/v2/email/outbound-emails"}}},
            {"requested_server_name": {"exact": upstream.host}},
        ]}}
        return [_extension(
            "envoy.filters.network.http_connection_manager",
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix=listener, codec_type="AUTO", server_name="istio-envoy", use_remote_address=True,
            forward_client_cert_details="SANITIZE_SET",
            set_current_client_cert_details={"subject": True, "cert": True, "uri": True},
            access_log=[self._access_log(listener)],
            http_filters=[
                _extension("envoy.filters.http.rbac", "extensions.filters.http.rbac.v3.RBAC",
                           rules=self._policy(may)),
                _extension("envoy.filters.http.router", "extensions.filters.http.router.v3.Router"),
            ],
            route_config={
                "name": upstream.host,
                "virtual_hosts": [{
                    "name": upstream.host, "domains": [upstream.host],
                    "routes": [{
                        "match": {"prefix": "/v2/email/outbound-"},
                        "request_headers_to_remove": REMOVED_HEADERS,
                        "route": {"cluster": f"{listener} {upstream.host}", "timeout": self.timeout},
                    }]}]})]

    def _tcp_filters(self, listener: str, upstream: Upstream) -> list[dict]:
        proxy = {"stat_prefix": listener, "cluster": f"{listener} {upstream.host}", "idle_timeout": "3600s",
                 "access_log": [self._access_log(listener)]}
        if self.late_connect:
            proxy |= {"upstream_connect_mode": "ON_DOWNSTREAM_TLS_HANDSHAKE", "max_early_data_bytes": 16384}
        return [
            _extension("envoy.filters.network.rbac", "extensions.filters.network.rbac.v3.RBAC", stat_prefix=listener,
                       rules=self._policy({"requested_server_name": {"exact": upstream.host}})),
            _extension("envoy.filters.network.tcp_proxy", "extensions.filters.network.tcp_proxy.v3.TcpProxy", **proxy),
        ]

    def _policy(self, may: dict) -> dict:
        # Without a single policy the filter would allow nobody; that is what an empty list means here too.
        return {"action": "ALLOW", "policies": {"mail": {"permissions": [may], "principals": [
            {"authenticated": {"principal_name": {"exact": spiffe_id}}} for spiffe_id in self.allowed]}}
            if self.allowed else {}}

    def _cluster(self, name: str, upstream: Upstream, is_tls: bool) -> dict:
        cluster = {
            "name": name,
            "type": "STATIC" if _is_ip(upstream.address) else "LOGICAL_DNS",
            "connect_timeout": self.connect_timeout,
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": _address(upstream.address, upstream.port)}}]}]},
        }
        if is_tls:
            cluster["transport_socket"] = _extension(
                "envoy.transport_sockets.tls", "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                sni=upstream.host, common_tls_context={"tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                                                       "validation_context": {
                    "trusted_ca": {"inline_string": self._upstream_ca()},
                    "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": upstream.host}}]}})
        return cluster

    def _upstream_ca(self) -> str:
        with open(self.upstream_ca_file or "/etc/ssl/certs/ca-certificates.crt") as file:
            return file.read()

    def _sds_cluster(self) -> dict:
        http2 = {"@type": TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
                 "explicit_http_config": {"http2_protocol_options": {}}}
        return {
            "name": "spire", "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
            "load_assignment": {"cluster_name": "spire", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": {"pipe": {"path": self.identity.socket_path}}}}]}]},
        }

    def _access_log(self, listener: str, **more) -> dict:
        return _extension("envoy.access_loggers.stdout", "extensions.access_loggers.stream.v3.StdoutAccessLog",
                          log_format={"json_format": {"log": listener} | ACCESS_LOG_FIELDS}) | more

    @property
    def _identity_dir(self) -> str:
        return os.path.join(self.directory, "identity")

    def _write_secret(self, file: str, secret: dict) -> None:
        secret = {"@type": TYPE + "extensions.transport_sockets.tls.v3.Secret"} | secret
        path = os.path.join(self._identity_dir, f"{file}.json")
        descriptor = os.open(path + ".new", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            json.dump({"resources": [secret]}, out)
            if self.uid is not None and os.getuid() == 0:
                os.fchown(out.fileno(), self.uid, self.uid)
        os.replace(path + ".new", path)


def _address(address: str, port: int) -> dict:
    return {"socket_address": {"address": address, "port_value": port}}


def _extension(name: str, kind: str, **settings) -> dict:
    return {"name": name, "typed_config": {"@type": TYPE + kind} | settings}


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _parse(line: str) -> dict | None:
    try:
        return json.loads(line)
    except ValueError:
        return None
