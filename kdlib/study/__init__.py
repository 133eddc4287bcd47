"""Many runs, seen to progress, safe to stop, on one machine or a cluster: `study.run(experiment, grid)`."""

from kdlib.study.cli import command
from kdlib.study.engine import run
from kdlib.study.identity import key
from kdlib.study.live import Watch, collect, follow, watch
from kdlib.study.result import Incomplete, Stopped
from kdlib.study.store import arrays

__all__ = ["Incomplete", "Stopped", "Watch", "arrays", "collect", "command", "follow", "key", "run", "watch"]
