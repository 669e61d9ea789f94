# SPDX-License-Identifier: Apache-2.0
"""The inbox page: every mail the fake SES took, and who was seen at each step of its way.

One small server of the standard library on loopback; no framework, no file from elsewhere. Mails are
hostile text: all of it is escaped, and a content policy forbids the page whatever it does not bring itself.
"""

from __future__ import annotations

import email.policy
import html
import http.server
import json
import sys
import threading
import time
import unicodedata
import urllib.parse
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

from .aws import Mail
from .journey import Hop, Journey

SHOWN_TEXT = 100_000
SHOWN_RAW = 2_000_000

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

_STYLE = """
:root { --ink:#1d2733; --soft:#5b6b7c; --line:#dfe5ec; --paper:#fff; --ground:#f4f6f9; --accent:#1f6f5c;
        --tint:#e7f3ef; --warn:#8a5a00; --warn-tint:#fdf3df; }
* { box-sizing:border-box }
html { -webkit-text-size-adjust:100% }
body { margin:0; background:var(--ground); color:var(--ink); font:15px/1.5 system-ui,-apple-system,"Segoe UI",
       Roboto,"Helvetica Neue",Arial,sans-serif }
header { background:var(--paper); border-bottom:1px solid var(--line) }
header div { max-width:1240px; margin:0 auto; padding:14px 24px; display:flex; align-items:baseline; gap:2px 14px;
             flex-wrap:wrap }
header h1 { font-size:18px; margin:0; letter-spacing:-.01em } header h1 a { color:inherit; text-decoration:none }
#link:not(:empty) { color:var(--warn); font-weight:600 }
header p { margin:0; color:var(--soft); font-size:13px }
.columns { display:grid; grid-template-columns:minmax(260px,340px) minmax(0,1fr); max-width:1240px; margin:0 auto;
           gap:20px; padding:20px 24px }
.list { list-style:none; margin:0; padding:0; background:var(--paper); border:1px solid var(--line);
        border-radius:10px; overflow:hidden; align-self:start }
.list li + li { border-top:1px solid var(--line) }
.list a { display:block; padding:12px 14px; color:inherit; text-decoration:none; border-left:3px solid transparent }
.list a:hover { background:var(--ground) }
.list a[aria-current] { background:var(--tint); border-left-color:var(--accent) }
.list a:focus-visible, a:focus-visible { outline:2px solid var(--accent); outline-offset:-2px }
.list .subject { font-weight:600; display:block; overflow:hidden; text-overflow:ellipsis; white-space:nowrap }
.list .who { color:var(--soft); font-size:13px; display:flex; justify-content:space-between; gap:8px }
.list .who span:first-child { overflow:hidden; text-overflow:ellipsis; white-space:nowrap }
.list .who time { white-space:nowrap }
.empty { padding:22px 18px; color:var(--soft); background:var(--paper); border:1px dashed var(--line);
         border-radius:10px; align-self:start; margin:0 }
article, section.way { background:var(--paper); border:1px solid var(--line); border-radius:10px;
                       padding:20px 24px; margin:0 0 20px }
h2 { font-size:20px; margin:0 0 10px; line-height:1.3; overflow-wrap:anywhere }
h3 { font-size:15px; margin:0 0 14px }
dl { display:grid; grid-template-columns:max-content minmax(0,1fr); gap:2px 14px; margin:0 }
dt { color:var(--soft) } dd { margin:0; overflow-wrap:anywhere }
article dl { padding-bottom:14px; border-bottom:1px solid var(--line); margin-bottom:14px; font-size:14px }
pre { margin:0; white-space:pre-wrap; overflow-wrap:anywhere; font:14px/1.55 ui-monospace,SFMono-Regular,Menlo,
      Consolas,"Liberation Mono",monospace }
.text { font:inherit }
.parts { list-style:none; padding:0; margin:14px 0 0; display:flex; flex-wrap:wrap; gap:8px }
.parts a { display:inline-block; border:1px solid var(--line); border-radius:6px; padding:4px 10px; font-size:13px;
           color:var(--ink); text-decoration:none } .parts a:hover { border-color:var(--accent) }
.note { color:var(--warn); background:var(--warn-tint); border-radius:6px; padding:6px 10px; font-size:13px;
        margin:12px 0 0 }
.raw { float:right; font-size:13px; color:var(--accent); margin-left:16px; padding-top:5px }
ol.hops { list-style:none; margin:0; padding:0 }
ol.hops > li { position:relative; padding:0 0 20px 26px }
ol.hops > li:last-child { padding-bottom:0 }
ol.hops > li::before { content:""; position:absolute; left:4px; top:6px; width:10px; height:10px; border-radius:50%;
                       background:var(--accent) }
ol.hops > li.pending::before { background:var(--paper); border:2px solid var(--soft) }
ol.hops > li:not(:last-child)::after { content:""; position:absolute; left:8px; top:20px; bottom:-4px; width:2px;
                                       background:var(--line) }
.step { font-weight:600 } .step i { font-style:normal; color:var(--soft); font-weight:400; padding:0 4px }
.protocol { color:var(--soft); font-size:13px; font-weight:400; margin-left:8px }
.identity { display:inline-block; background:var(--tint); border-radius:6px; padding:2px 8px; margin:4px 0 2px;
            overflow-wrap:anywhere; font:13px/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",
            monospace }
.identity.none { background:var(--ground); color:var(--soft); font-family:inherit }
.witness { color:var(--soft); font-size:13px } .verdict { color:var(--accent); font-weight:600 }
.hops dl { font-size:13px; margin-top:4px } .hops dd { font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,
           "Liberation Mono",monospace; font-size:12.5px }
@media (max-width:820px) { .columns { grid-template-columns:minmax(0,1fr); padding:14px }
  header div { padding:12px 14px }
  article, section.way { padding:16px } dl { grid-template-columns:minmax(0,1fr) } dt { margin-top:6px } }
"""

