//! Chromium over its debugging pipe: JSON messages that end in a zero byte, without a driver in between.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

/// How long a page may take to become what it must be.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Browser {
    child: Child,
    to: File,
    from: BufReader<File>,
    session: String,
    number: u64,
    /// Faults that the pages made: exceptions, errors of the console, requests to other hosts.
    pub(crate) faults: Vec<String>,
    base: String,
}

/// The program, if this machine has it.
pub(crate) fn program() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = std::env::split_paths(&folders).flat_map(|folder| names.map(|name| folder.join(name)));
    found.into_iter().find(|path| path.is_file())
}

impl Browser {
    /// `base` is the address of the appliance: a request to another host is a fault.
    pub(crate) fn start(program: &Path, folder: &Path, base: &str) -> Browser {
        let (to, from) = (folder.join("to"), folder.join("from"));
        for path in [&to, &from] {
            mkfifo(path, Mode::from_bits_truncate(0o600)).unwrap();
        }
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--ignore-certificate-errors",
            "--remote-debugging-pipe",
            "--force-color-profile=srgb",
        ];
        // The shell gives the pipes the numbers that Chromium expects.
        let child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<\"$TO\" 4>\"$FROM\"", "sh"])
            .arg(program)
            .args(arguments)
            .arg(format!("--user-data-dir={}", folder.join("profile").display()))
            .env("TO", &to)
            .env("FROM", &from)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("chromium.log")).unwrap())
            .spawn()
            .unwrap();
        let to = OpenOptions::new().write(true).open(to).unwrap();
        let from = BufReader::new(File::open(from).unwrap());
        let mut browser =
            Browser { child, to, from, session: String::new(), number: 0, faults: Vec::new(), base: base.to_owned() };
        browser.open_tab();
        browser
    }

    fn open_tab(&mut self) {
        let target = self.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached = self.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        self.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
    }

    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.ask(method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// The result, or what the browser says against it.
    fn ask(&mut self, method: &str, parameters: Value) -> Result<Value, Value> {
        self.number += 1;
        let number = self.number;
        let mut message = json!({ "id": number, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let answer = self.read();
            if answer["id"] == number {
                return answer.get("error").map_or_else(|| Ok(answer["result"].clone()), |error| Err(error.clone()));
            }
            self.note(&answer);
        }
    }

    fn read(&mut self) -> Value {
        let mut bytes = Vec::new();
        let read = self.from.read_until(0, &mut bytes).unwrap();
        assert!(read > 0, "chromium has ended");
        bytes.pop();
        serde_json::from_slice(&bytes).unwrap()
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => self.faults.push(format!("exception: {parameters}")),
            // An answer that is an error is what some steps of the test are about.
            "Log.entryAdded"
                if parameters["entry"]["level"] == "error" && parameters["entry"]["source"] != "network" =>
            {
                self.faults.push(format!("console: {}", parameters["entry"]));
            }
            "Network.requestWillBeSent" => {
                let url = parameters["request"]["url"].as_str().unwrap_or_default();
                if !url.starts_with(&self.base) && !url.starts_with("data:") && url != "about:blank" {
                    self.faults.push(format!("request to another host: {url}"));
                }
            }
            _ => {}
        }
    }

    pub(crate) fn go(&mut self, path: &str) {
        let url = format!("{}{path}", self.base);
        self.eval("window.left = true");
        self.call("Page.navigate", json!({ "url": url }));
        self.loaded();
    }

    /// Waits until another document is there, whole.
    fn loaded(&mut self) {
        self.wait("!window.left && document.readyState === 'complete'");
    }

    /// The value of an expression; a promise is waited for.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", parameters);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    pub(crate) fn wait(&mut self, condition: &str) {
        self.wait_within(PATIENCE, condition);
    }

    pub(crate) fn wait_within(&mut self, limit: Duration, condition: &str) {
        let begun = Instant::now();
        // A page that goes away while it is asked has no answer, or an error for one.
        let parameters = json!({ "expression": format!("Boolean({condition})"), "returnByValue": true });
        while !self.ask("Runtime.evaluate", parameters.clone()).is_ok_and(|answer| answer["result"]["value"] == true) {
            if begun.elapsed() > limit {
                let text = self.eval("document.body.innerText");
                panic!("waited in vain for {condition}\non {}\n{}", self.eval("location.href"), text.as_str().unwrap());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn wait_text(&mut self, text: &str) {
        self.wait(&format!("document.body.innerText.includes({})", json!(text)));
    }

    pub(crate) fn fill(&mut self, selector: &str, value: &str) {
        let (selector, value) = (json!(selector), json!(value));
        self.eval(&format!(
            "(() => {{ const f = document.querySelector({selector}); f.focus(); f.value = {value};
              f.dispatchEvent(new Event('input', {{ bubbles: true }})); f.dispatchEvent(new Event('change', {{ bubbles: true }})); }})()"
        ));
    }

    pub(crate) fn click(&mut self, selector: &str) {
        self.wait(&format!("document.querySelector({})", json!(selector)));
        self.eval(&format!("document.querySelector({}).click()", json!(selector)));
    }

    /// Clicks what leads to another page and waits for it.
    pub(crate) fn follow(&mut self, selector: &str) {
        self.wait(&format!("document.querySelector({})", json!(selector)));
        self.eval("window.left = true");
        self.eval(&format!("document.querySelector({}).click()", json!(selector)));
        self.loaded();
    }

    /// The names that a screen reader has for whatever can be operated; an empty one is a fault.
    pub(crate) fn nameless(&mut self) -> Vec<String> {
        const OPERATED: [&str; 7] = ["button", "link", "textbox", "checkbox", "combobox", "searchbox", "spinbutton"];
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().cloned().unwrap_or_default();
        let nameless = nodes.iter().filter(|node| {
            let role = node["role"]["value"].as_str().unwrap_or_default();
            let name = node["name"]["value"].as_str().unwrap_or_default();
            node["ignored"] != true && OPERATED.contains(&role) && name.trim().is_empty()
        });
        nameless.map(|node| format!("{} without a name", node["role"]["value"])).collect()
    }

    /// What axe-core finds that keeps people out, seriously or worse: rule, why, and where.
    pub(crate) fn barriers(&mut self, axe: &str) -> Vec<String> {
        const RUN: &str = "axe.run(document).then((found) => found.passes.length < 10 ? ['axe looked at next to nothing'] : found.violations
            .filter((v) => v.impact === 'serious' || v.impact === 'critical')
            .flatMap((v) => v.nodes.map((n) => v.id + ': ' + v.help + ': ' + n.html.slice(0, 200) + ' ' + (n.any[0] || {}).message)))";
        self.eval(&format!("{axe};0"));
        let found = self.eval(RUN);
        found.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }

    /// `width` in pixels; the theme is `dark` or `light`.
    pub(crate) fn look(&mut self, width: u32, height: u32, theme: &str) {
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 }),
        );
        let features = json!([{ "name": "prefers-color-scheme", "value": theme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// The page, at most `height` pixels of it, as PNG.
    pub(crate) fn picture(&mut self, width: u32, height: u32) -> Vec<u8> {
        let whole = self.eval("Math.max(document.documentElement.scrollHeight, window.innerHeight)");
        let height = whole.as_u64().unwrap_or(0).min(u64::from(height));
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let parameters = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        base64(self.call("Page.captureScreenshot", parameters)["data"].as_str().unwrap())
    }

    /// What is on the screen, as PNG.
    pub(crate) fn screen(&mut self) -> Vec<u8> {
        base64(self.call("Page.captureScreenshot", json!({ "format": "png" }))["data"].as_str().unwrap())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// RFC 4648, as Chromium writes it.
fn base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        bits = bits << 6 | u32::from(value(byte));
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
