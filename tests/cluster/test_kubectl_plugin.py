# SPDX-License-Identifier: Apache-2.0
"""`kubectl svidmail` against real pods, the real gateway and its real log: what a person sees at night."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import time

import pytest
import yaml
from support.cluster import APP_IMAGE, SVIDMAIL_IMAGE
from support.processes import poll_until

DEPLOY = pathlib.Path(__file__).resolve().parent.parent.parent / "deploy"
ENVELOPE = ["--to", "user@customer.example", "--from", "shop@shop.example"]

# Istio's usual text, and the provider of helm/mail-egress/README.md, which names the peer.
TEXT_LOG = {"accessLogEncoding": "TEXT"}
PEER_LOG = {"accessLogEncoding": "JSON", "accessLogFormat": json.dumps({
    "time": "%START_TIME%", "peer": "%DOWNSTREAM_PEER_URI_SAN%", "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "sni": "%REQUESTED_SERVER_NAME%", "method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%", "code": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%", "details": "%RESPONSE_CODE_DETAILS%",
    "terminated": "%CONNECTION_TERMINATION_DETAILS%", "upstream": "%UPSTREAM_HOST%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%"})}

DECISIVE = "decided by connection_termination_details=rbac_access_denied_matched_policy[none]"


@pytest.fixture
def kubectl_svidmail(cluster):
    """kubectl_svidmail(*words, shell=…): kubectl finds the plugin in PATH, as users have it, or that shell runs it."""

    def run(*words: str, shell: list[str] | None = None, path: str = "", kubeconfig: str = cluster.kubeconfig,
            stdin: str | None = None) -> subprocess.CompletedProcess:
        program = ["kubectl", "svidmail"] if shell is None else [*shell, str(DEPLOY / "kubectl-svidmail")]
        path = path or os.environ["PATH"]
        return subprocess.run(
            cluster.node.network_command("env", f"PATH={DEPLOY}:{cluster.parts.kubernetes_bin}:{path}", *program,
                                         *words),
            capture_output=True, text=True, timeout=60, input=stdin, stdin=None if stdin else subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": cluster.directory, "KUBECONFIG": kubeconfig})

    return run


@pytest.fixture
def checkout(shop):
    """A pod that has sent a mail, and knows it."""
    shop.start_pod("serve")
    shop.wait_for_mail("checkout")
    shop.app_says("checkout", "sent")
    return shop


@pytest.fixture
def stranger(shop):
    """A pod whose identity the gateway's policy does not name."""
    shop.start_stranger()
    poll_until("the refusal", lambda: "rbac_access_denied" in shop.svidmail("stranger", "status"), 20)
    return shop


def lines_of(result: subprocess.CompletedProcess) -> dict[str, list[str]]:
    """check's table: the words of each pod's line, two blanks apart."""
    return {words[1]: words for words in (re.split(r"  +", line) for line in result.stdout.splitlines()
                                          if not line.startswith("    "))}


# --- check


def test_check_has_a_line_for_each_pod_and_fails_while_one_is_not_well(kubectl_svidmail, checkout, cluster):
    checkout.start_pod("idle", name="without", labelled=False)
    fine = kubectl_svidmail("check", "-n", checkout.namespace)
    assert fine.returncode == 0 and fine.stderr == "", fine
    table = lines_of(fine)
    assert list(table) == ["POD", "checkout"], "the pod without a sidecar has no line"
    assert table["checkout"][:3] == [checkout.namespace, "checkout", "ready"]
    assert re.fullmatch(r"\d+ min", table["checkout"][3]) and table["checkout"][4] in ("ok", "idle")
    assert re.fullmatch(r"250, \d+ s ago", table["checkout"][5]) and table["checkout"][6] == "0"
    checkout.start_stranger()
    checkout.start_pod("idle", name="broken", ready=False, volumes=[
        {"name": "app", "configMap": {"name": "app"}}, {"name": "svidmail-config", "configMap": {"name": "none"}}])
    poll_until("the refusal", lambda: "rbac_access_denied" in checkout.svidmail("stranger", "status"), 20)
    bad = kubectl_svidmail("-n", checkout.namespace, "check")
    table = lines_of(bad)
    assert bad.returncode == 1 and table["checkout"][2] == "ready"
    assert table["stranger"][2] == "not ready" and "not allowed" in bad.stdout
    assert table["broken"][2] == "not there" and "its container svidmail: " in bad.stdout
    chosen = kubectl_svidmail("check", "-n", checkout.namespace, "--selector=app=checkout,app!=x")
    assert set(lines_of(chosen)) == set(table)
    everywhere = lines_of(kubectl_svidmail("check", "-A"))
    assert set(table) <= set(everywhere)
    cluster.kubectl("label", "pod", "without", "--namespace", checkout.namespace, "svidmail.io/inject=true")
    unserved = kubectl_svidmail("check", "-n", checkout.namespace)
    assert unserved.returncode == 1 and lines_of(unserved)["without"][2] == "no sidecar"
    nothing = kubectl_svidmail("check", "-n", checkout.namespace, "-l", "app=none")
    assert nothing.returncode == 1 and "no pod with a container svidmail" in nothing.stderr