# Only the list, and a way that is still incomplete, are fetched anew: what one reads stays where it is.
_SCRIPT = """
'use strict';
(() => {
  const page = document.body.dataset;
  let seen = page.state;
  const replace = async (path, id) => {
    const answer = await fetch(path, {cache: 'no-store'});
    if (answer.ok) document.getElementById(id).innerHTML = await answer.text();
  };
  const look = async () => {
    try {
      const answer = await fetch('/state', {cache: 'no-store'});
      const state = await answer.json();
      if (state.state !== seen) {
        await replace('/part/list?current=' + page.mail, 'list');
        if (page.mail) await replace('/part/way?mail=' + page.mail, 'way');
        else if (state.mails > 0) { location.replace('/mail/' + state.latest); return; }
        seen = state.state;
      }
      document.getElementById('link').textContent = '';
    } catch (_) {
      document.getElementById('link').textContent = 'the demo has ended';
    }
    setTimeout(look, document.hidden ? 5000 : 1000);
  };
  setTimeout(look, 1000);
})();
"""


def _e(text: object) -> str:
    """Escaped for HTML; controls and direction marks made visible, so that no text can dress up as another."""
    out = []
    for char in str(text).replace("\r\n", "\n"):
        code = ord(char)
        if char in "\n\t" or 0x20 <= code < 0x7F:
            out.append(char)
        elif code < 0x20:
            out.append(chr(0x2400 + code))
        elif unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs"):
            out.append(f"\\u{code:04x}")
        else:
            out.append(char)
    return html.escape("".join(out))


def header_text(message: EmailMessage, name: str) -> str:
    """A header as people read it; "" if there is none, the raw text if it cannot be decoded."""
    try:
        return str(message.get(name, "") or "")
    except (ValueError, LookupError, AttributeError, IndexError):
        return str(message.as_bytes(policy=email.policy.compat32)[:200], "latin-1")


def body_text(message: EmailMessage) -> tuple[str, str]:
    """(the text, a remark): the plain part, or the HTML's source, which is shown and not rendered."""
    try:
        part = message.get_body(("plain", "html"))
        if part is None:
            return "", "This mail has no text part."
        text = part.get_content()
    except (KeyError, LookupError, ValueError, AttributeError, AssertionError) as problem:
        return "", f"The text cannot be decoded: {problem}"
    remark = "" if part.get_content_subtype() == "plain" else "HTML only: its source is shown."
    if len(text) > SHOWN_TEXT:
        remark = f"Only the first {SHOWN_TEXT} characters are shown."
    return text[:SHOWN_TEXT], remark


def attachments(message: EmailMessage) -> list[EmailMessage]:
    try:
        return [part for part in message.iter_attachments() if not part.is_multipart()]
    except (AttributeError, KeyError, ValueError):
        return []


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))


