"""Debian's Prometheus with the shipped configuration."""

import contextlib
import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

from mpnet.guest import debian
from tests.real.running import free_port, wait_until

PARTS = ("prometheus",)

DASHBOARDS = Path(__file__).parents[2] / "dashboards"
_PATIENCE_SECONDS = 120


class Prometheus:
    """A server on a port of its own that scrapes one exporter twice a second; a context manager that ends it.

    The exporter is found in both ways meant for many hosts: a file of targets, and its own discovery.

    Args:
        folder: for its data and its configuration.
        port: the exporter's, on 127.0.0.1.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        shutil.copytree(DASHBOARDS / "rules", folder / "rules")
        (folder / "targets").mkdir()
        (folder / "targets/hosts.json").write_text(json.dumps([{"targets": [f"127.0.0.1:{port}"]}]))
        config = (DASHBOARDS / "prometheus.yml").read_text()
        for before, after in {
            "_interval: 5s": "_interval: 500ms",
            '["127.0.0.1:9464"]': "[]",
            "# http_sd_configs:": "http_sd_configs:",
            "#   - url: http://host-a:9464/sd": f"  - url: http://127.0.0.1:{port}/sd",
        }.items():
            assert before in config, f"prometheus.yml no longer has {before!r}"
            config = config.replace(before, after)
        (folder / "prometheus.yml").write_text(config)
        self._log = folder / "prometheus.log"
        self._command = [
            str(debian.program("prometheus")),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
            f"--web.console.templates={DASHBOARDS / 'consoles'}",
            f"--web.console.libraries={DASHBOARDS / 'consoles/lib'}",
            "--log.level=warn",
        ]

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        try:
            wait_until(self._is_ready, "Prometheus is ready", _PATIENCE_SECONDS)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5) as answer,
        ):
            return bool(answer.status == 200)
        return False

    def api(self, path: str, **parameters: str) -> Any:
        """Ask the HTTP API; what it answers as ``data``."""
        what = f"{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(
                f"http://{self.address}/api/v1/{what}", timeout=_PATIENCE_SECONDS
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def page(self, path: str) -> str:
        """A page as it is sent, no script of it run; "metrics" is what it says of itself."""
        with urllib.request.urlopen(f"http://{self.address}/{path}", timeout=_PATIENCE_SECONDS) as answer:
            return str(answer.read().decode())

    def query(self, expression: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Labels and value of every series that an expression gives now, or gave at a time."""
        when = {} if at is None else {"time": str(at)}
        result = self.api("query", query=expression, **when)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def value(self, expression: str, at: float | None = None) -> float:
        """The value of an expression of one series, 0 where there is none."""
        values = [value for _, value in self.query(expression, at)]
        assert len(values) <= 1, f"{expression} gives {len(values)} series"
        return values[0] if values else 0.0
