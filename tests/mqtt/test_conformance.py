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


def tables():
    """The rows of 5.0 and those of 3.1.1."""
    parts = (HERE / "CONFORMANCE.md").read_text().split("## MQTT 3.1.1")
    return [[(found[1], found[2]) for found in map(ROW.match, part.splitlines()) if found] for part in parts]


def rows(version=0):
    return [(statement, re.findall(r"`([^`]+)`", text)) for statement, text in tables()[version]]


def test_every_case_names_its_statement():
    for statement, cases in rows(0) + rows(1):
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
    assert sum(not cases for _, cases in found) == 4


def runs_for_3_1_1(case):
    """A script without a version in its title, bytes of 3.1.1, or a test that connects with it."""
    path = find(case)
    text = path.read_text()
    if path.suffix != ".txt":
        return True
    return any("3.1.1" in title or "5.0" not in title for title in re.findall(r"^= .*$", text, re.M))


def test_the_statements_of_3_1_1_are_those_of_5_0_or_have_cases_of_their_own():
    of_5, of_4 = dict(rows()), tables()[1]
    assert len(of_4) == len({statement for statement, _ in of_4}) == 137
    gaps = 0
    for statement, text in of_4:
        same = re.match(r"as (MQTT-[\d.]+-\d+)", text)
        cases = of_5[same[1]] if same else re.findall(r"`([^`]+)`", text)
        gaps += not cases
        assert not cases or any(map(runs_for_3_1_1, cases)), f"{statement}: no case runs for 3.1.1"
    assert gaps <= 2
