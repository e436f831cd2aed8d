"""Typed calls: functions and variables of linked code, with the C types that their debug information gives."""
