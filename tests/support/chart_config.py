# SPDX-License-Identifier: Apache-2.0
"""What the charts know of svidmail.yaml, made from what the program says of it (`svidmail check-config --keys`).

Two files hold it, and nobody edits them: the table that the templates check values by, and `config` in the chart's
schema.  The program's own checks of a string (a region, an ARN, a SPIFFE ID) are not in that list; FORMS writes them
as patterns, and a test lets chart and program judge the same values.
"""

import json
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TABLE = ROOT / "helm/svidmail-lib/templates/_config_keys.tpl"
SCHEMA = ROOT / "helm/svidmail/values.schema.json"

UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3,
         "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "%": 1}

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS = rf"{_LABEL}(\.{_LABEL})*"
_DNS_NAME = (rf"^{_DNS}$", "a DNS name without scheme, port, path or final dot")
_SPIFFE_ID = (r"^spiffe://[a-z0-9._-]{1,255}(/([A-Za-z0-9_-]|\.[A-Za-z0-9_-]|\.\.[A-Za-z0-9._-])[A-Za-z0-9._-]*)+$",
              "a workload's SPIFFE ID, as spiffe://example.org/ns/shop/sa/checkout")
_REGION = (r"^[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}$", "a region name as eu-central-1")
_SES_NAME = (r"^[A-Za-z0-9_-]*$", "A-Z a-z 0-9 _ -")
_ABSOLUTE = (r"^/[^\x00-\x1f\x7f]*$", "a path that begins with /")
_PATTERN = (r"^(\*|[^*\s<>]*@[^*\s<>@]+)$", "user@domain, @domain or *")
_PORT = r"0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_BYTE = "(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
_ADDRESS = rf"(({_BYTE}(\.{_BYTE}){{3}})?|\[[0-9a-fA-F:.]+\]):{_PORT}"

FORMS: dict[str, tuple[str, str]] = {
    "identity.endpoint": (r"^(unix:/[^\x00-\x1f\x7f]*|tcp://[0-9a-fA-F.:\[\]]+:[0-9]+)$", "unix:///path or tcp://IP:PORT"),
    "identity.mesh.spiffe_id": _SPIFFE_ID,
    "identity.aws.spiffe_id": _SPIFFE_ID,
    "gateway.spiffe_ids": _SPIFFE_ID,
    "smtp.listen": (rf"^(unix:/[^\x00-\x1f\x7f]{{0,106}}|{_ADDRESS})$", "127.0.0.1:PORT, [::1]:PORT, unix:/PATH"),
    "gateway.host": (rf"^({_DNS}\.?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)$",
                     "a DNS name or an IP address, without scheme, brackets or port"),
    "ses.region": _REGION,
    "aws.sts_region": _REGION,
    "ses.configuration_set": _SES_NAME,
    "ses.tenant": _SES_NAME,
    "ses.tags": (r"^[A-Za-z0-9_-]+$", "for name and value: 1 to 256 of A-Z a-z 0-9 _ -"),
    "ses.from_identity_arn": (
        r"^arn:aws[a-z-]*:ses:[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}:[0-9]{12}:identity/[A-Za-z0-9_+=.@/!#$%&'*?^`{|}~-]+$",
        "arn:aws:ses:REGION:ACCOUNT:identity/NAME"),
    "ses.endpoint": _DNS_NAME,
    "aws.sts_endpoint": _DNS_NAME,
    "upstream.host": _DNS_NAME,
    "ses.allow_headers": (r"^[Xx]-[Ss][Ee][Ss]-[A-Za-z0-9_-]+$", "names that begin with X-SES-"),
    "aws.role_arn": (r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]*[A-Za-z0-9_+=,.@-]$",
                     "arn:aws:iam::ACCOUNT:role/NAME, ACCOUNT having 12 digits"),
    "aws.session_name": (r"^[A-Za-z0-9_+=,.@-]{2,64}$", "2 to 64 of A-Z a-z 0-9 _ + = , . @ -"),
    "aws.audience": (r"^[!-~]+$", "printable ASCII without spaces"),
    "aws.ca_file": _ABSOLUTE,
    "upstream.credentials_file": _ABSOLUTE,
    "delivery.spool.path": ("^$", '"": there is no spool yet'),
    "admin.socket": _ABSOLUTE,
    "admin.metrics_listen": (rf"^{_ADDRESS}$", 'IP:PORT, [IPv6]:PORT, :PORT, or "" for none'),
    "policy.senders": _PATTERN,
    "policy.recipients.allow": _PATTERN,
    "policy.recipients.deny": _PATTERN,
}

