# SPDX-License-Identifier: Apache-2.0
"""A pod that mails without a pause, and an exact account of it: what it was told, against what SES took.

    with Traffic(shop) as traffic:
        …                                # what should not disturb it
        traffic.wait_for_more(20)
    assert traffic.codes() == {250}
    traffic.check_account()
"""

import json
from collections import Counter

from .cluster_shop import Shop
from .processes import Process, poll_until

MAY_BE_TAKEN = "SES may have taken"


class Replies:
    """What the app in a pod was told, read from its log as it comes."""

    def __init__(self, shop: Shop, pod: str):
        self.shop = shop
        self.pod = pod
        self.begun = 0
        self._log: Process = shop.cluster.follow(shop.namespace, pod, "app")

    def all(self) -> list[dict]:
        return self._said("reply")

    def asked_to_end_at(self) -> float:
        [asked] = self._said("asked to end")
        return asked["at"]

    def codes(self, since: int = 0) -> set[int]:
        """The different ones, of the replies from this one on; none from before it has begun."""
        return {reply["code"] for reply in self.all()[max(since, self.begun):]}

    def wait_for_more(self, count: int, code: int = 250, timeout: float = 30) -> None:
        """Until so many further replies were this one."""
        def seen() -> int:
            return sum(reply["code"] == code for reply in self.all())

        wanted = seen() + count
        poll_until(f"{count} more replies {code} in {self.shop.namespace}", lambda: seen() >= wanted, timeout)

    def wait_for_end(self, timeout: float = 30) -> None:
        """Until the app has ended, or nothing more can be read of it."""
        self._log.wait(timeout)

    def stop(self) -> None:
        self._log.kill()

    def _said(self, event: str) -> list[dict]:
        said = [json.loads(line) for line in list(self._log.stdout.items) if line.startswith("{")]
        return [line for line in said if line["event"] == event]

    def check_account(self) -> None:
        """Each mail that the app was told of as taken, SES has once; of the others it has none.

        A reply that says SES may have taken the mail leaves both open, once for each such reply.  While the app is at
        it, the mail that it tries just now is left out.
        """
        at_it = self._log.is_alive()
        replies = self.all()
        if at_it and replies and replies[-1]["code"] != 250:
            replies = [reply for reply in replies if reply["number"] != replies[-1]["number"]]
        told = {reply["number"]: reply["text"].split()[-1] for reply in replies if reply["code"] == 250}
        open_ones = Counter(reply["number"] for reply in replies if MAY_BE_TAKEN in reply["text"])
        taken: dict[int, list[str]] = {reply["number"]: [] for reply in replies}
        for mail in self.shop.mails():
            pod, _, number = str(mail.parsed["Subject"]).rpartition(" ")
            if pod == self.pod and int(number) in taken:
                taken[int(number)].append(mail.message_id)
        for number, ids in taken.items():
            least = int(number in told)
            assert least <= len(ids) <= least + open_ones[number], (
                f"mail {number} of {self.pod}: SES has {ids}; the app was told "
                f"{[(reply['code'], reply['text']) for reply in replies if reply['number'] == number]}")
            assert number not in told or told[number] in ids, f"mail {number}: told {told[number]}, SES has {ids}"


class Traffic(Replies):
    """As a context manager: the pod `traffic`, from its first mail taken until it is deleted at the end.

    The app starts as soon as SMTP answers, be the pod's entry at the agent or not: what it is told until then is in the
    account, and no sign of a disturbance.
    """

    def __init__(self, shop: Shop, pod: str = "traffic", **template):
        shop.start_pod("stream", name=pod, **template)
        super().__init__(shop, pod)

    def __enter__(self) -> "Traffic":
        self.wait_for_more(1)
        self.begun = next(at for at, reply in enumerate(self.all()) if reply["code"] == 250)
        return self

    def __exit__(self, *_) -> None:
        self.shop.cluster.kubectl("delete", "pod", self.pod, "--namespace", self.shop.namespace, "--wait=false",
                                  "--ignore-not-found")
        try:
            self.wait_for_end()
        finally:
            self.stop()
