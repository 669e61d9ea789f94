# SPDX-License-Identifier: Apache-2.0
"""From an app in a pod to SES: the built image as a native sidecar, the charts as they are, the gateway's real pod."""

import datetime

from support.cluster_shop import now
from support.processes import poll_until


def test_an_app_sends_its_first_mail_within_3_s_of_its_pods_start(shop):
    created = now()
    shop.start_pod("serve", ready=False)
    sent = shop.app_says("checkout", "sent")
    mail = shop.wait_for_mail("checkout")
    # The app may have its verdict before it is logged.
    poll_until("mail.done", lambda: "mail.done" in [line["event"] for line in shop.sidecar_log("checkout")], 10, 0.2)
    log = shop.sidecar_log("checkout")
    started = datetime.datetime.fromisoformat(log[0]["time"]).timestamp()
    print(f"first mail {mail.at - started:.2f} s after the first container's start, {mail.at - created:.2f} s after the"
          f" pod's creation, at the {sent['tries']}. try")
    assert mail.at - started < 3
    assert sent["text"].endswith(mail.message_id)
    assert mail.request.signature_verified
    [done] = [entry for entry in log if entry["event"] == "mail.done"]
    assert done["gateway"] == "spiffe://example.org/ns/mail-egress/sa/mail-egress"


def test_the_gateway_logs_the_call_with_the_pods_address(shop, cluster):
    shop.start_pod("serve")
    shop.wait_for_mail("checkout")
    [pod] = cluster.pods(shop.namespace)
    call = cluster.wait_for_gateway_log(
        requested_server_name="email.eu-central-1.amazonaws.com",
        downstream_remote_address=lambda address: address.startswith(f"{pod['status']['podIP']}:"))
    assert (call["response_code"], call["path"]) == (200, "/v2/email/outbound-emails")


def test_a_pod_with_istio_proxy_sends_mail(mesh_shop, cluster):
    mesh_shop.start_pod("serve", mesh=True, ready=False)
    mesh_shop.app_says("checkout", "sent")
    [pod] = cluster.pods(mesh_shop.namespace)
    assert [each["name"] for each in pod["spec"]["initContainers"]] == ["istio-init", "istio-proxy", "svidmail"]
    assert len(mesh_shop.mails("checkout")) == 1
