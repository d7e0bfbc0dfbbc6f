#!/usr/bin/env python3
"""Relink or quarantine the drivers without a lead. The same as `orphans fix`."""

from ct4_orphans.cli import fix

if __name__ == "__main__":
    fix(prog_name="fix_drivers_without_leads.py")
