# SPDX-License-Identifier: Apache-2.0
"""kubectl exec and kubectl debug: what a person at a terminal has, in an image without a shell."""

import json

import pytest
from support.cluster import SVIDMAIL_IMAGE
from support.processes import poll_until

DEBUG_IMAGE = f"{SVIDMAIL_IMAGE}-debug"


@pytest.fixture(scope="module")
def shop(shared_shop):
    """With a pod `checkout` that has sent a mail."""
    shared_shop.start_pod("serve")
    shared_shop.wait_for_mail("checkout")
    # SES has it before svidmail knows of that.
    shared_shop.app_says("checkout", "sent")
    return shared_shop


def test_status_says_ready_and_shows_the_last_mail(shop):
    screen = shop.svidmail("checkout", "status")
    assert screen.splitlines()[0].endswith(": ready")
    status = json.loads(shop.svidmail("checkout", "status", "--output=json"))
    assert status["ready"] is True
    assert status["last"][0]["text"].endswith(shop.wait_for_mail("checkout").message_id)
    assert status["last"][0]["text"] in screen


def test_doctor_finds_every_step_to_ses_in_order(shop):
    found = json.loads(shop.svidmail("checkout", "doctor", "--output=json"))
    results = {check["id"]: check["result"] for check in found["checks"]}
    assert set(results.values()) <= {"ok", "not_checked"}, found
    assert results["gateway.mail.policy"] == results["aws.ses"] == "ok"


def test_identity_shows_the_one_of_the_container(shop):
    said = json.loads(shop.svidmail("checkout", "identity", "--output=json"))
    assert said["mesh"]["spiffe_id"] == said["aws"]["spiffe_id"] == shop.spiffe_id
    assert "PRIVATE" not in shop.svidmail("checkout", "identity")


def test_send_shows_the_path_of_a_test_mail(shop):
    said = shop.svidmail("checkout", "send", "--from=shop@shop.example", "--to=user@customer.example",
                         "--subject=by hand")
    mail = shop.wait_for_mail("by hand")
    assert mail.message_id in said


def test_health_is_an_exit_code(shop):
    for options in ([], ["--ready"]):
        done = shop.exec("checkout", "svidmail", "svidmail", "health", *options, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    shop.start_stranger()
    # Until then nothing speaks against it: it has an identity.
    poll_until("the refusal", lambda: "rbac_access_denied" in shop.svidmail("stranger", "status"), 20)
    alive = shop.exec("stranger", "svidmail", "svidmail", "health", check=False)
    ready = shop.exec("stranger", "svidmail", "svidmail", "health", "--ready", check=False)
    assert alive.returncode == 0, "SMTP answers, so the app may start"
    assert ready.returncode == 1 and ready.stderr.startswith("not ready: ")


def test_the_image_has_no_shell(shop):
    done = shop.exec("checkout", "svidmail", "sh", "-c", "true", check=False)
    assert done.returncode != 0 and "executable file not found" in done.stderr


def debug(shop, name: str, *argv: str) -> str:
    """What argv says in an ephemeral container of the debug image beside the sidecar, under the restricted profile."""
    shop.cluster.kubectl(
        "debug", "pod/checkout", "--namespace", shop.namespace, f"--container={name}", f"--image={DEBUG_IMAGE}",
        "--image-pull-policy=IfNotPresent", "--profile=restricted", "--target=svidmail", "--", *argv)

    def has_ended() -> bool:
        status = shop.cluster.get("pod", "checkout", shop.namespace)["status"]
        return any(each["name"] == name and "terminated" in each["state"]
                   for each in status.get("ephemeralContainerStatuses", []))

    poll_until(f"{' '.join(argv)} to end", has_ended, 30, interval=0.2)
    return shop.cluster.logs(shop.namespace, "checkout", name)


def test_the_debug_image_brings_openssl_curl_and_dig_beside_the_sidecar(shop):
    """What doctor's cures say to type; the target's processes are in sight, its memory is not."""
    said = debug(shop, "tools", "sh", "-c", """
        dig +short mail-egress.mail-egress.svc.cluster.local
        openssl s_client -connect mail-egress.mail-egress.svc.cluster.local:9443 \\
            -servername email.eu-central-1.amazonaws.com </dev/null 2>&1 | openssl x509 -noout -ext subjectAltName
        curl --silent --show-error http://127.0.0.1:9925/metrics | grep ^svidmail_smtp_sessions
        cat /proc/1/comm
        cat /proc/1/environ >/dev/null
        """)
    service = shop.cluster.get("service", "mail-egress", "mail-egress")
    assert service["spec"]["clusterIP"] in said
    assert "URI:spiffe://example.org/ns/mail-egress/sa/mail-egress" in said
    assert "svidmail_smtp_sessions 0" in said
    assert "\nsvidmail\n" in said
    assert "/proc/1/environ: Permission denied" in said
