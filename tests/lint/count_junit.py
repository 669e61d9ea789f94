# SPDX-License-Identifier: Apache-2.0
"""count_junit.py FILE: prints "PASSED FAILED SKIPPED" of a JUnit file, as pytest, ctest and run_checks.py write it.

Counted are test cases by name, so a test that fails and whose teardown fails too is one failure.
"""

import sys
import xml.etree.ElementTree as ElementTree


def outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail":
        return "failed"
    skipped = case.find("skipped")
    if case.get("status") == "notrun" and not (skipped is not None and "SKIP" in skipped.get("message", "")):
        return "failed"      # ctest: a test whose program is not there
    if skipped is not None or case.get("status") == "disabled":
        return "skipped"
    return "passed"


def main() -> None:
    worst: dict[tuple, str] = {}
    order = ["passed", "skipped", "failed"]
    for case in ElementTree.parse(sys.argv[1]).iter("testcase"):
        name = (case.get("classname"), case.get("name"))
        worst[name] = max(worst.get(name, "passed"), outcome(case), key=order.index)
    results = list(worst.values())
    print(results.count("passed"), results.count("failed"), results.count("skipped"))


if __name__ == "__main__":
    main()
