# SPDX-License-Identifier: Apache-2.0
"""An SMTP port beyond loopback is refused, and when it is forced it is not forgotten."""


def test_forced_wildcard_listens_and_warns(new_sidecar, spire, gateway, aws):
    sidecar = new_sidecar(spire, gateway, aws, start=False)
    sidecar.config["smtp"] |= {"listen": [f"0.0.0.0:{sidecar.port}"], "allow_any_address": True}
    sidecar.expect_warning("app.config", key="smtp.listen")
    sidecar.start()
    assert sidecar.wait_for_event("app.config")["value"] == f"0.0.0.0:{sidecar.port}"
    with sidecar.smtp() as client:
        assert client.noop()[0] == 250
