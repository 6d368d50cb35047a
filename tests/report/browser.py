"""A headless Chromium, spoken to by its DevTools protocol through a pipe: what a page shows, and what it does when it is used."""

from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""The last two draw WebGL without a graphics card. Containers run as root, where the sandbox does not start."""
PATIENCE = 60.0
"""Seconds for anything that the browser is asked."""


class Browser:
    """One page of a browser that ends with the `with` block."""

    def __init__(self, folder: Path, *, width: int = 1300, height: int = 900) -> None:
        assert CHROMIUM is not None
        ours, theirs = os.pipe(), os.pipe()  # it reads commands from its file 3 and writes answers to its file 4
        command = [
            CHROMIUM,
            *OPTIONS,
            "--remote-debugging-pipe",
            f"--user-data-dir={folder}",
            f"--window-size={width},{height}",
            "about:blank",
        ]
        shell = ["bash", "-c", f'exec 3<&{ours[0]} 4>&{theirs[1]}; exec "$@"', "bash", *command]
        self._process = subprocess.Popen(shell, pass_fds=(ours[0], theirs[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(ours[0])
        os.close(theirs[1])
        self._to, self._from, self._rest, self._number = ours[1], theirs[0], b"", 0
        self.events: list[dict[str, Any]] = []
        page = next(target for target in self._ask("Target.getTargets")["targetInfos"] if target["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._to)  # ends it
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)

    def open(self, page: Path) -> None:
        self.ask("Page.navigate", url=page.resolve().as_uri())
        self.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")

    def evaluate(self, expression: str) -> Any:
        """Return what an expression of JavaScript gives, as plain values."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        end = time.monotonic() + PATIENCE
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"not so after {PATIENCE:g} s: {expression}; it logged {self.problems()}"
            time.sleep(0.05)

    def picture_of(self, selector: str) -> Image.Image:
        """Return what a person sees of an element."""
        # Of the page, which may be scrolled, not of the window
        place = "(e => { const b = e.getBoundingClientRect(); return [b.x + scrollX, b.y + scrollY, b.width, b.height] })"
        box = self.evaluate(f"{place}(document.querySelector({json.dumps(selector)}))")
        clip = dict(zip(("x", "y", "width", "height"), box)) | {"scale": 1}
        data = self.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
        return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")

    def click(self, selector: str) -> None:
        """Press the mouse where an element is."""
        x, y = self._middle_of(selector)
        self._mouse("mousePressed", x, y)
        self._mouse("mouseReleased", x, y)

    def drag(self, selector: str, right: float) -> None:
        """Drag the mouse from an element's middle so many pixels to the right."""
        x, y = self._middle_of(selector)
        self._mouse("mousePressed", x, y)
        for step in range(1, 6):
            self._mouse("mouseMoved", x + right * step / 5, y)
        self._mouse("mouseReleased", x + right, y)

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"ArrowRight": 39, "ArrowLeft": 37}[key])

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since the browser began, without their data."""
        return [event["params"]["request"]["url"][:80] for event in self.events if event["method"] == "Network.requestWillBeSent"]

    def problems(self) -> list[str]:
        """Return the errors that scripts raised and that the browser logged."""
        raised = [event["params"]["exceptionDetails"] for event in self.events if event["method"] == "Runtime.exceptionThrown"]
        logged = [event["params"]["entry"] for event in self.events if event["method"] == "Log.entryAdded"]
        return [str(error) for error in raised] + [str(entry["text"]) for entry in logged if entry["level"] == "error"]

    def ask(self, method: str, **options: Any) -> dict[str, Any]:
        """Send a command of the protocol to the page and return its answer."""
        return self._ask(method, self._session, **options)

    def _middle_of(self, selector: str) -> tuple[float, float]:
        at = json.dumps(selector)
        box = self.evaluate(f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect(); "
                            f"return [b.x + b.width / 2, b.y + b.height / 2] }})(document.querySelector({at}))")  # fmt: skip
        return box[0], box[1]

    def _mouse(self, kind: str, x: float, y: float) -> None:
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def _ask(self, method: str, session: str | None = None, **options: Any) -> dict[str, Any]:
        self._number += 1
        command = {"id": self._number, "method": method, "params": options} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(command).encode() + b"\0")
        answer = self._answer(lambda message: message.get("id") == command["id"])
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _answer(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            while b"\0" in self._rest:
                text, self._rest = self._rest.split(b"\0", 1)
                message = json.loads(text)
                if is_it(message):
                    return message
                self.events.append(message)
            ready, _, _ = select.select([self._from], [], [], PATIENCE)
            received = os.read(self._from, 1 << 20) if ready else b""
            assert received, "the browser ended or does not answer"
            self._rest += received
