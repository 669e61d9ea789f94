# SPDX-License-Identifier: Apache-2.0
"""The subcommands as a person or a probe uses them: what they say, on which stream, and the exit code."""

import json
import os
import re
import subprocess

import pytest
import yaml
from support.mails import RECIPIENT, SENDER, send
from support.world import GATEWAY_PATH, SIDECAR_PATH

ASKING = ["health", "status", "doctor", "identity", "metrics"]
PATHS = {"to": ["--to", RECIPIENT], "from": ["--from", SENDER]}


@pytest.fixture
def not_ready(new_sidecar, spire, gateway, aws):
    """A svidmail whose agent is not there."""
    return new_sidecar(spire, gateway, aws, {"identity": {"endpoint": "unix:///nonexistent/agent.sock"}})


def assert_one_line(result, code: int, *words: str) -> None:
    """A refusal: nothing on stdout, one short line on stderr."""
    assert result.returncode == code, result
    assert result.stdout == ""
    assert all(word in result.stderr for word in words), result.stderr
    assert len(result.stderr.splitlines()) <= 2, result.stderr


# --- svidmail itself


def test_help_lists_every_subcommand_and_each_has_its_own(svidmail):
    whole = svidmail("--help")
    assert whole.returncode == 0
    names = re.findall(r"^  ([a-z-]+)  ", whole.stdout, re.MULTILINE)
    assert {"run", "check-config", "send", "version", *ASKING} <= set(names)
    for name in names:
        own = svidmail(name, "--help")
        assert own.returncode == 0 and own.stdout.startswith("Usage: svidmail " + name), own
        assert own.stderr == ""


