"""Five hundred machines that report progress at once, while people look: pages, live events, and the API under load.

Machines speak through the real interface, each with its certificate on a connection that it keeps, as the boot environment
does; a listener hears of them as the console does. Everything runs on the same cores: being in each other's way is included.
"""
import asyncio, http.client, json, multiprocessing, os, re, ssl, sys, tempfile, threading, time
from pathlib import Path

import browser, fleet
from fleet import ADDRESS, PORT
from measure import fresh_folder, release_binary

SEQUENCE = "name: bench\nsteps:\n  - wipe-disk:\n      disk: first\n"
#: As src/console/live.js asks.
EVENTS = "/api/v1/events?every=250&kinds=progress"
TOTAL = 10 ** 15


def add_arguments(parser):
    parser.add_argument("--machines", type=int, default=500)
    parser.add_argument("--seconds", type=int, default=20, help="how long machines report, and how long the API is loaded")
    parser.add_argument("--connections", type=int, default=64, help="of the API's users at once")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "remint-bench-console")


def run(arguments):
    if os.geteuid() != 0:
        sys.exit("skipped: the appliance must bind the ports of a site; run it as root")
    folder, remint = fresh_folder(arguments.data), release_binary()
    site, token = fleet.make_site(folder, remint)
    with fleet.served(folder, remint, site) as pid:
        fleet.pool(fleet.enrol, arguments.machines, 4, folder, site)
        runs = deploy(arguments.machines, folder, site, token)
        watch(arguments, folder, site, token, runs)
        see(arguments, folder, site, token, runs)
        load(arguments, site, token, runs)
        print(f"\nmemory of the appliance at its peak: {fleet.peak_mib(pid):.0f} MiB")


