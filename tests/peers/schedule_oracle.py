#!/usr/bin/env python3
"""Due times of schedules by other code than ours: python-dateutil's rrule, and Python's own time zones.

Standard input: JSON `{"from": "2026-01-01", "until": "2027-01-01", "zones": [...], "rules": [...]}`, each rule with `name`, `each`
(`day`, `week`, `date`, `last_day`, `weekday`) and what belongs to it as in a stored schedule, and `at`, a list of `HH:MM`.
Standard output: JSON `{zone: {name: [seconds of Unix time, ...]}}` of all due times of the local days from `from` to before `until`.

The promise that is checked: each local date and time is due once; one in a gap at the first moment after it, one that comes
twice the first time.
"""

import datetime
import json
import sys
import zoneinfo

from dateutil import rrule

UTC = datetime.timezone.utc
MINUTE = datetime.timedelta(minutes=1)
GAP_MINUTES_MAX = 26 * 60
DAYS = {"mon": rrule.MO, "tue": rrule.TU, "wed": rrule.WE, "thu": rrule.TH, "fri": rrule.FR, "sat": rrule.SA, "sun": rrule.SU}
NTH = {"first": 1, "second": 2, "third": 3, "fourth": 4, "last": -1}


def days(rule, first, last):
    """Local midnights on which the rule is due."""
    each = rule["each"]
    common = {"dtstart": first, "until": last}
    if each == "day":
        return rrule.rrule(rrule.DAILY, **common)
    if each == "week":
        return rrule.rrule(rrule.WEEKLY, byweekday=[DAYS[day] for day in rule["on"]], **common)
    if each == "last_day":
        return rrule.rrule(rrule.MONTHLY, bymonthday=-1, **common)
    if each == "weekday":
        return rrule.rrule(rrule.MONTHLY, byweekday=DAYS[rule["weekday"]](NTH[rule["nth"]]), **common)
    # The last of the days up to this one that the month has.
    return rrule.rrule(rrule.MONTHLY, bymonthday=range(1, rule["day"] + 1), bysetpos=-1, **common)


def exists(local, zone):
    there = local.replace(tzinfo=zone)
    return there.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == local


def moment(local, zone):
    """Seconds of Unix time that stand for a local time."""
    for _ in range(GAP_MINUTES_MAX):
        if exists(local, zone):
            return int(local.replace(tzinfo=zone, fold=0).timestamp())
        local += MINUTE
    raise ValueError(f"{local} does not come in {zone}")


def due_times(rule, zone, first, last):
    found = set()
    for day in days(rule, first, last - datetime.timedelta(days=1)):
        for clock in rule["at"]:
            hour, minute = clock.split(":")
            found.add(moment(day.replace(hour=int(hour), minute=int(minute)), zone))
    return sorted(found)


def main():
    asked = json.load(sys.stdin)
    first, last = (datetime.datetime.fromisoformat(asked[name]) for name in ("from", "until"))
    answer = {
        name: {rule["name"]: due_times(rule, zoneinfo.ZoneInfo(name), first, last) for rule in asked["rules"]}
        for name in asked["zones"]
    }
    json.dump(answer, sys.stdout)


main()