# What config_key_allowed() writes, and which type it tells of.
ALLOWED = [
    ("string", r"a string of (\w+) to (\w+) bytes"),
    ("bool", r"true, false"),
    ("number", r"a whole number from (\w+) to (\w+)"),
    ("percent", r"a percentage from (\w+%) to (\w+%)"),
    ("size", r"a size from (\w+) to (\w+), in bytes or with KiB, MiB, GiB"),
    ("duration", r"a duration from (\w+) to (\w+), as 500ms, 4s, 10m, 1h or 4d"),
    ("list", r"a list of (\w+) to (\w+) strings, as \[a, b\]"),
    ("tags", r"at most (\w+) names with values, as \{name: value\}"),
    ("word", r"[a-z-]+(, [a-z-]+)*"),
]


def read_keys(svidmail: str) -> dict[str, dict]:
    """Every key of svidmail.yaml: type, min, max, words, preset, help, allowed, later."""
    listed = subprocess.run([svidmail, "check-config", "--keys"], capture_output=True, text=True, check=True).stdout
    keys = {}
    for block in re.split(r"\n(?=\S)", listed.strip()):
        head, meaning, allowed, *rest = (line.strip() for line in block.splitlines())
        path, preset = re.fullmatch(r"(\S+) \((.*)\)", head).groups()
        keys[path] = _key(allowed.removeprefix("allowed: ")) | {
            "help": meaning, "preset": "" if preset == '""' else preset} | _form(path)
        if rest:
            keys[path]["later"] = rest[0].removeprefix("not in this version: ")
    return keys


def _key(allowed: str) -> dict:
    for kind, pattern in ALLOWED:
        if found := re.fullmatch(pattern, allowed):
            key = {"type": kind, "allowed": allowed}
            if kind == "word":
                key["words"] = allowed.split(", ")
            elif kind == "tags":
                key |= {"min": 0, "max": int(found[1])}
            elif kind != "bool":
                key |= {"min": _amount(found[1]), "max": _amount(found[2])}
            return key
    raise ValueError(f"svidmail says what is allowed in a way that is not known here: {allowed}")


def _amount(text: str) -> int:
    digits, unit = re.fullmatch(r"([0-9]+)(\D*)", text).groups()
    return int(digits) * UNITS[unit]


def _form(path: str) -> dict:
    if path not in FORMS:
        return {}
    pattern, form = FORMS[path]
    return {"pattern": pattern, "form": form}


def table_text(keys: dict[str, dict]) -> str:
    wanted = ("type", "min", "max", "words", "preset", "later", "allowed", "pattern", "form")
    rows = ",\n".join(
        f"  {json.dumps(path)}: {json.dumps({name: key[name] for name in wanted if name in key})}"
        for path, key in keys.items())
    return ("{{/* SPDX-License-Identifier: Apache-2.0 */}}\n\n"
            "{{/* Made from `svidmail check-config --keys` by tests/support/chart_config.py; not for editing. */}}\n"
            '{{- define "svidmail.configKeys" -}}\n{\n' + rows + "\n}\n{{- end -}}\n")


def schema_of(keys: dict[str, dict]) -> dict:
    """JSON schema of `config`: structure, types, words and limits; the templates judge what needs words of its own."""
    root = {"type": "object", "additionalProperties": False, "properties": {}}
    for path, key in keys.items():
        *sections, name = path.split(".")
        at = root
        for section in sections:
            at = at["properties"].setdefault(
                section, {"type": "object", "additionalProperties": False, "properties": {}})
        at["properties"][name] = {"description": _description(key)} | _value_schema(key)
    return root


def _description(key: dict) -> str:
    later = f" Not in this version: {key['later']}." if "later" in key else ""
    preset = key["preset"] or '""'
    return f"{key['help']}. Default: {preset}; allowed: {key['allowed']}.{later}"


def _value_schema(key: dict) -> dict:
    text = {"type": "string"}
    match key["type"]:
        case "string":
            return text | {"minLength": min(key["min"], 1), "maxLength": key["max"]}
        case "bool":
            return {"type": "boolean"}
        case "number":
            return {"type": "integer", "minimum": key["min"], "maximum": key["max"]}
        case "percent":
            return text | {"pattern": "^[0-9]+%$"}
        case "size":
            return {"type": ["integer", "string"], "minimum": key["min"], "maximum": key["max"],
                    "pattern": "^[0-9]+(KiB|MiB|GiB)?$"}
        case "duration":
            return {"type": ["integer", "string"], "maximum": 0, "pattern": "^([0-9]+(ms|s|m|h|d)|0)$"}
        case "list":
            return {"type": "array", "minItems": key["min"], "maxItems": key["max"],
                    "items": text | {"minLength": 1}}
        case "tags":
            return {"type": "object", "maxProperties": key["max"], "additionalProperties": text | {"minLength": 1}}
        case "word":
            # Helm's YAML 1.1 reads a bare off as false; the template writes it as the word again.
            return {"enum": key["words"] + ([False] if "off" in key["words"] else [])}
    raise ValueError(key["type"])


def schema_text(keys: dict[str, dict]) -> str:
    """The chart's schema with `config` anew; the rest of it is written by hand."""
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["config"] = {"description": schema["properties"]["config"]["description"]} | schema_of(keys)
    return json.dumps(schema, indent=2) + "\n"
