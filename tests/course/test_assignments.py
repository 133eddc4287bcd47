"""Every assignment: its reference has all points, an untouched copy none, each wrong answer what it should lose."""

import pytest

from book.tools import assignments
from tests.course import marks

ROOT = marks.ROOT
NAMES = assignments.names(ROOT)


def everything_right(name):
    return {task.name: task.cell for task in marks.assignment(name).tasks.values()}


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_has_all_points_and_an_untouched_copy_none(name):
    read = marks.assignment(name)
    assert assignments.chapter_of(ROOT, name)
    assert 2 <= len(read.tasks) <= 4
    full = {task.name: task.points for task in read.tasks.values()}
    assert marks.mark(name, assignments.reference(read)) == full
    assert marks.mark(name, assignments.with_answers(read, {})) == dict.fromkeys(full, 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_answer_loses_exactly_its_points(name):
    read, wrong = marks.assignment(name), marks.wrong_answers(name)
    assert len(marks.slips(name)) >= 4

    def lost(cells, only, seconds):
        points = marks.mark(name, assignments.with_answers(read, everything_right(name) | cells), only, seconds)
        missing = {task: read.tasks[task].points - number for task, number in points.items()}
        return {task: number for task, number in missing.items() if number}

    for what, (cells, task, points) in wrong.items():
        only = task if cells[task] and "without end" not in what else None  # the other cells are the reference's
        wanted = {task: points} if points else {}
        # in a hurry first; a right answer that a slow machine cut off is marked again with all the time it has in class
        hurried = lost(cells, only, marks.HURRY)
        assert hurried == wanted or lost(cells, only, marks.PATIENCE) == wanted, (what, hurried)
