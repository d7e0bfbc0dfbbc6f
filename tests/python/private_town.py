"""A CT4 database that has recognisable personal data in every field that can hold some.

Phones, documents: 942424…; licences: QZXW…; plates: VWK…; names: Xochitl, Zuñiga, Yupanqui.
Masked forms show three characters at most, so none of these can be in what leaves the database.
"""

from __future__ import annotations

import hashlib
import re
import uuid

from ct4_orphans.database import Settings, connect

PERSONAL = re.compile(
    r"9[ .-]?4[ .-]?2[ .-]?4[ .-]?2[ .-]?4|q\W?z\W?x\W?w|v\W?w\W?k\W?[7-9]"
    r"|xochitl|zu(ñ|\\u00f1)iga|yupanqui",
    re.IGNORECASE,
)


def driver(number: int) -> str:
    return hashlib.md5(f"private {number}".encode()).hexdigest()


def person(number: int) -> uuid.UUID:
    return uuid.UUID(f"00000000-0000-4000-9000-{number:012d}")


PHONE = "942424{:03d}"
LICENCE = "QZXW90{:03d}"
PLATE = "VWK-7{:02d}"
NAME = "Xochitl Zuñiga Yupanqui {:d}"

# 1 driver_id, 2 licence and phone, 3 phone: relinked. 4 and 5 share a phone: ambiguous. 6: nothing.
# 7: has a lead, and drives. 8 and 9: only their person_key; 10: by licence, for errors.
NUMBERS = range(1, 11)
EVENTS = {
    1: ("module_ct_migrations", ("driver_id", "driver_name", "scout_name")),
    2: ("module_ct_scouting_daily", ("driver_name", "driver_phone", "driver_license")),
    3: ("module_ct_cabinet_leads", ("first_name", "last_name", "park_phone", "asset_plate_number")),
    4: ("module_ct_cabinet_leads", ("first_name", "last_name", "park_phone", "asset_plate_number")),
    7: ("module_ct_cabinet_leads", ("first_name", "last_name", "park_phone", "asset_plate_number")),
    8: ("module_ct_scouting_daily", ("driver_name",)),
    9: ("module_ct_migrations", ("driver_name", "scout_name")),
    10: ("module_ct_scouting_daily", ("driver_name", "driver_license")),
}


def payload(number: int) -> dict[str, str]:
    values = {
        "driver_id": driver(number),
        "driver_name": NAME.format(number),
        "scout_name": NAME.format(900 + number),
        "driver_phone": f"+51 942 424 {number:03d}",
        "driver_license": f"qzxw-90{number:03d}",
        "first_name": "Xochitl",
        "last_name": f"Zuñiga Yupanqui {number}",
        "park_phone": f"+51942424{number:03d}",
        "asset_plate_number": PLATE.format(number),
    }
    return {name: values[name] for name in EVENTS[number][1]}


def fill_private(settings: Settings) -> None:
    """Write the town into a CT4 database as it is before this project."""
    from psycopg.types.json import Jsonb

    with connect(settings) as connection, connection.transaction():
        for number in NUMBERS:
            # 4 and 5 are two persons with one phone.
            phone = PHONE.format(4 if number == 5 else number)
            everything = {
                "phone": phone,
                "license": LICENCE.format(number),
                "full_name": NAME.format(number),
                "plate": PLATE.format(number),
            }
            connection.execute(
                "insert into canon.identity_registry (person_key, primary_phone, primary_document,"
                " primary_license, primary_full_name, flags) values (%s, %s, %s, %s, %s, %s)",
                [
                    person(number),
                    phone,
                    f"942424{500 + number}",
                    LICENCE.format(number),
                    NAME.format(number),
                    Jsonb(everything),
                ],
            )
            connection.execute(
                "insert into canon.identity_links (person_key, source_table, source_pk,"
                " snapshot_date, match_rule, match_score, confidence_level, evidence)"
                " values (%s, 'drivers', %s, '2025-03-01', 'PHONE_EXACT', 90, 'HIGH', %s)",
                [person(number), driver(number), Jsonb(everything)],
            )
            connection.execute(
                "insert into canon.drivers_index (driver_id, phone_norm, license_norm, plate_norm,"
                " full_name_norm, snapshot_date) values (%s, %s, %s, %s, %s, '2025-03-01')",
                [
                    driver(number),
                    phone,
                    LICENCE.format(number),
                    PLATE.format(number),
                    NAME.format(number).upper(),
                ],
            )
            connection.execute(
                "insert into public.drivers (driver_id, first_name, last_name, full_name, phone,"
                " license_number, license_normalized_number) values (%s, %s, %s, %s, %s, %s, %s)",
                [
                    driver(number),
                    "Xochitl",
                    "Zuñiga",
                    NAME.format(number),
                    phone,
                    LICENCE.format(number),
                    LICENCE.format(number),
                ],
            )
            connection.execute(
                "insert into public.summary_daily values (%s, '11-03-2025', 30, 3600)",
                [driver(number)],
            )
            connection.execute(
                "insert into observational.lead_ledger (person_key, attributed_source,"
                " evidence_json) values (%s, 'cabinet', %s)",
                [person(number), Jsonb(everything)],
            )
        for number, (table, _) in EVENTS.items():
            connection.execute(
                "insert into observational.lead_events (id, source_table, source_pk, event_date,"
                " person_key, payload_json) values (%s, %s, %s, '2025-03-10', %s, %s)",
                [
                    number,
                    table,
                    f"L{number}",
                    person(number) if number in (7, 8, 9) else None,
                    Jsonb(payload(number)),
                ],
            )
        connection.execute(
            "insert into canon.identity_links (person_key, source_table, source_pk, snapshot_date,"
            " match_rule, match_score, confidence_level, evidence) values (%s,"
            " 'module_ct_cabinet_leads', 'L7', '2025-03-10', 'PHONE_EXACT', 90, 'HIGH', %s)",
            [person(7), Jsonb({"phone": PHONE.format(7), "name": NAME.format(7)})],
        )
        connection.execute(
            "insert into public.module_ct_cabinet_leads (external_id, first_name, last_name,"
            " park_phone, asset_plate_number) values ('L7', 'Xochitl', 'Zuñiga', %s, %s)",
            [PHONE.format(7), PLATE.format(7)],
        )
        connection.execute(
            "insert into ops.scout_payment_rules (origin_tag, window_days, milestone_trips, amount,"
            " valid_from) values ('cabinet', 30, 5, 100, '2024-01-01')"
        )
