"""One assignment through otter itself: handed out, handed in, marked within its limits; and the commands for it."""

import nbformat
import pytest

from book.tools import __main__ as tools
from book.tools import assignments, marker
from tests.course import marks

NAME = "universe"


@pytest.mark.slow
def test_otter_marks_the_reference_and_what_does_not_end(tmp_path):
    read = assignments.write(marks.ROOT, NAME, tmp_path / NAME)
    right = {task.name: task.cell for task in read.tasks.values()}
    assert sorted(path.name for path in (tmp_path / NAME).iterdir()) == ["autograder.zip", "student"]
    stuck = {
        "class_matched": right["class_matched"].replace(
            assignments.BEGIN, f"{assignments.BEGIN}\n    while True: pass"
        ),
        "smoothing_of": right["smoothing_of"],
        "resting": right["resting"] + "\nwhile True:\n    pass",
    }
    for answers, points in ((right, [3, 2, 2]), (stuck, [0, 2, 2])):
        handed_in = tmp_path / f"{NAME}.ipynb"
        nbformat.write(assignments.with_answers(read, answers), handed_in)
        # a busy machine may need longer by the clock; what the marking computes is what counts here
        marked = marker.mark(tmp_path / NAME / "autograder.zip", handed_in, seconds=900)
        assert marked.problem == ""
        assert marked.points == dict(zip(right, points, strict=True))
        assert marked.usage.cpu < marker.LIMIT_SECONDS and marked.usage.peak_mb < marker.LIMIT_MB


def test_what_takes_too_long_has_no_points(tmp_path):
    for name in ("autograder.zip", "x.ipynb"):
        (tmp_path / name).write_text("{}")
    marked = marker.mark(tmp_path / "autograder.zip", tmp_path / "x.ipynb", seconds=0.0)
    assert not marked.points and marked.problem == "not marked within 0 seconds"
    with pytest.raises(ValueError, match="submission must be a file, got"):
        marker.mark(tmp_path / "autograder.zip", tmp_path / "y.ipynb")


def test_bad_use_of_the_commands(capsys, tmp_path):
    assert tools.main(["course", "univers"]) == 2
    assert tools.main(["mark", "univers", "x.ipynb"]) == 2
    assert tools.main(["mark", NAME, str(tmp_path / "absent.ipynb")]) == 2
    said = capsys.readouterr().err
    assert said.count("got univers") == 2 and "absent.ipynb" in said


def test_an_assignment_that_does_not_hold_together_is_named(tmp_path):
    source = (assignments.folder(marks.ROOT) / f"{NAME}.md").read_text("utf8")
    wrong = {
        source.replace(assignments.BEGIN, "#"): "must have one '# BEGIN SOLUTION'",
        source.replace(":points: 3", ":points: 0"): "hidden tests have points",
        source.replace(":hidden: resting", ":hidden: rest"): "hidden must name a task above it, got 'rest'",
        source.replace(":task: resting", ":task: Resting"): "task must be a new name",
        source.replace("def test_at_t_1", "def at_t_1"): "must define one function test_",
    }
    place = tmp_path / "book" / "teach" / "assignments" / f"{NAME}.md"
    place.parent.mkdir(parents=True)
    for text, message in wrong.items():
        assert text != source
        place.write_text(text, "utf8")
        with pytest.raises(ValueError, match=r"universe\.md") as raised:
            assignments.read(tmp_path, NAME)
        assert message in str(raised.value)
