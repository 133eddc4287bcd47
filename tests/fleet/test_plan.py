"""Groups, threads and pieces, and whether a plan's memory is the memory that is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

import kdlib.fleet.plan as planning
from kdlib.fleet.plan import plan
from kdlib.models import CNN, MLP, stack

PICTURES = torch.zeros(64, 1, 28, 28)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def cnn(students: int) -> CNN:
    return CNN((1, 16, 32), 10, range(students))


def lengths(made: planning.Plan) -> list[int]:
    return [group.stop - group.start for group in made.groups]


@pytest.mark.usefixtures("two_threads")
class TestThreads:
    def test_eight_cnns_work_in_two_threads(self) -> None:
        made = plan(cnn(8), PICTURES, [slice(0, 8)])
        assert (made.workers, made.threads) == (2, 1)

    def test_one_network_has_both_for_its_own_products(self) -> None:
        made = plan(cnn(1), PICTURES, [slice(0, 1)])
        assert (made.workers, made.threads, lengths(made)) == (1, 2, [1])

    def test_a_step_that_is_small_is_not_worth_a_second_one(self) -> None:
        made = plan(MLP((10, 16, 4), range(8)), torch.zeros(32, 10), [slice(0, 8)])
        assert (made.workers, made.threads, lengths(made)) == (1, 1, [8])

    def test_grow_with_the_work_up_to_what_torch_has(self) -> None:
        torch.set_num_threads(4)
        for work, expected in ((0, 1), (2 * planning.WORK_PER_THREAD, 2), (99 * planning.WORK_PER_THREAD, 4)):
            assert planning.thread_count(None, work) == expected
        assert planning.thread_count(3, 0) == 3


@pytest.mark.usefixtures("two_threads")
class TestGroups:
    def test_many_cnns_are_several_groups_that_fit_the_cache_or_stand_alone(self) -> None:
        made = plan(cnn(121), PICTURES, [slice(0, 121)])
        assert len(made.groups) > 10
        assert made.group_bytes < 2 * planning.CACHE_BYTES
        small = plan(CNN((1, 4, 8), 10, range(121)), torch.zeros(16, 1, 8, 8), [slice(0, 121)])
        assert max(lengths(small)) > 1
        assert small.group_bytes <= planning.CACHE_BYTES

    @pytest.mark.parametrize("together", [1, 3])
    @pytest.mark.parametrize("threads", [1, 2, 5])
    def test_hold_everybody_once_inside_blocks_and_never_part_neighbours(self, threads: int, together: int) -> None:
        for sizes in ([3], [9], [9, 3, 30], [300, 3]):
            edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
            blocks = [slice(a, b) for a, b in pairwise(edges)]
            for model, x in (
                (MLP((100, 200, 20), range(edges[-1])), torch.zeros(128, 100)),
                (CNN((1, 4), 10, range(edges[-1])), torch.zeros(8, 1, 8, 8)),
            ):
                made = plan(model, x, blocks, threads=threads, together=together)
                everybody = [f for group in made.groups for f in range(group.start, group.stop)]
                assert everybody == list(range(edges[-1]))
                for group in made.groups:
                    assert sum(b.start <= group.start and group.stop <= b.stop for b in blocks) == 1
                    assert group.start % together == group.stop % together == 0
                assert made.workers <= max(1, min(threads, edges[-1] // together))
                assert made.workers * made.threads <= threads

    def test_of_neighbours_that_step_together_fit_the_cache_as_others_do(self) -> None:
        made = plan(MLP((100, 128, 20), range(90)), torch.zeros(128, 100), [slice(0, 90)], threads=1, together=3)
        assert len(made.groups) > 1
        assert made.group_bytes <= planning.CACHE_BYTES

    def test_are_about_as_large_and_a_whole_number_of_rounds(self) -> None:
        made = plan(MLP((100, 128, 20), range(100)), torch.zeros(128, 100), [slice(0, 100)], threads=3)
        assert max(lengths(made)) - min(lengths(made)) <= 1
        assert len(made.groups) % 3 == 0
        assert made.group_bytes <= planning.CACHE_BYTES


class TestPieces:
    def test_of_a_fleet_that_goes_one_by_one_do_not_shrink_with_it(self) -> None:
        few, many = (planning.pieces(cnn(n), PICTURES) for n in (4, 121))
        assert (few[0], many[0]) == (4, 121)
        assert few[1] == many[1] >= 30

    def test_of_others_do(self) -> None:
        x = torch.zeros(9, 100)
        few, many = (planning.pieces(MLP((100, 3000, 10), range(n)), x) for n in (4, 40))
        assert few[1] >= 9 * many[1]
        assert planning.pieces(stack(lambda: nn.Linear(100, 10), range(40)), x)[0] == 32


def test_slices_are_even_and_whole() -> None:
    assert [(s.start, s.stop) for s in planning.slices(7, 3)] == [(0, 2), (2, 4), (4, 7)]
    assert [(s.start, s.stop) for s in planning.slices(3, 9)] == [(0, 3)]


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks are read from Linux's /proc")
def test_memory_is_what_the_plan_states() -> None:
    """Within 25 % for each kind of network; and evaluating CNNs on 2,000 images takes no more for 32 than for a few."""
    root = Path(__file__).parents[2]
    told = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    script = Path(__file__).with_name("peaks.py")
    run = subprocess.run([sys.executable, script], env=os.environ | told, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)
    for name, (stated, measured, groups) in rows.items():
        if name.startswith("evaluate"):
            assert measured < 300e6, (name, measured)
        else:
            assert groups == 1
            assert measured > 50e6  # large enough to be no noise
            assert 0.75 < stated / measured < 1.25, (name, stated, measured)