def person(site, token):
    """Requests of somebody with a token, on one connection."""
    context = ssl.create_default_context(cafile=str(site / "keys/authority.pem"))
    connection = http.client.HTTPSConnection(ADDRESS, PORT, context=context, timeout=60)

    def ask(method, path, body=None, accept="application/json"):
        headers = {"content-type": "application/json", "accept": accept, "authorization": f"Bearer {token}"}
        connection.request(method, path, body and json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            sys.exit(f"{method} {path} answered {answer.status}: {text[:300]}")
        return text

    return ask


def deploy(machines, folder, site, token):
    """A run for each machine, begun; their identifiers in the order of the machines."""
    ask = person(site, token)
    ask("POST", "/api/v1/sequences", {"document": SEQUENCE})
    names = [machine["name"] for machine in json.loads(ask("GET", "/api/v1/machines"))]
    rollout = {"at_once": machines, "rings": [machines]}
    ask("POST", "/api/v1/deployments", {"sequence": "bench", "machines": names, "confirm": machines, "rollout": rollout})
    runs = []
    for number in range(machines):
        agent = fleet.Agent(number, folder, site)
        order = agent.call("/link/v1/run", {"place": "boot-environment"})[0]["order"]
        runs.append(order["run"])
        agent.call("/link/v1/run-events", events(order["run"], [{"at": now(), "item": "1", "what": "started", "attempt": 1, "boot": "b"}]))
    return runs


def now():
    return int(time.time() * 1000)


def events(run, journal, journal_from=0, progress=None):
    return {"run": run, "journal_from": journal_from, "journal": journal, "boot": "b", "lines_from": 0, "lines": [],
            "progress": progress, "sent_at": now()}


def watch(arguments, folder, site, token, runs):
    """While all machines report each second: how long pages take, and how old a report is when a console hears of it."""
    heard, ends = [], time.monotonic() + arguments.seconds
    listener = threading.Thread(target=listen, args=(site, token, heard, ends), daemon=True)
    listener.start()
    results = multiprocessing.Queue()
    reporter = multiprocessing.Process(target=lambda: results.put(asyncio.run(report(folder, site, runs, ends))))
    reporter.start()
    time.sleep(2)
    pages = look(site, token, runs, ends)
    posts = results.get(timeout=arguments.seconds + 120)
    reporter.join()
    seconds = arguments.seconds
    print(f"{len(runs)} machines report each second for {seconds} s: {len(posts) / seconds:.0f} reports a second, answered {spread(posts)}")
    print(f"a console hears of a report {spread(heard)} after it was sent ({len(heard)} heard)")
    print("\n  pages, as somebody with a browser has them")
    for path, times in pages.items():
        print(f"  {spread(times)}  {len(times):>4} times  {path}")
    print("\n  the same by the appliance's own clock (remint_http_response_seconds)")
    for route, count, mean, within in server_times(person(site, token)("GET", "/metrics").decode()):
        print(f"  mean {mean * 1000:6.1f} ms  {within * 100:5.1f} % within 250 ms  {count:>6} times  {route}")


def spread(seconds):
    ordered = sorted(seconds)
    at = lambda share: ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000
    return f"p50 {at(.5):6.1f} ms, p99 {at(.99):6.1f} ms, at most {at(1):6.1f} ms"


def listen(site, token, heard, ends):
    context = ssl.create_default_context(cafile=str(site / "keys/authority.pem"))
    connection = http.client.HTTPSConnection(ADDRESS, PORT, context=context, timeout=60)
    connection.request("GET", EVENTS, headers={"authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    while time.monotonic() < ends:
        line = answer.readline()
        if line.startswith(b"data:"):
            at = time.monotonic()
            batch = json.loads(line[5:])
            for event in batch if isinstance(batch, list) else [batch]:
                if event.get("kind") == "missed":
                    sys.exit("the listener fell behind")
                heard.append(at - event["data"]["done"] / 1e6)


async def report(folder, site, runs, ends):
    """All machines, each on a connection of its own; seconds from each report to its answer."""
    latencies = []

    async def machine(number, run):
        context = fleet.Agent(number, folder, site).context()
        reader, writer = await asyncio.open_connection(ADDRESS, PORT, ssl=context, server_hostname=ADDRESS)
        due = time.monotonic() + number / len(runs)
        while due < ends:
            await asyncio.sleep(max(0, due - time.monotonic()))
            due += 1
            sent = time.monotonic()
            # The note goes to the page with the figure: there it says when the report was sent.
            progress = {"item": "1", "done": int(sent * 1e6), "total": TOTAL, "unit": "bytes", "note": f"{now()}"}
            await exchange(reader, writer, "POST", "/link/v1/run-events", events(run, [], 1, progress))
            latencies.append(time.monotonic() - sent)
        writer.close()

    await asyncio.gather(*(machine(number, run) for number, run in enumerate(runs)))
    return latencies


async def exchange(reader, writer, method, path, body=None, headers=""):
    content = json.dumps(body).encode() if body is not None else b""
    head = f"{method} {path} HTTP/1.1\r\nhost: {ADDRESS}\r\n{headers}content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(re.search(r"content-length: (\d+)", answer, re.IGNORECASE).group(1))
    text = await reader.readexactly(length)
    if not answer.startswith("HTTP/1.1 20"):
        raise RuntimeError(f"{path}: {answer.splitlines()[0]} {text[:200]}")


def look(site, token, runs, ends):
    """Somebody goes from page to page, one a quarter of a second."""
    ask = person(site, token)
    deployment = json.loads(ask("GET", "/api/v1/deployments"))[0]["id"]
    machine = json.loads(ask("GET", "/api/v1/machines"))[0]["name"]
    paths = ["/", "/machines", "/rooms", f"/machines/{machine}", "/deployments", f"/deployments/{deployment}", "/runs", f"/runs/{runs[0]}"]
    times = {path: [] for path in paths}
    while time.monotonic() < ends - 1:
        for path in paths:
            began = time.monotonic()
            ask("GET", path, accept="text/html")
            times[path].append(time.monotonic() - began)
            time.sleep(0.25)
    return times


#: Notes when a report is on the screen: in the first frame after the script of the page has put its figure into the tile.
#: Beside that the time between frames, and the tasks that kept the page for more than 50 ms.
SCREEN = """(() => {
  const seen = { latencies: [], gaps: [], tasks: [] };
  window.seen = seen;
  let pending = [], last = 0;
  const frame = (at) => {
    if (last) seen.gaps.push(at - last);
    last = at;
    const now = Date.now();
    for (const sent of pending) seen.latencies.push(now - sent);
    pending = [];
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  new MutationObserver((changes) => {
    for (const { target } of changes) {
      const tile = target.nodeType === 1 && target.matches("[data-progress] span") && target.parentElement;
      if (tile && /^\\d{13}$/.test(tile.title)) pending.push(Number(tile.title));
    }
  }).observe(document.querySelector("main"), { subtree: true, childList: true });
  new PerformanceObserver((list) => { for (const task of list.getEntries()) seen.tasks.push(task.duration); }).observe({ type: "longtask" });
})()"""


def see(arguments, folder, site, token, runs):
    """All machines as tiles on one page in a browser, while they report each second: when a report is on the screen."""
    path = browser.program()
    if not path:
        return print("\nskipped: a page in a browser: chromium is not installed (scripts/setup installs it)")
    (folder / "browser").mkdir()
    chromium = browser.Browser(path, folder / "browser", token)
    try:
        chromium.go(f"https://{ADDRESS}:{PORT}/rooms?room=No+place")
        tiles = chromium.eval("document.querySelectorAll('.seat [data-progress]').length")
        if tiles != len(runs):
            sys.exit(f"the page has {tiles} tiles with progress, not {len(runs)}")
        ends = time.monotonic() + arguments.seconds
        reporter = multiprocessing.Process(target=lambda: asyncio.run(report(folder, site, runs, ends)))
        reporter.start()
        time.sleep(2)
        chromium.eval(SCREEN)
        time.sleep(max(1, ends - time.monotonic() - 1))
        seen = chromium.eval("seen")
        reporter.join()
    finally:
        chromium.close()
    seconds = lambda milliseconds: [one / 1000 for one in milliseconds]
    print(f"\na page with {tiles} tiles in Chromium, which all report each second")
    print(f"  a report is on the screen {spread(seconds(seen['latencies']))} after it was sent ({len(seen['latencies'])} seen)")
    print(f"  between frames {spread(seconds(seen['gaps']))}; {sum(gap > 200 for gap in seen['gaps'])} of {len(seen['gaps'])} longer than 200 ms")
    longest = f", the longest {max(seen['tasks']):.0f} ms" if seen["tasks"] else ""
    print(f"  {len(seen['tasks'])} tasks of the page took more than 50 ms{longest}")


def server_times(metrics):
    """Route, how often, mean seconds, share within 250 ms."""
    value = lambda name, route: float(re.search(rf'^remint_http_response_seconds_{name}\{{route="{re.escape(route)}"[^}}]*\}} (\S+)$', metrics, re.M).group(1))
    for route in ("/", "/machines", "/rooms", "/machines/{machine}", "/deployments", "/deployments/{id}", "/runs", "/runs/{run}", "/link/v1/run-events"):
        if f'remint_http_response_seconds_count{{route="{route}"}}' not in metrics:
            continue
        count = value("count", route)
        within = re.search(rf'_bucket\{{route="{re.escape(route)}",le="0.25"\}} (\S+)$', metrics, re.M)
        yield route, int(count), value("sum", route) / count, float(within.group(1)) / count


def load(arguments, site, token, runs):
    """As many users of the API as `--connections`, each with the next request as soon as the last is answered."""
    paths = ["/api/v1/machines", f"/api/v1/runs/{runs[0]}", "/api/v1/deployments", "/api/v1/images", "/api/v1/runs"]
    times, failures = {path: [] for path in paths}, []
    context = ssl.create_default_context(cafile=str(site / "keys/authority.pem"))

    async def user(number, ends):
        reader, writer = await asyncio.open_connection(ADDRESS, PORT, ssl=context, server_hostname=ADDRESS)
        while time.monotonic() < ends:
            path = paths[number % len(paths)]
            number += 1
            began = time.monotonic()
            try:
                await exchange(reader, writer, "GET", path, headers=f"authorization: Bearer {token}\r\n")
            except Exception as failure:
                failures.append(f"{path}: {failure!r}")
                return
            times[path].append(time.monotonic() - began)
        writer.close()

    async def users():
        ends = time.monotonic() + arguments.seconds
        await asyncio.gather(*(user(number, ends) for number in range(arguments.connections)))

    asyncio.run(users())
    every = [one for path in paths for one in times[path]]
    print(f"\nthe API with {arguments.connections} connections: {len(every) / arguments.seconds:.0f} requests a second, {spread(every)}")
    for path in paths:
        print(f"  {spread(times[path])}  {len(times[path]):>6} times  {path}")
    if failures:
        sys.exit(f"{len(failures)} requests failed, the first: {failures[0]}")