@pytest.mark.parametrize("arguments", [(), ("frobnicate",), ("stats",), ("\x1b[31m",)], ids=str)
def test_unknown_subcommand_is_refused_with_2(svidmail, arguments):
    result = svidmail(*arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert "svidmail" in result.stderr and "\x1b" not in result.stderr
    if arguments == ("stats",):
        assert "did you mean status?" in result.stderr


@pytest.mark.parametrize("name", ["run", "check-config", "send", "version", *ASKING])
def test_unknown_option_is_refused_with_2(svidmail, name):
    result = svidmail(name, "--no-such-option")
    assert result.returncode == 2 and "--no-such-option" in result.stderr and result.stdout == ""


@pytest.mark.parametrize("name", ["run", "version", *ASKING])
def test_stray_argument_is_refused_with_2(svidmail, name):
    assert svidmail(name, "stray").returncode == 2


@pytest.mark.parametrize("arguments", [("version",), ("--version",)])
def test_version_names_the_libraries(svidmail, arguments):
    result = svidmail(*arguments)
    assert result.returncode == 0 and result.stderr == ""
    assert re.match(r"svidmail \d+\.\d+\.\d+ \(commit [0-9a-f]+", result.stdout)
    for library in ("OpenSSL", "libuv", "libcurl", "gRPC core", "libmicrohttpd", "jansson"):
        assert re.search(rf"^{library} \S", result.stdout, re.MULTILINE), result.stdout


def test_output_that_goes_nowhere_is_a_failure(svidmail):
    with open("/dev/full", "w") as full:
        result = svidmail("version", stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert result.returncode == 1 and "standard output" in result.stderr


# --- check-config

GOOD = {
    "gateway": {"host": "gw.example", "spiffe_ids": ["spiffe://example.org/gw"]},
    "ses": {"region": "eu-central-1"},
    "aws": {"role_arn": "arn:aws:iam::123456789012:role/x"},
    "delivery": {"spool": {"path": ""}},
}

BAD = {
    "unknown key": ("gateway:\n  hots: x\n", r":2:3: gateway\.hots: ", "did you mean"),
    "wrong type": ("gateway: [1, 2]\n", r":1:\d+: gateway: ", ""),
    "no number": ("gateway:\n  ports: {api: many}\n", r":2:\d+: gateway\.ports\.api: ", "allowed"),
    "port too high": ("gateway:\n  ports: {api: 70000}\n", r":2:\d+: gateway\.ports\.api: ", "65535"),
    "bad SPIFFE ID": ("gateway:\n  spiffe_ids:\n    - https://x\n", r":3:\d+: gateway\.spiffe_ids", ""),
    "bad duration": ("smtp:\n  idle_timeout: soon\n", r":2:\d+: smtp\.idle_timeout: ", "allowed"),
    "bad choice": ("gateway:\n  tls: maybe\n", r":2:\d+: gateway\.tls: ", "end-to-end"),
    "wildcard": ("smtp:\n  listen: ['0.0.0.0:25']\n" + yaml.safe_dump(GOOD), r":2:\d+: smtp\.listen",
                 "allow_any_address"),
    "twice": ("log: {}\nlog: {}\n", r":2:\d+: log", "twice"),
    "no YAML": ("a: [b\nc: d: e\n", r":\d+:\d+: ", ""),
    "anchors": ("log: &a {level: info}\nsmtp: *a\n", r":\d+:\d+: ", ""),
    "tabs": ("log:\n\tlevel: info\n", r":2:\d+: ", ""),
    "control characters": ("log: {level: \"\\e[31m\"}\n", r":1:\d+: log\.level: ", "allowed"),
    "nothing": ("", r":1:1: gateway\.host: ", "is missing"),
    "no UTF-8": (b"log: {level: \xff\xfe}\n", r":1:14: ", "UTF-8"),
}


@pytest.fixture
def config_file(workdir):
    """config_file(content): its path, readable by all."""

    def write(content: str | bytes | dict) -> str:
        path = os.path.join(workdir(), "svidmail.yaml")
        if isinstance(content, dict):
            content = yaml.safe_dump(content)
        with open(path, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        os.chmod(path, 0o644)
        return path

    return write


def test_good_configuration_is_ok(svidmail, config_file):
    path = config_file(GOOD)
    result = svidmail("check-config", path)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{path}: ok\n", "")


@pytest.mark.parametrize("kind", BAD)
def test_bad_configuration_is_refused_by_line_and_column_as_by_run(svidmail, config_file, kind):
    content, place, words = BAD[kind]
    path = config_file(content)
    result = svidmail("check-config", path)
    assert_one_line(result, 2, words)
    assert re.match(re.escape(path) + place, result.stderr), result.stderr
    assert "\x1b" not in result.stderr
    assert svidmail("run", "--config", path).stderr == result.stderr


@pytest.mark.parametrize("path, words", [("/nonexistent/x.yaml", "No such file"), ("/tmp", "directory"),
                                         ("/dev/zero", ""), ("/root/.x/x.yaml", "")])
def test_configuration_that_cannot_be_read_is_named(svidmail, path, words):
    result = svidmail("check-config", path)
    assert_one_line(result, 2, words, path)


def test_configuration_of_100_mb_is_refused(svidmail, config_file):
    result = svidmail("check-config", config_file(b"# comment\n" * 10_000_000))
    assert_one_line(result, 2)


# --- those that ask a running svidmail


@pytest.mark.parametrize("name", ASKING)
def test_nobody_to_ask_is_1_and_names_the_socket(svidmail, name):
    assert_one_line(svidmail(name, "--socket", "/nonexistent/admin.sock"), 1, "/nonexistent/admin.sock")


def test_health_tells_living_from_ready(sidecar, not_ready):
    assert sidecar.cli("health").returncode == 0
    assert sidecar.cli("health", "--ready").returncode == 0
    assert not_ready.cli("health").returncode == 0
    late = not_ready.cli("health", "--ready")
    assert late.returncode == 1 and "no directory /nonexistent" in late.stderr, late


def test_socket_may_be_taken_from_the_configuration(sidecar, svidmail):
    assert svidmail("health", "--ready", "--config", sidecar.config_file).returncode == 0
    assert svidmail("health", "--config", "/nonexistent.yaml").returncode == 2


def test_strangers_may_not_ask(sidecar, svidmail):
    result = svidmail("status", "--socket", sidecar.admin_socket, uid=21009)
    assert_one_line(result, 1, "ermission denied")


def test_status_shows_one_screen_without_a_secret(sidecar, aws, spire):
    assert send(sidecar)[0] == 250
    screen = sidecar.cli("status")
    assert screen.returncode == 0 and screen.stderr == ""
    for words in (f"127.0.0.1:{sidecar.port}", spire.id(SIDECAR_PATH), "delivered", " left"):
        assert words in screen.stdout, (words, screen.stdout)
    assert len(screen.stdout.splitlines()) <= 40 and screen.stdout.isascii()
    status = json.loads(sidecar.cli("status", "--output", "json").stdout)
    assert status["last"][0]["outcome"] == "delivered"
    [key] = aws.sts.keys.values()
    everything = screen.stdout + json.dumps(status) + sidecar.metrics_text() + sidecar.cli("identity").stdout
    for secret in (key.secret_access_key, key.session_token, "PRIVATE KEY"):
        assert secret not in everything


def test_status_of_one_that_is_not_ready_says_why(not_ready):
    not_ready.wait_for_event("workload_api.waiting")
    screen = not_ready.cli("status")
    assert screen.returncode == 0 and "/nonexistent/agent.sock" in screen.stdout


@pytest.mark.parametrize("name", ["status", "identity"])
def test_output_is_json_or_text(sidecar, name):
    assert isinstance(json.loads(sidecar.cli(name, "--output", "json").stdout), dict)
    assert not sidecar.cli(name, "--output", "text").stdout.startswith("{")
    assert sidecar.cli(name, "--output", "xml").returncode == 2


def test_identity_shows_what_is_offered_and_used(sidecar, spire):
    result = sidecar.cli("identity")
    assert result.returncode == 0 and spire.id(SIDECAR_PATH) in result.stdout and "example.org" in result.stdout
    offered = json.loads(sidecar.cli("identity", "-o", "json").stdout)["offered"]
    assert [svid["spiffe_id"] for svid in offered] == [spire.id(SIDECAR_PATH)]


def test_metrics_are_what_prometheus_scrapes(sidecar):
    assert send(sidecar)[0] == 250
    result = sidecar.cli("metrics")
    assert result.returncode == 0
    names = {line.split()[2] for line in result.stdout.splitlines() if line.startswith("# TYPE")}
    assert names == {line.split()[2] for line in sidecar.metrics_text().splitlines() if line.startswith("# TYPE")}
    assert {"svidmail_smtp_sessions", "svidmail_attempts_total", "svidmail_build_info"} <= names


# --- send


def test_send_shows_each_step_and_the_whole_path(sidecar, aws, spire):
    result = sidecar.cli("send", "--to", RECIPIENT, "--from", SENDER, "--subject", "try it")
    assert result.returncode == 0, result
    [mail] = aws.wait_for_mails(1)
    assert mail.parsed["Subject"] == "try it" and mail.recipients == [RECIPIENT]
    for words in ("MAIL FROM", "250 2.0.0 Ok " + mail.message_id, spire.id(GATEWAY_PATH), mail.message_id):
        assert words in result.stdout, (words, result.stdout)


def test_send_names_the_gateway_that_the_mail_has_seen(new_sidecar, spire, gateway, aws):
    spiffe_ids = [spire.id("/ns/other/sa/mail-egress"), spire.id(GATEWAY_PATH)]
    sidecar = new_sidecar(spire, gateway, aws, {"gateway": {"spiffe_ids": spiffe_ids}})
    sidecar.wait_ready()
    result = sidecar.cli("send", "--to", RECIPIENT, "--from", SENDER)
    assert result.returncode == 0, result
    assert spiffe_ids[1] in result.stdout and spiffe_ids[0] not in result.stdout, result.stdout


def test_send_takes_addresses_in_angle_brackets(sidecar, aws):
    result = sidecar.cli("send", "--to", f"<{RECIPIENT}>", "--to", "other@customer.example", "--from", f"<{SENDER}>")
    assert result.returncode == 0, result
    [mail] = aws.wait_for_mails(1)
    assert mail.recipients == [RECIPIENT, "other@customer.example"]
    assert f"\r\nFrom: <{SENDER}>\r\n".encode() in mail.raw
    assert f"\r\nTo: <{RECIPIENT}>,\r\n <other@customer.example>\r\n".encode() in mail.raw


def test_send_takes_a_mail_from_stdin_byte_by_byte(sidecar, aws):
    text = "From: shop@shop.example\nTo: a@b.example\nSubject: own\n\n.dot\n..\nend"
    result = sidecar.cli("send", "--to", RECIPIENT, "--from", SENDER, "-", stdin=text)
    assert result.returncode == 0, result
    [mail] = aws.wait_for_mails(1)
    assert mail.body == b".dot\r\n..\r\nend\r\n"


def test_send_of_a_refused_mail_is_1_with_the_reason(sidecar, aws):
    aws.inject("sender-not-verified")
    result = sidecar.cli("send", "--to", RECIPIENT, "--from", SENDER)
    assert result.returncode == 1
    assert "550" in result.stderr and "not verified" in result.stderr, result


def test_send_without_an_identity_is_1_with_the_reason(not_ready):
    result = not_ready.cli("send", "--to", RECIPIENT, "--from", SENDER)
    assert result.returncode == 1 and "451 4.7.0" in result.stderr and "no identity" in result.stderr, result


@pytest.mark.parametrize("arguments", [
    [], PATHS["to"], PATHS["from"], ["--to", "no address", *PATHS["from"]], ["--to", "", *PATHS["from"]],
    ["--to", "a@b.example\r\nRCPT TO:<c@d.example>", *PATHS["from"]],
    [*PATHS["to"], *PATHS["from"], "--subject", "x\r\nBcc: c@d.example"],
    [*PATHS["to"], *PATHS["from"], "/nonexistent/mail.eml"],
    [*PATHS["to"], *PATHS["from"], "--subject", "x", "-"], [*PATHS["to"], *PATHS["from"], "a", "b"]], ids=str)
def test_send_with_bad_words_is_2_and_sends_nothing(sidecar, aws, arguments):
    result = sidecar.cli("send", *arguments, stdin="")
    assert result.returncode == 2 and result.stderr != "" and result.stdout == "", result
    assert aws.requests_of("ses") == []


def test_send_to_a_port_where_nobody_listens_is_1(sidecar):
    result = sidecar.cli("send", *PATHS["to"], *PATHS["from"], "--smtp", "127.0.0.1:1")
    assert result.returncode == 1 and "127.0.0.1:1" in result.stdout + result.stderr
    assert sidecar.cli("send", *PATHS["to"], *PATHS["from"], "--smtp", "nonsense").returncode in (1, 2)
