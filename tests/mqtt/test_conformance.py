"""CONFORMANCE.md is true: each case it names exists and names the statement, and every script is in it."""

import pathlib
import re

HERE = pathlib.Path(__file__).parent
UNIT = HERE.parent.parent / "crates/mynah-mqtt/src/tests"
ROW = re.compile(r"\| (MQTT-[\d.]+-\d+) \| (.*) \|")


def find(case):
    if case.startswith("unit:"):
        return UNIT / case.removeprefix("unit:")
    beside = HERE / case
    return beside if beside.exists() else HERE.parent / case


def rows():
    text = (HERE / "CONFORMANCE.md").read_text()
    return [(found[1], re.findall(r"`([^`]+)`", found[2])) for found in map(ROW.match, text.splitlines()) if found]


def test_every_case_names_its_statement():
    for statement, cases in rows():
        for case in cases:
            path = find(case)
            named = path.stem + " " + path.read_text()
            short = statement.removeprefix("MQTT-") if case.startswith("unit:") else statement
            assert re.search(re.escape(short) + r"(?!\d)", named), f"{case} does not name {statement}"


def test_every_script_is_in_the_table_and_gaps_are_few():
    found = rows()
    listed = {case for _, cases in found for case in cases}
    scripts = {f"statements/{path.name}" for path in (HERE / "statements").glob("*.txt")}
    assert scripts <= listed, scripts - listed
    assert len(found) == len({statement for statement, _ in found}) == 251
    assert sum(not cases for _, cases in found) <= 30
