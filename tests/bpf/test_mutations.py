"""No object and no code, however damaged, crashes the host, hangs it or eats memory.

It is loaded and run, or refused with a LinkError, or stopped with a BpfFault. How inputs are damaged is
in mutations.py, which as a program also runs many more of them.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bpf.mutations import OBJECT_DAMAGES, damaged, damaged_code, run_or_refuse, seeds
from tests.mutations import limited_memory


@pytest.mark.parametrize("damage", [damaged, damaged_code], ids=["object", "code"])
@settings(settings.get_profile("mutations"), suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False), st.data())
def test_a_damaged_program_is_run_or_refused(damage, choices, data):
    """Whatever is damaged in a sound object or its code, loading and running it ends well."""
    seed = data.draw(st.sampled_from(sorted(seeds())))
    with limited_memory():
        run_or_refuse(damage(seeds()[seed], choices), choices)


@pytest.mark.parametrize("damage", dict.fromkeys(OBJECT_DAMAGES), ids=lambda damage: damage.__name__)
def test_each_sort_of_damage_is_run_or_refused(damage):
    """Of every sort of damage alone, each seed twice ends well."""
    choices = random.Random(damage.__name__)
    with limited_memory():
        for content in [*seeds().values()] * 2:
            buffer = bytearray(content)
            damage(buffer, choices)
            run_or_refuse(bytes(buffer), choices)


def test_the_sound_objects_run():
    """Undamaged, every seed is loaded and its programs run: else the damage would be tested on nothing."""
    for name, content in seeds().items():
        assert run_or_refuse(content, random.Random(1)) == "loaded, and ran", name
