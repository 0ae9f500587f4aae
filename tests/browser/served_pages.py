"""A program that is watched, the real server that serves its page, and the browser's end of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 20
PROGRAM = Path(__file__).parent / "watched_program.py"


class Program:
    """A program with a pool, which obeys one order after the other."""

    def __init__(self, workers: int, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(workers), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout.readline().startswith("ready")

    def do(self, order: str) -> None:
        """Give an order and wait until it is done."""
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().startswith("did")

    def ps(self) -> dict[str, Any]:
        """Return what ``glasspool ps`` says of its pool."""
        command = [sys.executable, "-m", "glasspool", "ps", str(self.pid), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
        pool: dict[str, Any] = json.loads(done.stdout)["pools"][0]
        return pool

    def worker(self, slot: int) -> int:
        """Return the pid of the worker in a slot."""
        return next(int(p["pid"]) for p in self.ps()["processes"] if p["slot"] == slot)

    def end(self) -> None:
        """End it as it wants to be ended, and all that it started if it does not."""
        if self._process.returncode is not None:
            return
        try:
            self._process.stdin.close()
            self._process.wait(LIMIT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(LIMIT_S)
            self._process.stdout.close()


class Server:
    """``glasspool serve`` as users start it."""

    def __init__(self, pid: int, port: int = 0, token: str | None = None) -> None:
        command = [sys.executable, "-m", "glasspool", "serve", str(pid), "--json"]
        command += ["--port", str(port), *(["--token", token] if token else [])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        told = json.loads(self._process.stdout.readline())
        self.url: str = told["url"]
        self.port: int = told["port"]
        self.token: str = told["token"]

    def end(self) -> None:
        """End it by Ctrl-C."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(LIMIT_S)
            finally:
                self._process.kill()
                self._process.wait(LIMIT_S)
                self._process.stdout.close()


class Browser:
    """One Chromium, driven over its own protocol."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.allowed: list[str] = []

    def open(self, url: str) -> None:
        """Open a page and wait until it is live."""
        self.allowed.append(url.split("?")[0])
        self.driver.get(url)
        self.until("return document.documentElement.dataset.connection === 'live'")

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, *arguments: Any, limit_s: float = LIMIT_S) -> Any:
        """Wait until a script returns something true, and return that.

        It is asked in the page, frame by frame, so that the test waits for the event and not for a time.
        """
        body = (
            "const given = [...arguments], done = given.pop(), limit = performance.now() + given.pop();"
            f"const check = function () {{ {script} }};"
            "const look = () => { const found = check(...given);"
            " if (found || performance.now() > limit) done(found ?? null); else setTimeout(look, 20); };"
            "look();"
        )
        found = self.driver.execute_async_script(body, *arguments, limit_s * 1000)
        assert found, f"it did not come within {limit_s} s: {script}\n{self.said()}"
        return found

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def click(self, selector: str) -> None:
        """Click on an element, as a user does: where it is, and if nothing covers it."""
        self.driver.find_element("css selector", selector).click()

    def command(self, name: str, **arguments: Any) -> Any:
        """Give Chromium a command of its own protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Let the mouse do something at a place of the window."""
        self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def said(self) -> str:
        """Return what the page wrote on its console that is wrong."""
        entries = self.driver.get_log("browser")
        return "\n".join(entry["message"] for entry in entries if entry["level"] != "INFO")

    def requests(self) -> list[str]:
        """Return the URLs that were asked for since the last call of this."""
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


def start_browser() -> Iterator[Browser]:
    """Start a Chromium for all tests, and end it; skips where there is none."""
    import shutil

    webdriver = pytest.importorskip("selenium.webdriver")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        missing = "chromedriver" if chromium else "Chromium"
        pytest.skip(f"no {missing} on this machine: the page is not looked at")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "force-prefers-reduced-motion",
    ):
        options.add_argument(f"--{argument}")
    options.add_argument("--window-size=1400,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=service.Service(chromedriver))
    driver.set_script_timeout(2 * LIMIT_S)
    driver.set_page_load_timeout(LIMIT_S)
    try:
        yield Browser(driver)
    finally:
        driver.quit()


MakeWatched = Callable[..., tuple[Program, Server]]


def watched_maker() -> Iterator[MakeWatched]:
    """Yield a callable that starts a program and its server; both end with what asked for it."""
    started: list[Program | Server] = []

    def make(workers: int = 3, name: str = "demo") -> tuple[Program, Server]:
        program = Program(workers, name)
        started.append(program)
        server = Server(program.pid)
        started.append(server)
        return program, server

    try:
        yield make
    finally:
        for one in reversed(started):
            one.end()
