"""Chromium without a window, over its debugging pipe: JSON messages that end in a zero byte."""
import json, os, shutil, subprocess, time

ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--ignore-certificate-errors", "--remote-debugging-pipe"]


def program():
    return next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


class Browser:
    """One tab. Whoever is asked for something by it gets the token."""

    def __init__(self, path, folder, token):
        ours, to_it = os.pipe(), os.pipe()
        # The browser reads at 3 and writes at 4.
        command = ["sh", "-c", f'exec "$@" 3<&{to_it[0]} 4>&{ours[1]}', "sh", path, *ARGUMENTS, f"--user-data-dir={folder / 'profile'}"]
        self.log = open(folder / "chromium.log", "wb")
        self.process = subprocess.Popen(command, pass_fds=(to_it[0], ours[1]), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        os.close(to_it[0]), os.close(ours[1])
        self.sender, self.receiver = os.fdopen(to_it[1], "wb", 0), os.fdopen(ours[0], "rb")
        self.number, self.session, self.rest = 0, None, b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Network.enable")
        self.call("Network.setExtraHTTPHeaders", headers={"authorization": f"Bearer {token}"})
        self.call("Emulation.setDeviceMetricsOverride", width=1366, height=768, deviceScaleFactor=1, mobile=False)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.sender.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self.read())
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def read(self):
        while b"\0" not in self.rest:
            piece = self.receiver.read1(1 << 16)
            if not piece:
                raise RuntimeError("chromium has ended")
            self.rest += piece
        message, self.rest = self.rest.split(b"\0", 1)
        return message

    def go(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.protocol === 'https:'")

    def eval(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, condition, seconds=60):
        ends = time.monotonic() + seconds
        while not self.eval(f"Boolean({condition})"):
            if time.monotonic() > ends:
                raise RuntimeError(f"waited in vain for {condition}: {self.eval('document.body.innerText')[:500]}")
            time.sleep(0.1)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()