@pytest.mark.parametrize("shell", [["dash"], ["busybox", "sh"], ["bash", "--posix"]], ids=lambda shell: shell[0])
def test_every_shell_says_the_same(kubectl_svidmail, checkout, tmp_path, shell):
    path = ""
    if shell[0] == "busybox":  # its own awk and sed, and nothing else's
        subprocess.run(["busybox", "--install", "-s", str(tmp_path)], check=True)
        path, shell = str(tmp_path), [f"{tmp_path}/sh"]
    check = kubectl_svidmail("check", "-n", checkout.namespace, shell=shell, path=path)
    assert check.returncode == 0 and lines_of(check)["checkout"][2] == "ready", check
    log = kubectl_svidmail("gateway-log", "checkout", "-n", checkout.namespace, shell=shell, path=path)
    assert log.returncode == 0 and log.stdout.startswith("checkout: 10."), log
    assert checkout.spiffe_id in log.stdout


def test_a_pod_that_ends_is_not_called_ill(kubectl_svidmail, checkout, cluster):
    checkout.start_pod("job", name="letter", ready=False, restartPolicy="Never")
    cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/letter", "-n", checkout.namespace,
                    "--timeout=30s")
    result = kubectl_svidmail("check", "-n", checkout.namespace)
    assert result.returncode == 0 and lines_of(result)["letter"][2] == "ended"


# --- what svidmail in the pod says


def test_what_the_pods_svidmail_says_comes_out_with_its_exit_code(kubectl_svidmail, stranger):
    where = ["-n", stranger.namespace]
    status = kubectl_svidmail("status", "stranger", *where)
    assert status.returncode == 0 and status.stdout.startswith("svidmail ") and "/sa/stranger" in status.stdout
    assert json.loads(kubectl_svidmail("status", "stranger", "--output", "json", *where).stdout)["ready"] is False
    assert "Offered" in kubectl_svidmail(*where, "identity", "pod/stranger").stdout
    doctor = kubectl_svidmail("doctor", "stranger", "--output", "json", *where)
    assert doctor.returncode == 1, "it found something"
    assert json.loads(doctor.stdout)["result"] == "failed" and "command terminated" not in doctor.stderr
    wrong = kubectl_svidmail("status", "stranger", "--frobnicate", *where)
    assert wrong.returncode == 2 and "--frobnicate" in wrong.stderr


def test_send_takes_a_mail_to_ses(kubectl_svidmail, checkout):
    where = ["-n", checkout.namespace]
    sent = kubectl_svidmail("send", "checkout", *ENVELOPE, "--subject", "is it me? yes", *where)
    assert sent.returncode == 0 and "outcome      delivered" in sent.stdout, sent
    checkout.wait_for_mail("is it me? yes")
    mail = "From: shop@shop.example\nTo: user@customer.example\nSubject: by standard input\n\nHello.\n"
    assert kubectl_svidmail("send", "checkout", *where, *ENVELOPE, "-", stdin=mail).returncode == 0
    assert b"Hello." in checkout.wait_for_mail("by standard input").raw


