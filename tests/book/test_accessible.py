"""What a page's text gets for readers by ear and by keyboard."""

import matplotlib.pyplot as plt
import pandas as pd
from bs4 import BeautifulSoup

from book.tools import accessible
from kdlib.explore import explore


def test_no_header_is_empty():
    rows = pd.DataFrame({"value": [1, 2]}, index=pd.Index(["a", "b"], name="seed"))
    made = BeautifulSoup(accessible.mended(rows.to_html()), "html.parser")
    assert [cell.get_text() for cell in made.select("th")] == ["value", "seed", "a", "b"]
    assert [len(row.select("th, td")) for row in made.select("tr")] == [2, 2, 2, 2]


def test_tables_behind_figures_have_names_of_their_own():
    def draw(n):
        plt.gca().plot([0, n])
        return f"Up to {n}."

    figure = explore(draw, n=[1, 2], table=lambda n: pd.DataFrame({"n": [n]})).html()
    made = BeautifulSoup(accessible.mended(figure + figure), "html.parser")
    assert [each["aria-label"] for each in made.select("[role=region]")] == [
        "Data behind moving figure 1",
        "Data behind moving figure 2",
    ]


def test_only_pages_with_something_folded_have_the_script():
    assert accessible.mended("<p>x</p>") == "<p>x</p>"
    assert accessible.mended("<details><p>x</p></details>").count("<script>") == 1