def _payload(part: EmailMessage) -> bytes:
    return part.get_payload(decode=True) or b""


def _size(count: int) -> str:
    return f"{count} bytes" if count < 1000 else f"{count / 1000:.1f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


class Server(http.server.ThreadingHTTPServer):
    """A browser that closes a tab in mid-answer is no event."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Inbox:
    """Serves until stop(); `journeys` is asked at each request, oldest first."""

    def __init__(
        self, journeys: Callable[[], list[Journey]], *, title: str = "", address: str = "127.0.0.1", port: int = 8025
    ) -> None:
        self.journeys = journeys
        self.title = title
        self._server = Server((address, port), self._handler())
        self.port = self._server.server_address[1]
        self.url = f"http://{address}:{self.port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="inbox", daemon=True).start()

    def __enter__(self) -> Inbox:
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # --- pages -----------------------------------------------------------------------------------

    def _state(self, journeys: list[Journey]) -> dict[str, Any]:
        """What changes when there is something new to show."""
        facts = sum(len(hop.facts) + (not hop.pending) for journey in journeys for hop in journey.hops)
        latest = journeys[-1].mail.number if journeys else 0
        return {"state": f"{len(journeys)}.{latest}.{facts}", "mails": len(journeys), "latest": latest}

    def _page(self, journeys: list[Journey], current: Journey | None) -> str:
        number = current.mail.number if current else ""
        way = f'<section class="way" id="way">{_way(current)}</section>' if current else ""
        main = f"<main>{_mail(current.mail)}{way}</main>" if current else _NOTHING
        return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_e(header_text(current.mail.parsed, "Subject") if current else "Inbox")} · svidmail</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/style.css"><script src="/script.js" defer></script></head>
<body data-state="{_e(self._state(journeys)["state"])}" data-mail="{number}">
<header><div><h1><a href="/">svidmail inbox</a></h1><p>{_e(self.title)}</p>
<p id="link" role="status"></p></div></header>
<div class="columns"><nav id="list" aria-label="Mails">{_list(journeys, number)}</nav>{main}</div>
</body></html>"""

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        inbox = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            server_version = "svidmail-inbox"
            sys_version = ""

            def log_message(self, *unused: object) -> None:
                pass

            def do_GET(self) -> None:
                host = (self.headers.get("Host") or "").rpartition(":")[0]
                if host not in ("127.0.0.1", "localhost", "[::1]"):
                    # Another name that leads here is a web page that tries to read the inbox.
                    self._send(421, "text/plain", b"ask for 127.0.0.1\n")
                    return
                url = urllib.parse.urlsplit(self.path)
                answer = inbox.answer(url.path, dict(urllib.parse.parse_qsl(url.query)))
                self._send(*answer)

            def _send(self, status: int, kind: str, body: bytes, extra: tuple[tuple[str, str], ...] = ()) -> None:
                self.send_response(status)
                text = "; charset=utf-8" if kind.startswith(("text/", "application/json")) else ""
                self.send_header("Content-Type", kind + text)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Security-Policy", _POLICY)
                self.send_header("X-Content-Type-Options", "nosniff")
                self.send_header("Referrer-Policy", "no-referrer")
                self.send_header("Cache-Control", "no-store")
                for name, value in extra:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        return Handler

    def answer(self, path: str, query: dict[str, str]) -> tuple[Any, ...]:
        """(status, content type, body, further headers) for one GET."""
        if path == "/style.css":
            return 200, "text/css", _STYLE.encode()
        if path == "/script.js":
            return 200, "text/javascript", _SCRIPT.encode()
        journeys = self.journeys()
        parts = path.strip("/").split("/")
        if path == "/state":
            return 200, "application/json", json.dumps(self._state(journeys)).encode()
        if path == "/":
            return _html(self._page(journeys, journeys[-1] if journeys else None))
        if path == "/part/list":
            return _html(_list(journeys, query.get("current", "")))
        wanted = query.get("mail", "") if path == "/part/way" else parts[1] if len(parts) > 1 else ""
        current = next((journey for journey in journeys if str(journey.mail.number) == wanted), None)
        if current is None:
            return 404, "text/plain", b"there is no such mail\n"
        if path == "/part/way":
            return _html(_way(current))
        if parts[0] == "mail" and len(parts) == 2:
            return _html(self._page(journeys, current))
        if parts[0] == "mail" and parts[2:] == ["raw"]:
            return 200, "text/plain", current.mail.raw[:SHOWN_RAW]
        if parts[0] == "mail" and len(parts) == 4 and parts[2] == "part":
            return _attachment(current.mail, parts[3])
        return 404, "text/plain", b"there is no such page\n"


