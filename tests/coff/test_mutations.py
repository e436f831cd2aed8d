"""No COFF object crashes the linker, hangs it or eats memory: it is linked, or refused with a LinkError.

How inputs are damaged is in mutations.py, which as a program also runs many more of them.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.coff.mutations import DAMAGES, damaged, is_linkable, link_or_refuse, seeds
from tests.mutations import limited_memory


@settings(settings.get_profile("mutations"), suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False), st.data())
def test_a_damaged_object_is_linked_or_refused(choices, data):
    """Whatever is damaged in a sound input, reading and linking it end in an image or in a LinkError."""
    seed = data.draw(st.sampled_from(sorted(seeds())))
    with limited_memory():
        link_or_refuse(damaged(seeds()[seed], choices), choices)


SORTS = {damage.__name__: damage for damage in DAMAGES}


@pytest.mark.parametrize("name", SORTS)
def test_each_sort_of_damage_is_linked_or_refused(name):
    """Each sort of damage alone, done to every sound input, ends in an image or in a LinkError."""
    choices = random.Random(name)
    with limited_memory():
        for content in seeds().values():
            buffer = bytearray(content)
            SORTS[name](buffer, choices)
            link_or_refuse(bytes(buffer), choices)


def test_the_sound_inputs_are_linked():
    """Undamaged, every seed goes through the whole link: else the damage would be tested on nothing."""
    assert [name for name, content in seeds().items() if not is_linkable(content)] == []
