"""Faults: the real fix is broken at places that are known, and must keep what it promises.

See faults.py for how.
"""

from __future__ import annotations

from test_fix import (
    DAY,
    driver_of,
    event,
    lead_link,
    linked,
    person_key,
)
from reading import (
    CABINET_LEADS, DRIVERS, MIGRATIONS, NO_EVENTS, REPAIR_FAILED, SCOUTING, IndexedDriver, Person, PublicDriver, Quarantined, World,
)

# What the persons are, in the order in which the fix takes them: every transaction of four drivers
# has several kinds of work. "+" is a second driver of the same person.
TOWN = (
    "strong none licence+ twins twins release phone strong+ none taken both none"
    " release+ strong none phone++ none licence none quarantined purged whole both none"
).split()


def town() -> World:
    """Every kind of work that a fix has, 29 drivers of 24 persons."""
    world = World()
    for number, what in enumerate(TOWN, start=1):
        kind, person = what.rstrip("+"), person_key(number)
        drivers = [driver_of(f"{number} {nth}") for nth in range(1 + what.count("+"))]
        licence, phone = f"Q{number:08}", f"9{number:08}"
        if kind == "twins":  # of two persons: nobody knows whose lead it is
            phone = "911111111"
        world.persons.append(Person(person))
        world.links += [
            linked(10 * number + nth, person, driver) for nth, driver in enumerate(drivers)
        ]
        world.drivers_index.append(IndexedDriver(drivers[0], license_norm=licence))
        world.drivers.append(PublicDriver(drivers[-1], phone=phone))
        if kind == "strong":
            world.lead_events.append(event(number, MIGRATIONS, {"driver_id": drivers[0]}))
        if kind in ("licence", "both"):
            payload = {"driver_license": licence, "driver_phone": phone}
            world.lead_events.append(
                event(number, SCOUTING, payload if kind == "both" else {"driver_license": licence})
            )
        if kind in ("phone", "twins", "taken"):
            world.lead_events.append(event(number, CABINET_LEADS, {"park_phone": phone}))
        if kind == "phone":  # two lead rows
            world.lead_events.append(event(100 + number, SCOUTING, {"driver_phone": phone}))
        if kind in ("release", "whole"):
            world.links.append(lead_link(500 + number, person, CABINET_LEADS, f"own{number}"))
        if kind == "taken":  # the event is about a lead row that is somebody's
            world.links.append(lead_link(500 + number, person_key(22), CABINET_LEADS, f"L{number}"))
        if kind in ("release", "quarantined", "purged"):
            status = "purged" if kind == "purged" else "quarantined"
            world.quarantine += [
                Quarantined(driver, status, NO_EVENTS, 2, person) for driver in drivers
            ]
    return world