_NOTHING = '<p class="empty">No mail yet. Send svidmail one with any SMTP client; it appears here by itself.</p>'


def _html(text: str) -> tuple[int, str, bytes]:
    return 200, "text/html", text.encode("utf-8", "replace")


def _attachment(mail: Mail, index: str) -> tuple[Any, ...]:
    parts = attachments(mail.parsed)
    if not index.isdigit() or int(index) >= len(parts):
        return 404, "text/plain", b"there is no such part\n"
    part = parts[int(index)]
    name = urllib.parse.quote(part.get_filename() or f"part-{index}", safe="")
    disposition = ("Content-Disposition", f"attachment; filename*=UTF-8''{name}")
    return 200, "application/octet-stream", _payload(part), (disposition,)


def _list(journeys: list[Journey], current: object) -> str:
    if not journeys:
        return ""
    items = []
    for journey in reversed(journeys):
        mail = journey.mail
        mark = ' aria-current="page"' if str(mail.number) == str(current) else ""
        subject = _e(header_text(mail.parsed, "Subject")) or "(no subject)"
        items.append(
            f'<li><a href="/mail/{mail.number}"{mark}><span class="subject">{subject}</span><span class="who">'
            f"<span>{_e(mail.from_address)}</span><time>{_clock(mail.at)}</time></span></a></li>"
        )
    return f'<ul class="list">{"".join(items)}</ul>'


def _mail(mail: Mail) -> str:
    message = mail.parsed
    text, remark = body_text(message)
    rows = [(name, header_text(message, name)) for name in ("From", "To", "Cc", "Date")]
    rows.append(("Envelope", ", ".join(mail.recipients)))
    facts = "".join(f"<dt>{name}</dt><dd>{_e(value)}</dd>" for name, value in rows if value)
    parts = "".join(
        f'<li><a href="/mail/{mail.number}/part/{n}" download>{_e(part.get_filename() or part.get_content_type())} · '
        f"{_size(len(_payload(part)))}</a></li>"
        for n, part in enumerate(attachments(message))
    )
    notes = "".join(f'<p class="note">{_e(note)}</p>' for note in [remark, *mail.violations] if note)
    return (
        f'<article><a class="raw" href="/mail/{mail.number}/raw">raw, {_size(len(mail.raw))}</a>'
        f"<h2>{_e(header_text(message, 'Subject')) or '(no subject)'}</h2><dl>{facts}</dl>"
        f'<pre class="text">{_e(text)}</pre>{f"<ul class=parts>{parts}</ul>" if parts else ""}{notes}</article>'
    )


def _way(journey: Journey) -> str:
    hops = "".join(_hop(hop) for hop in journey.hops)
    return f'<h3>Its way, and who was seen at each step</h3><ol class="hops">{hops}</ol>'


def _hop(hop: Hop) -> str:
    facts = "".join(f"<dt>{_e(name)}</dt><dd>{_e(value)}</dd>" for name, value in hop.facts if value)
    identity = ""
    if hop.identity:
        kind = "" if ":" in hop.identity and " " not in hop.identity else " none"
        identity = f'<span class="identity{kind}">{_e(hop.identity)}</span>'
    said = f"seen by {_e(hop.witness)}" if hop.witness and kind_of(hop) else ""
    verdict = f' <span class="verdict">· {_e(hop.verdict)}</span>' if hop.verdict else ""
    pending = f'<div class="witness">{_e(hop.pending)}</div>' if hop.pending else ""
    return (
        f'<li{" class=pending" if hop.pending else ""}><div class="step">{_e(hop.start)}<i>→</i>{_e(hop.end)}'
        f'<span class="protocol">{_e(hop.protocol)}</span></div>{pending}<div>{identity}</div>'
        f'<div class="witness">{said}{verdict}</div>{f"<dl>{facts}</dl>" if facts else ""}</li>'
    )


def kind_of(hop: Hop) -> str:
    """ "spiffe", "aws" or "" (nobody was asked who they are)."""
    return "spiffe" if hop.identity.startswith("spiffe://") else "aws" if hop.identity.startswith("arn:") else ""
