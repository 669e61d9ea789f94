# SPDX-License-Identifier: Apache-2.0
"""A real SPIRE server and agent on loopback: one trust domain, one node, workloads told apart by their uid.

The server's caches are told to reload every second, so an entry reaches a workload within about two; wait_for_svid()
and wait_for_no_svid() see it through the Workload API, as the workload does.
"""

import base64
import json
import os
import signal
import subprocess

from . import ports
from .processes import Failure, Process, poll_until

SPIRE_UID = 21000
NODE_PATH = "/node1"
NOTHING_OFFERED = ("no identity issued", "connection refused", "no such file or directory", "DeadlineExceeded")

SERVER_CONF = """
server {{
  trust_domain = "{trust_domain}"
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{dir}/server.sock"
  data_dir = "{dir}/server"
  log_level = "DEBUG"
  log_format = "json"
  ca_ttl = "{ca_ttl}"
  ca_key_type = "{ca_key_type}"
  jwt_key_type = "{jwt_key_type}"
  default_x509_svid_ttl = "{x509_svid_ttl}"
  default_jwt_svid_ttl = "{jwt_svid_ttl}"
  agent_ttl = "24h"
  jwt_issuer = "{jwt_issuer}"
  experimental {{
    cache_reload_interval = "1s"
  }}
}}
plugins {{
  DataStore "sql" {{
    plugin_data {{
      database_type = "sqlite3"
      connection_string = "{dir}/server/datastore.sqlite3"
    }}
  }}
  NodeAttestor "join_token" {{
    plugin_data {{}}
  }}
  KeyManager "disk" {{
    plugin_data {{
      keys_path = "{dir}/server/keys.json"
    }}
  }}
}}
"""

AGENT_CONF = """
agent {{
  trust_domain = "{trust_domain}"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{socket}"
  data_dir = "{dir}/agent"
  log_level = "DEBUG"
  log_format = "json"
  trust_bundle_path = "{dir}/bootstrap.pem"
  sds {{
    {sds}
  }}
  experimental {{
    sync_interval = "1s"
  }}
}}
plugins {{
  NodeAttestor "join_token" {{
    plugin_data {{}}
  }}
  KeyManager "disk" {{
    plugin_data {{
      directory = "{dir}/agent"
    }}
  }}
  WorkloadAttestor "unix" {{
    plugin_data {{}}
  }}
}}
"""


ISTIO_FEDERATED_SDS = 'default_bundle_name = "null"\n    default_all_bundles_name = "ROOTCA"'