def test_logs_are_the_sidecars(kubectl_svidmail, checkout):
    result = kubectl_svidmail("logs", "checkout", "-n", checkout.namespace, "--tail=200")
    assert result.returncode == 0 and '"event":"app.started"' in result.stdout
    assert len(kubectl_svidmail("logs", "checkout", "--tail=1", "-n", checkout.namespace).stdout.splitlines()) == 1


# --- gateway-log


@contextlib.contextmanager
def mesh_configured(cluster, changes: dict):
    """Istio's mesh configuration, changed for a while; istiod tells the gateway by itself."""
    def write(text: str) -> None:
        cluster.kubectl("patch", "configmap", "istio", "--namespace", "istio-system", "--type=merge",
                        "--patch", json.dumps({"data": {"mesh": text}}))

    before = cluster.get("configmap", "istio", "istio-system")["data"]["mesh"]
    write(yaml.safe_dump(yaml.safe_load(before) | changes))
    try:
        yield
    finally:
        write(before)


@pytest.mark.parametrize("log, line", [({}, r'\{"'), (TEXT_LOG, r"\[20"), (PEER_LOG, r'\{.*"peer":')],
                         ids=["JSON", "text", "with the peer"])
def test_gateway_log_tells_what_was_refused_to_this_pod_and_by_which_field(kubectl_svidmail, stranger, cluster, log,
                                                                           line):
    stranger.start_pod("serve", name="allowed")
    stranger.wait_for_mail("allowed")

    def asked(pod: str, since: int) -> str:
        result = kubectl_svidmail("gateway-log", pod, "-n", stranger.namespace, f"--since={since}s")
        assert result.returncode == 0, result
        return result.stdout

    def is_in_force() -> bool:
        kubectl_svidmail("doctor", "stranger", "-n", stranger.namespace)  # asks the gateway anew
        text = cluster.kubectl("logs", "--namespace", "mail-egress", "--selector", "istio=mail-egress", "--container",
                               "istio-proxy", "--tail=-1", "--since=30s").stdout
        return bool(re.search(rf"^{line}.*rbac_access_denied", text, re.MULTILINE))

    with mesh_configured(cluster, log):
        poll_until("the log in this form", is_in_force, 60, interval=1)
        began = time.monotonic()  # from here on the pod has no line in another form
        stranger.send("allowed", "in between")

        def refused() -> str | bool:
            is_in_force()
            text = asked("stranger", int(time.monotonic() - began) or 1)
            return DECISIVE in text and text

        text = poll_until("the refusal in the gateway's log", refused, 60, interval=1)
        assert "no policy of the gateway allows this identity" in text
        assert "connection to sts.eu-central-1.amazonaws.com" in text
        assert ("/sa/stranger\n    connection" in text) is ("peer" in line)
        other = asked("allowed", 3600)
        assert "rbac_access_denied" not in other
        assert re.search(r"^0 of [1-9]\d* calls were refused", other, re.MULTILINE), other


@contextlib.contextmanager
def aws_away(cluster):
    cluster.aws.stop()
    try:
        yield
    finally:
        cluster.node.call(cluster.aws.start)


@contextlib.contextmanager
def aws_with_a_wrong_certificate(cluster):
    aws = cluster.aws
    # A resumed session shows no certificate, and the first context has the keys of all tickets.
    aws.serve_certificate(aws.sts_host, cluster.authority.issue(aws.sts_host))
    aws.serve_certificate(aws.ses_host, cluster.authority.issue("somebody-else.example"))
    aws.cut_connections()
    try:
        yield
    finally:
        aws.serve_certificate(aws.ses_host, cluster.authority.issue(aws.ses_host))


@pytest.mark.parametrize("trouble, meaning, decisive", [
    (aws_away, "the gateway could not connect to AWS", r"upstream_transport_failure_reason=\S|response_flags=\S*UF"),
    (aws_with_a_wrong_certificate, "the gateway does not accept the certificate",
     r"upstream_transport_failure_reason=\S*CERTIFICATE_VERIFY_FAILED"),
], ids=["AWS is away", "AWS has a wrong certificate"])
def test_gateway_log_tells_trouble_behind_the_gateway(kubectl_svidmail, checkout, cluster, trouble, meaning, decisive):
    with trouble(cluster):
        code, text = checkout.send("checkout", "into the void")
        assert code == 451, text
    result = poll_until("it in the gateway's log", lambda: meaning in (text := kubectl_svidmail(
        "gateway-log", "checkout", "-n", checkout.namespace).stdout) and text, 30, interval=1)
    assert re.search(rf"{meaning}.*Not sent\n    decided by ({decisive})", result), result
    assert "POST /v2/email/outbound-emails to email.eu-central-1.amazonaws.com: 503" in result
    checkout.wait_ready_to_relay("checkout")
    assert checkout.send("checkout", "and it goes on")[0] == 250


