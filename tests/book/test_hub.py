"""The page on hubs: its settings do what it says, its files can be read, its link is one that nbgitpuller understands."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import yaml

from book.tools import contents, release
from kdlib import study

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "book" / "appendix" / "hub.md").read_text("utf8")
BLOCKS = dict(re.findall(r"^```\{code-block\} \w+\n:name: hub-(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))
THREADS = dict(line.split("=") for line in BLOCKS["threads"].split())


def test_the_environment_limits_threads_and_processes():
    """One, where this machine has more; the page's own value may be what the machine has."""
    program = "import joblib, torch; print(torch.get_num_threads(), joblib.cpu_count())"
    environment = os.environ | dict.fromkeys(THREADS, "1")
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_all_three_ways_to_set_it_set_the_same():
    c = SimpleNamespace(Spawner=SimpleNamespace(environment=None))
    exec(BLOCKS["environment"], {"c": c})
    assert c.Spawner.environment == THREADS
    values = yaml.safe_load(BLOCKS["values"])["singleuser"]
    assert values["extraEnv"] == THREADS
    tljh = dict(re.findall(r"tljh-config set (\S+) (\S+)", BLOCKS["tljh"]))
    assert tljh["limits.memory"] == values["memory"]["limit"] == "2G"
    assert int(tljh["limits.cpu"]) == values["cpu"]["limit"] == int(THREADS["OMP_NUM_THREADS"])


def test_addresses_on_the_page_are_those_of_the_settings():
    url, branch = release.repository(ROOT)
    named = set(re.findall(r"https://github\.com/[\w-]+/[\w-]+", TEXT))
    assert named == {url}
    assert f"{url}/archive/refs/heads/{branch}.zip" in BLOCKS["tljh"] and f"--ref {branch}" in BLOCKS["image"]
    assert all(name in BLOCKS["tljh"] for name in release.BESIDES)
    link = urlsplit(BLOCKS["link"].strip())
    (name,) = [name for name in contents.toc_entries(ROOT)[1:] if name in BLOCKS["link"].replace("%2F", "/")]
    assert link.path == "/hub/user-redirect/git-pull"
    assert parse_qs(link.query, strict_parsing=True) == {
        "repo": [url],
        "branch": [branch],
        "urlpath": [f"lab/tree/{url.rsplit('/', 1)[1]}/book/{name}.ipynb"],
    }


def test_the_call_of_study_has_arguments_that_study_knows():
    calls = [node for node in ast.walk(ast.parse(BLOCKS["gateway"])) if isinstance(node, ast.Call)]
    (run,) = [call for call in calls if ast.unparse(call.func) == "study.run"]
    inspect.signature(study.run).bind(*run.args, **{word.arg: word.value for word in run.keywords})