class Spire:
    """A trust domain.  Use as a context manager, or start() and stop(); the agent can be ended and started alone."""

    def __init__(self, bin_dir: str, directory: str, *, trust_domain: str = "example.org", ca_ttl: str = "24h",
                 ca_key_type: str = "ec-p256", jwt_key_type: str = "rsa-2048", x509_svid_ttl: str = "1h",
                 jwt_svid_ttl: str = "5m", jwt_issuer: str | None = None, is_istio_federated: bool = False):
        """is_istio_federated: what Istio's proxies call ROOTCA holds the bundles of federated domains too."""
        self.trust_domain = trust_domain
        self.directory = directory
        self.jwt_issuer = jwt_issuer or f"https://oidc.{trust_domain}"
        self.socket_path = os.path.join(directory, "agent-socket", "agent.sock")
        self.server: Process | None = None
        self.agent: Process | None = None
        self._server_program = os.path.join(bin_dir, "spire-server")
        self._agent_program = os.path.join(bin_dir, "spire-agent")
        self._port = ports.free_port()
        self._settings = {"trust_domain": trust_domain, "dir": directory, "port": self._port, "ca_ttl": ca_ttl,
                          "ca_key_type": ca_key_type, "jwt_key_type": jwt_key_type, "x509_svid_ttl": x509_svid_ttl,
                          "jwt_svid_ttl": jwt_svid_ttl, "jwt_issuer": self.jwt_issuer, "socket": self.socket_path,
                          "sds": ISTIO_FEDERATED_SDS if is_istio_federated else ""}

    def __enter__(self) -> "Spire":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """What a workload is configured with."""
        return f"unix://{self.socket_path}"

    def id(self, path: str) -> str:
        """The SPIFFE ID of a path of this trust domain; a whole ID is left as it is."""
        return path if path.startswith("spiffe://") else f"spiffe://{self.trust_domain}{path}"

    # --- both processes

    def start(self) -> None:
        self.start_server()
        self.start_agent()

    def stop(self) -> None:
        self.stop_agent()
        self.stop_server()
        ports.release_port(self._port)

    def start_server(self) -> None:
        os.chmod(self.directory, 0o755)
        self._own_directory("server", 0o700)
        os.chown(self.directory, SPIRE_UID if os.getuid() == 0 else -1, -1)
        config = self._write("server.conf", SERVER_CONF.format(**self._settings))
        self.server = Process("spire-server", [self._server_program, "run", "-config", config],
                              log_dir=self.directory, uid=SPIRE_UID)
        # The log line comes just before the listener: the first command that is answered is the proof.
        self._wait_for_line(self.server, "Starting Server APIs")
        poll_until("the SPIRE server to answer", lambda: self._try_server("healthcheck") is not None, timeout=20)

    def stop_server(self) -> None:
        if self.server is not None:
            self.server.stop()

    def start_agent(self) -> None:
        """The first time by a join token; later with the key and SVID the agent has kept."""
        first_time = not os.path.exists(os.path.join(self.directory, "agent", "agent-data.json"))
        self._own_directory("agent", 0o700)
        self._own_directory("agent-socket", 0o755)
        config = self._write("agent.conf", AGENT_CONF.format(**self._settings))
        argv = [self._agent_program, "run", "-config", config]
        if first_time:
            self._write("bootstrap.pem", self.bundle_pem())
            token = self._server_json("token", "generate", "-spiffeID", self.id(NODE_PATH))["value"]
            argv += ["-joinToken", token]
        self.agent = Process("spire-agent", argv, log_dir=self.directory, uid=SPIRE_UID)
        self._wait_for_line(self.agent, "Starting agent APIs")
        poll_until("the agent's socket", lambda: os.path.exists(self.socket_path), timeout=10)

    def stop_agent(self) -> None:
        if self.agent is not None:
            self.agent.stop()

    def kill_agent(self) -> None:
        """As a node's crash does: the socket file stays behind, and nobody answers it."""
        self.agent.kill()

    def restart_agent(self) -> None:
        self.stop_agent()
        self.start_agent()

    def freeze_agent(self) -> None:
        """The agent takes connections (its kernel does) and says nothing."""
        self.agent.send_signal(signal.SIGSTOP)

    def thaw_agent(self) -> None:
        self.agent.send_signal(signal.SIGCONT)

    # --- entries

    def create_entry(self, path: str, uid: int, *, hint: str = "", x509_svid_ttl: int = 0, jwt_svid_ttl: int = 0,
                     federates_with: tuple[str, ...] = (), dns_names: tuple[str, ...] = (), wait: bool = True) -> str:
        """An identity for all processes of a uid; the entry's id.  Comes back when the workload gets it."""
        answer = self._server_json("entry", "create", *self._entry_options(
            path, uid, hint, x509_svid_ttl, jwt_svid_ttl, federates_with, dns_names))
        result = answer["results"][0]
        if result["status"]["code"] != 0:
            raise Failure(f"entry for {path} refused: {result['status']['message']}")
        if wait:
            self.wait_for_svid(uid, path)
        return result["entry"]["id"]

    def update_entry(self, entry_id: str, path: str, uid: int, *, hint: str = "", x509_svid_ttl: int = 0,
                     jwt_svid_ttl: int = 0, federates_with: tuple[str, ...] = (),
                     dns_names: tuple[str, ...] = ()) -> None:
        """SPIRE replaces an entry as a whole: what is not named falls back to its default."""
        self._server_json("entry", "update", "-entryID", entry_id, *self._entry_options(
            path, uid, hint, x509_svid_ttl, jwt_svid_ttl, federates_with, dns_names))

    def delete_entry(self, entry_id: str) -> None:
        self._server("entry", "delete", "-entryID", entry_id)

    def entries(self) -> list[dict]:
        return self._server_json("entry", "show")["entries"]

    def _entry_options(self, path, uid, hint, x509_svid_ttl, jwt_svid_ttl, federates_with, dns_names) -> list[str]:
        options = ["-parentID", self.id(NODE_PATH), "-spiffeID", self.id(path), "-selector", f"unix:uid:{uid}",
                   "-x509SVIDTTL", str(x509_svid_ttl), "-jwtSVIDTTL", str(jwt_svid_ttl)]
        if hint:
            options += ["-hint", hint]
        for other in federates_with:
            options += ["-federatesWith", f"spiffe://{other}"]
        for name in dns_names:
            options += ["-dns", name]
        return options

    # --- what workloads get

    def svids(self, uid: int) -> list[dict]:
        """What the Workload API offers a uid now: dicts with spiffe_id, hint, x509_svid …; empty when nothing.

        Nothing is what an agent says that knows no entry, and what is heard of one that is gone or frozen.
        """
        done = self._as_workload(uid, "api", "fetch", "x509", "-output", "json", "-timeout", "10s")
        if done.returncode != 0:
            said = done.stderr + done.stdout
            if not any(words in said for words in NOTHING_OFFERED):
                raise Failure(f"uid {uid} asked the agent in vain: {said}")
            return []
        return json.loads(done.stdout).get("svids", [])

    def wait_for_svid(self, uid: int, path: str, timeout: float = 20) -> dict:
        wanted = self.id(path)
        return poll_until(f"uid {uid} to be offered {wanted}",
                          lambda: next((s for s in self.svids(uid) if s["spiffe_id"] == wanted), None), timeout)

    def wait_for_no_svid(self, uid: int, path: str, timeout: float = 20) -> None:
        wanted = self.id(path)
        poll_until(f"uid {uid} to lose {wanted}",
                   lambda: all(s["spiffe_id"] != wanted for s in self.svids(uid)), timeout)

    def write_svid(self, uid: int, directory: str) -> dict[str, str]:
        """A workload's first SVID as files: {"cert", "key", "bundle"}; readable by root alone unless chmod'ed."""
        os.makedirs(directory, exist_ok=True)
        if os.getuid() == 0:
            os.chown(directory, uid, uid)
        done = self._as_workload(uid, "api", "fetch", "x509", "-write", directory)
        if done.returncode != 0:
            raise Failure(f"uid {uid} got no SVID: {done.stderr or done.stdout}")
        return {"cert": f"{directory}/svid.0.pem", "key": f"{directory}/svid.0.key",
                "bundle": f"{directory}/bundle.0.pem"}

    def fetch_jwt(self, uid: int, audience: str, path: str | None = None) -> str:
        """A JWT-SVID, as a workload gets it."""
        options = ["-spiffeID", self.id(path)] if path else []
        done = self._as_workload(uid, "api", "fetch", "jwt", "-audience", audience, "-output", "json", *options)
        if done.returncode != 0:
            raise Failure(f"uid {uid} got no JWT-SVID: {done.stderr or done.stdout}")
        answers = json.loads(done.stdout)
        return next(answer["svids"][0]["svid"] for answer in answers if answer.get("svids"))

    # --- bundles

    def bundle(self) -> dict:
        """The trust domain's bundle as a JWK set: X.509 authorities and JWT keys."""
        return json.loads(self._server("bundle", "show", "-format", "spiffe"))

    def jwks(self) -> dict:
        """The JWT keys alone, as an OIDC provider publishes them."""
        return {"keys": [key for key in self.bundle()["keys"] if key["use"] == "jwt-svid"]}

    def bundle_pem(self) -> str:
        """The X.509 authorities, concatenated."""
        return self._server("bundle", "show", "-format", "pem")

    def bundle_ders(self) -> list[bytes]:
        return [base64.b64decode(key["x5c"][0]) for key in self.bundle()["keys"] if key["use"] == "x509-svid"]

    def trust(self, other: "Spire") -> None:
        """Takes the other domain's bundle; entries then name it with federates_with.  Call again after a rotation."""
        self._server("bundle", "set", "-format", "spiffe", "-id", f"spiffe://{other.trust_domain}",
                     stdin=json.dumps(other.bundle()))

    def distrust(self, other: "Spire") -> None:
        self._server("bundle", "delete", "-id", f"spiffe://{other.trust_domain}", "-mode", "dissociate")

    # --- rotation of the CA

    def prepare_ca(self) -> str:
        """A second X.509 authority, in the bundle but not yet signing; its id."""
        return self._server_json("localauthority", "x509", "prepare")["prepared_authority"]["authority_id"]

    def activate_ca(self, authority_id: str) -> str:
        """From now on this one signs; the id of the old one."""
        self._server("localauthority", "x509", "activate", "-authorityID", authority_id)
        return self._server_json("localauthority", "x509", "show")["old"]["authority_id"]

    def taint_ca(self, authority_id: str) -> None:
        """Every SVID of an old authority is to be replaced at once."""
        self._server("localauthority", "x509", "taint", "-authorityID", authority_id)

    def revoke_ca(self, authority_id: str) -> None:
        """The old, tainted authority leaves the bundle."""
        self._server("localauthority", "x509", "revoke", "-authorityID", authority_id)

    def authorities(self) -> dict:
        return self._server_json("localauthority", "x509", "show")

    # --- below

    def _own_directory(self, name: str, mode: int) -> None:
        path = os.path.join(self.directory, name)
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
        if os.getuid() == 0:
            os.chown(path, SPIRE_UID, SPIRE_UID)

    def _write(self, name: str, text: str) -> str:
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def _wait_for_line(self, process: Process, message: str) -> None:
        # SPIRE logs on stdout.
        process.wait_for_line(message, timeout=60, stream="stdout")

    def _server(self, *command: str, stdin: str | None = None) -> str:
        done = subprocess.run(self._server_command(command), input=stdin, capture_output=True, text=True, timeout=30)
        if done.returncode != 0:
            raise Failure(f"spire-server {' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    def _server_json(self, *command: str):
        return json.loads(self._server(*command, "-output", "json"))

    def _try_server(self, *command: str) -> str | None:
        done = subprocess.run(self._server_command(command), capture_output=True, text=True, timeout=30)
        return done.stdout if done.returncode == 0 else None

    def _server_command(self, command) -> list[str]:
        words = list(command)
        # Options come after the subcommand's own words; the socket's may stand first among them.
        first_option = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
        words[first_option:first_option] = ["-socketPath", os.path.join(self.directory, "server.sock")]
        return [self._server_program, *words]

    def _as_workload(self, uid: int, *command: str) -> subprocess.CompletedProcess:
        prefix = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--"]
        return subprocess.run(
            [*(prefix if os.getuid() == 0 else []), self._agent_program, *command, "-socketPath", self.socket_path],
            capture_output=True, text=True, timeout=40, cwd="/")