def test_gateway_log_tells_a_name_that_it_does_not_serve(kubectl_svidmail, new_shop):
    shop = new_shop(configured=False)
    shop.configure(ses={"region": "us-east-1"})
    shop.start_pod("idle")
    result = poll_until("it in the gateway's log", lambda: "the gateway serves no such name" in (
        text := kubectl_svidmail("gateway-log", "checkout", "-n", shop.namespace).stdout) and text, 40, interval=1)
    assert re.search(r"decided by requested_server_name=\w+\.us-east-1\.amazonaws\.com", result), result


def test_gateway_log_tells_where_no_gateway_is(kubectl_svidmail, cluster, platform):
    result = kubectl_svidmail("gateway-log", "--gateway-namespace", "kube-system")
    assert result.returncode == 1 and "no gateway pod in the namespace kube-system" in result.stderr
    assert kubectl_svidmail("gateway-log").returncode == 0


# --- what goes wrong


def test_errors_say_what_is_missing(kubectl_svidmail, shop, cluster):
    shop.start_pod("idle", name="bare", labelled=False)
    pod = shop.pod_template("idle", labelled=False)
    pod["spec"]["containers"][0]["name"] = "svidmail"  # some other program's container of that name
    shop.apply({"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {"name": "impostor"}})
    cluster.wait_ready("pod/impostor", shop.namespace)
    where = ["-n", shop.namespace]
    for words, said in (
        (["status", "nobody"], 'pods "nobody" not found'),
        (["logs", "nobody"], 'pods "nobody" not found'),
        (["gateway-log", "nobody"], 'pods "nobody" not found'),
        (["status", "bare"], "has no container svidmail: it was created without the sidecar"),
        (["logs", "bare"], "has no container svidmail: it was created without the sidecar"),
        (["doctor", "impostor"], "holds no svidmail"),
        (["status", "bare", "--context", "nowhere"], "nowhere"),
        (["status", "bare", "--kubeconfig", "/nonexistent/config"], "/nonexistent/config"),
    ):
        result = kubectl_svidmail(*words, *where)
        assert result.returncode == 1 and result.stdout == "", (words, result)
        assert said in result.stderr and "usage" not in result.stderr, (words, result.stderr)


def test_svidmail_that_is_not_running_is_told_from_one_that_is_not_there(kubectl_svidmail, shop, cluster):
    shop.start_pod("idle", name="broken", ready=False, volumes=[
        {"name": "app", "configMap": {"name": "app"}}, {"name": "svidmail-config", "configMap": {"name": "none"}}])
    poll_until("kubelet to have looked at it", lambda: cluster.get("pod", "broken", shop.namespace)["status"].get(
        "initContainerStatuses"), 20)
    result = kubectl_svidmail("status", "broken", "-n", shop.namespace)
    assert result.returncode == 1 and "is not running now" in result.stderr, result


def test_an_image_that_is_too_old_is_told(kubectl_svidmail, shop, cluster):
    """What a svidmail says that lacks the subcommand; here by a script of that name."""
    script = '#!/bin/sh\necho "svidmail: there is no subcommand \\"$1\\"" >&2\nexit 2\n'
    shop.add_config_map("old", {"svidmail": script})
    pod = shop.pod_template("idle", labelled=False, image=APP_IMAGE)
    pod["spec"]["volumes"].append({"name": "old", "configMap": {"name": "old", "defaultMode": 0o755}})
    [container] = pod["spec"]["containers"]
    container["name"] = "svidmail"
    container["volumeMounts"].append({"name": "old", "mountPath": "/usr/local/bin/svidmail", "subPath": "svidmail"})
    shop.apply({"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {"name": "old"}})
    cluster.wait_ready("pod/old", shop.namespace)
    result = kubectl_svidmail("doctor", "old", "-n", shop.namespace)
    assert result.returncode == 1 and "too old for this" in result.stderr, result


def test_who_may_not_is_told_which_right_is_missing(kubectl_svidmail, checkout, cluster, tmp_path):
    """A user of its own, by --kubeconfig and --context."""
    checkout.add_service_account("looker")
    token = cluster.kubectl("create", "token", "looker", "--namespace", checkout.namespace).stdout.strip()
    admin = yaml.safe_load(pathlib.Path(cluster.kubeconfig).read_text())
    own = tmp_path / "config"
    own.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "clusters": [{"name": "rig", "cluster": admin["clusters"][0]["cluster"]}],
        "users": [{"name": "looker", "user": {"token": token}}],
        "contexts": [{"name": "on call", "context": {"cluster": "rig", "user": "looker",
                                                     "namespace": checkout.namespace}}]}))
    who = ["--kubeconfig", str(own), "--context", "on call"]
    for words, verb in ((["check"], "list"), (["status", "checkout"], "get"), (["logs", "checkout"], "get"),
                        (["gateway-log"], "list")):
        result = kubectl_svidmail(*who, *words)
        assert result.returncode == 1 and "you may not do this: " in result.stderr, result
        assert f'cannot {verb} resource "pods"' in result.stderr
    cluster.apply(rights_of_the_docs(checkout.namespace, "looker"))
    # The apiserver's authorizer hears of them a little later.
    poll_until("the rights to count", lambda: cluster.kubectl(
        "auth", "can-i", "create", "pods", "--subresource=exec", "--namespace", checkout.namespace,
        f"--as=system:serviceaccount:{checkout.namespace}:looker", check=False).returncode == 0, 20)
    for words in (["check"], ["status", "checkout"], ["logs", "checkout"], ["doctor", "checkout"]):
        result = kubectl_svidmail(*who, *words)
        assert result.returncode == 0, (words, result)


def rights_of_the_docs(namespace: str, account: str) -> list[dict]:
    """The Role that docs/kubectl.md gives, and its binding."""
    text = (DEPLOY.parent / "docs" / "kubectl.md").read_text()
    role = yaml.safe_load(re.search(r"```yaml\n(apiVersion: rbac.*?)```", text, re.DOTALL).group(1))
    role["metadata"]["namespace"] = namespace
    return [role, {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                   "metadata": {"name": role["metadata"]["name"], "namespace": namespace},
                   "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role",
                               "name": role["metadata"]["name"]},
                   "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]}]


# --- kubectl debug, as docs/kubectl.md has it


def test_debug_image_sees_the_pods_network_and_not_svidmails_files(checkout, cluster):
    """In a namespace with restricted PodSecurity."""
    script = """
        dig +short mail-egress.mail-egress.svc.cluster.local
        echo | openssl s_client -connect mail-egress.mail-egress.svc.cluster.local:9443 \
            -servername email.eu-central-1.amazonaws.com 2>&1 | openssl x509 -noout -ext subjectAltName
        cat /proc/1/cmdline | tr '\\0' ' '; echo
        cat /proc/1/environ 2>&1; ls /proc/1/root 2>&1
    """
    cluster.kubectl("debug", "checkout", "--namespace", checkout.namespace, f"--image={SVIDMAIL_IMAGE}-debug",
                    "--image-pull-policy=IfNotPresent", "--target=svidmail", "--profile=restricted", "--quiet",
                    "--container=look", "--", "sh", "-c", script)
    cluster.kubectl("wait", "pod/checkout", "--namespace", checkout.namespace, "--timeout=30s",
                    "--for=jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.exitCode}")
    said = cluster.logs(checkout.namespace, "checkout", "look")  # what it said before somebody is attached is lost
    assert re.search(r"^10\.96\.", said, re.MULTILINE), said
    assert "URI:spiffe://example.org/ns/mail-egress/sa/mail-egress" in said
    assert "svidmail run --config" in said
    assert said.count("Permission denied") == 2, "its environment and its files are closed"
