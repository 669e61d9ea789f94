# SPDX-License-Identifier: Apache-2.0
"""A pod with shareProcessNamespace: svidmail warns of it, and what it says is closed to the app is."""

import json

import pytest


def warnings(shop, name: str) -> list[dict]:
    return [line for line in shop.sidecar_log(name) if line["event"] == "pod.shared"]


@pytest.mark.parametrize("uid", [10001, 65532], ids=["another uid", "the same uid"])
def test_app_sees_the_process_and_neither_its_memory_nor_its_files(shop, uid):
    security = {"runAsNonRoot": True, "runAsUser": uid, "seccompProfile": {"type": "RuntimeDefault"}}
    shop.start_pod("idle", shareProcessNamespace=True, securityContext=security)
    [warning] = warnings(shop, "checkout")
    assert warning["level"] == "warn" and warning["uid"] == "65532"
    assert "are closed to all of them" in warning["protected"]
    assert "shares its process namespace" in shop.svidmail("checkout", "status")
    assert json.loads(shop.svidmail("checkout", "status", "--output=json"))["pod"]["memory_open"] is False
    script = """
        for process in /proc/[0-9]*; do
            tr '\\0' ' ' <"$process/cmdline" | grep -q '^svidmail run' || continue
            echo seen; id -u
            for file in environ mem root/etc/svidmail/svidmail.yaml fd; do
                ls "$process/$file" >/dev/null 2>&1 && cat "$process/$file" >/dev/null 2>&1 && echo "open: $file"
            done
        done
    """
    said = shop.exec("checkout", "app", "sh", "-c", script, check=False).stdout.split("\n")
    assert said == ["seen", str(uid), ""], said


def test_nothing_is_said_where_nothing_is_shared(shop):
    shop.start_pod("idle")
    assert warnings(shop, "checkout") == []
    assert json.loads(shop.svidmail("checkout", "status", "--output=json"))["pod"]["shares_processes"] is False
