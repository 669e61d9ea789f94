# SPDX-License-Identifier: Apache-2.0
"""Runs the parts, sends three mails, shows each hop; ends them all, however it ends itself.

Issuer, fake AWS and inbox live in this process; Envoy, svidmail and SPIRE are children that the kernel
kills with it. Called by deploy/demo, which has set up what is imported and run here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import sys
import time

import letters
import parts
import ports_taken
import screen
from support.journey import Witnesses
from support.processes import Failure, Process

REGION = "eu-central-1"


class Stopped(Exception):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.was_up = False  # Ctrl-C is how a demo that is up is ended: no failure


class Trouble(Exception):
    """What cannot go on, in words for the one at the screen."""


def on_signal(number: int, _: object) -> None:
    """The first asks for an orderly end; the second ends at once, and the kernel ends the children."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda *_: os._exit(128 + number))
    raise Stopped(number)


class Demo:
    """The parts in the order of their start; ended in the opposite one."""

    def __init__(self, options: argparse.Namespace, ends: contextlib.ExitStack) -> None:
        self.options = options
        self.ends = ends
        self.out = screen.Screen(sys.stdout)
        self.directory = parts.work_directory()
        self.keeps_directory = False
        self.watched: list[Process] = []
        ends.callback(self._remove_directory)

    def _remove_directory(self) -> None:
        if self.keeps_directory:
            parts.keep(self.directory)
            self.out.line(f"the logs are kept in {self.directory}")
        else:
            shutil.rmtree(self.directory, ignore_errors=True)

    # --- start -----------------------------------------------------------------------------------

    def start(self) -> None:
        options = self.options
        self._check_ports()
        with self.out.stage("issuer") as stage:
            self.identity = parts.start_identity(self.directory, is_spire=options.spire, ends=self.ends)
            self.watched += self.identity.processes
            stage.says(self.identity.says)
        with self.out.stage("AWS") as stage:
            self.aws = parts.start_aws(self.directory, self.identity, REGION, self.ends)
            stage.says("a stand-in: STS judges tokens by PyJWT, SES judges signatures by botocore")
        self.witnesses = Witnesses(self.aws, self.identity.name)
        with self.out.stage("gateway") as stage:
            self.gateway = parts.start_gateway(self.directory, self.identity, self.aws, self.witnesses, self.ends)
            self.watched.append(self.gateway.process)
            stage.says(f"Envoy, mTLS, is {self.identity.gateway_id}")
        with self.out.stage("svidmail") as stage:
            self.sidecar = parts.start_sidecar(
                self.directory, self.identity, self.gateway, self.aws, options, self.ends
            )
            self.watched.append(self.sidecar.process)
            parts.follow_log(self.sidecar.process, self.witnesses.on_event)
            self.sidecar.wait_ready(20)
            stage.says(f"SMTP on 127.0.0.1:{options.smtp_port}, is {self.identity.sidecar_id}")
        with self.out.stage("inbox") as stage:
            title = f"identities by {self.identity.name} · tls: {options.tls}"
            inbox = parts.start_inbox(self.witnesses, title, options.inbox_port, self.ends)
            stage.says(inbox.url)

    def _check_ports(self) -> None:
        wanted = [
            ("--smtp-port", self.options.smtp_port, "SMTP"),
            ("--inbox-port", self.options.inbox_port, "the inbox"),
        ]
        for option, port, use in wanted:
            holder = ports_taken.holder(port)
            if holder:
                raise Trouble(f"port {port} on 127.0.0.1, wanted for {use}, is taken {holder}: end that, or {option} N")

    # --- mails -----------------------------------------------------------------------------------

    def send_letters(self) -> bool:
        """True if every mail was delivered as it should, with its whole way seen."""
        all_good = True
        shown_keys: set[str] = set()
        for number, letter in enumerate(letters.all_letters(), 1):
            reply = letters.send(letter, self.options.smtp_port)
            self.out.mail(number, letter.what, reply.text)
            mail = next((m for m in self.aws.mails if m.message_id in reply.text), None)
            if reply.code != 250 or mail is None:
                self.out.line("    not delivered")
                all_good = False
                continue
            journey = self.witnesses.wait_complete(mail)
            self.out.journey(journey, is_first_of_key=mail.request.access_key_id not in shown_keys)
            shown_keys.add(mail.request.access_key_id)
            for problem in letters.problems(letter, mail, journey):
                self.out.line(f"    !! {problem}")
                all_good = False
        return all_good

    def wait(self) -> None:
        """Until a signal (which raises), or until a part dies."""
        descriptors = {os.pidfd_open(process.pid): process for process in self.watched}
        for descriptor in descriptors:
            self.ends.callback(os.close, descriptor)
        ready, _, _ = select.select(list(descriptors), [], [])
        self._tell_death(descriptors[ready[0]])

    def _tell_death(self, process: Process) -> None:
        process.wait(5)
        self.keeps_directory = True
        code = process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise Trouble(f"{process.name} {how}; its last lines were:\n{screen.indented(process.stderr.tail(15))}")

    def tell_failure(self, failure: Failure) -> Trouble:
        """A part that has died explains more than what waited for it in vain."""
        for process in self.watched:
            if not process.is_alive():
                try:
                    self._tell_death(process)
                except Trouble as trouble:
                    return trouble
        self.keeps_directory = True
        return Trouble(str(failure))


def run(options: argparse.Namespace) -> int:
    began = time.monotonic()
    with contextlib.ExitStack() as ends:
        demo = Demo(options, ends)
        try:
            demo.start()
            all_good = demo.send_letters()
            took = time.monotonic() - began
            if options.once:
                verdict = "three mails delivered" if all_good else "not all is as it should be"
                demo.out.line(f"\n{verdict}, {took:.1f} s")
                return 0 if all_good else 1
            demo.out.line(f"\nup after {took:.1f} s: the inbox is at http://127.0.0.1:{options.inbox_port}/")
            demo.out.line(f"send more to 127.0.0.1:{options.smtp_port} with any SMTP client; Ctrl-C ends everything")
            try:
                demo.wait()
            except Stopped as stopped:
                stopped.was_up = True
                raise
        except Failure as failure:
            raise demo.tell_failure(failure) from failure
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="deploy/demo")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--spire", action="store_true")
    parser.add_argument("--tls", choices=["gateway", "end-to-end"], default="gateway")
    parser.add_argument("--smtp-port", type=int, default=2525)
    parser.add_argument("--inbox-port", type=int, default=8025)
    return parser.parse_args()


def main() -> int:
    options = parse()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    try:
        return run(options)
    except Stopped as stopped:
        print("\neverything has ended")
        return 0 if stopped.number == signal.SIGINT and stopped.was_up else 128 + stopped.number
    except Trouble as trouble:
        print(f"\n!! {trouble}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
