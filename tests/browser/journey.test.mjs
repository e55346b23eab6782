// The main job in a browser: first start → devices → task → run, watched live → restore to another host; then every
// page once more in all sizes, light and dark, held to the accessibility rules. And the wizard of a task without scripts.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import test from "node:test";
import { accessibility, openPage, screenshot, withConsole } from "./harness.mjs";

const PASSWORD = "correct horse battery staple";
const RUN_LIMIT_MS = 180_000;
const SIZES = { 390: 844, 1280: 800, 1920: 1080 };
// Each page in three looks; STILLFRAME_LOOKS=all takes all six, twice as slow.
const LOOKS = process.env.STILLFRAME_LOOKS === "all"
  ? [390, 1280, 1920].flatMap((width) => [[width, "light"], [width, "dark"]])
  : [[390, "dark"], [1280, "light"], [1920, "dark"]];

// A simulated host of its own process, to be added by its address like a real one.
async function startHost(...options) {
  const child = spawn(process.env.STILLFRAME_BIN, ["simulate", ...options], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  await new Promise((resolve, reject) => {
    child.once("exit", (code) => reject(new Error(`the simulated host ended (${code}):\n${output}`)));
    child.stdout.setEncoding("utf8").on("data", (chunk) => {
      output += chunk;
      if (/SHA-256 [0-9A-F]{64}/.test(output)) resolve();
    });
  });
  const [, host, port] = /(?:Address|With TLS):\s+([^\s:]+):(\d+)/.exec(output);
  const shares = /Drive C\$:\s+[^\s:]+:(\d+)/.exec(output)?.[1];
  const [, sha256] = /SHA-256 ([0-9A-F]{64})/.exec(output);
  return { host, port, shares, fingerprint: sha256.match(/../g).join(":"), stop: () => child.kill("SIGKILL") };
}

async function setUp(page, server, shot) {
  await page.goto(server.url);
  await page.getByLabel("Setup token").fill(server.setupToken);
  await shot("setup", { fullPage: true });
  await page.getByLabel("Your name").fill("ada");
  await page.getByLabel("Password", { exact: true }).fill(PASSWORD);
  await page.getByLabel("Password again").fill(PASSWORD);
  await page.getByRole("button", { name: "Create the administrator" }).click();
  await page.getByRole("heading", { name: "Three steps to the first backup" }).waitFor();
}

// The inventory is read in the background; the page says so until it is there.
async function untilMachines(page) {
  const table = page.getByRole("table", { name: /^Machines of/ });
  const end = Date.now() + 60_000;
  while (!(await table.isVisible())) {
    assert.ok(Date.now() < end, "no machines appeared");
    await page.waitForTimeout(300);
    await page.reload();
  }
}

async function addByAddress(page, host) {
  await page.goto(new URL("/devices/new", page.url()).href);
  await page.getByLabel("Address").fill(host.host);
  await page.getByLabel("Port").fill(host.port);
  await page.getByLabel("Name in Stillframe").fill("esx-dr-01");
  await page.getByLabel("Account", { exact: true }).fill("root");
  await page.getByLabel("Password").fill("simulated");
  await page.getByRole("button", { name: "Next: certificate" }).click();
  await page.getByRole("heading", { name: `Is this ${host.host}?` }).waitFor();
  assert.equal(await page.locator("code.hash").innerText(), host.fingerprint);
  await page.getByRole("button", { name: "It is the same, sign in" }).click();
  await page.getByRole("button", { name: "Save the device" }).click();
  await page.getByRole("heading", { name: "esx-dr-01" }).waitFor();
  await untilMachines(page);
}

// The platform's own words and fields; the certificate is compared as for any host.
async function addHyperV(page, host, seen) {
  await page.goto(new URL("/devices/new", page.url()).href);
  await page.getByRole("link", { name: "Microsoft Hyper-V" }).click();
  await page.getByRole("radio", { name: /^TLS, signed in with NTLM/ }).waitFor();
  await lookAt(page, "device-new-hyperv", seen);
  await page.getByLabel("Address").fill(host.host);
  await page.getByLabel("Port", { exact: true }).fill(host.port);
  await page.getByLabel("Port of its files (SMB)").fill(host.shares);
  await page.getByLabel("Name in Stillframe").fill("hv-dr-01");
  await page.getByLabel("Account", { exact: true }).fill("Administrator");
  await page.getByLabel("Password", { exact: true }).fill("simulated");
  await page.getByRole("button", { name: "Next", exact: true }).click();
  await page.getByRole("heading", { name: `Is this ${host.host}?` }).waitFor();
  assert.equal(await page.locator("code.hash").first().innerText(), host.fingerprint);
  await lookAt(page, "device-certificate-hyperv", seen);
  await page.getByRole("button", { name: "It is the same, sign in" }).click();
  await page.getByRole("button", { name: "Save the device" }).waitFor();
  await lookAt(page, "device-result-hyperv", seen);
  await page.getByRole("button", { name: "Save the device" }).click();
  await page.getByRole("heading", { name: "hv-dr-01" }).waitFor();
  await untilMachines(page);
  return { "device-hyperv": new URL(page.url()).pathname, "device-edit-hyperv": new URL(page.url()).pathname + "/edit" };
}

// A host inside the server, one of its machines backed up, and the point that is there then.
async function hyperV(page, base, seen) {
  await page.goto(base + "/devices");
  await page.getByRole("button", { name: "Simulated Hyper-V" }).click();
  await untilMachines(page);
  await page.getByText("simulated", { exact: true }).first().waitFor();
  await fillTask(page, "Hyper-V", ["app-01"]);
  await page.getByRole("button", { name: "Create and run now" }).click();
  assert.match(await watch(page), /^Done$/);
  await lookAt(page, "run-hyperv", seen);
  await page.goto(base + "/restore");
  await page.getByRole("link", { name: /^Choose a point of app-01/ }).click();
  await page.getByRole("button", { name: /^Use the newest/ }).click();
  await page.getByText("runs VMware ESXi").first().waitFor();
  await lookAt(page, "restore-host-hyperv", seen);
}

const next = (page, name) => page.getByRole("button", { name: `Next: ${name}` }).click();

async function createLocation(page, folder) {
  await page.getByRole("button", { name: "Create a location" }).click();
  await page.getByLabel("Name").fill("Local disk");
  await page.getByLabel("Folder").fill(folder);
  await page.getByLabel("Passphrase", { exact: true }).fill(PASSWORD);
  await page.getByLabel("Passphrase again").fill(PASSWORD);
  await page.getByRole("button", { name: "Create the location" }).click();
  const key = await page.locator("#recovery-key").innerText();
  assert.ok(key.length > 20, key);
  await page.getByLabel("I have saved the recovery key").check();
  await page.getByRole("button", { name: "Go on" }).click();
  await page.getByRole("heading", { name: "Where do the backups go?" }).waitFor();
  assert.ok(!(await page.content()).includes(key), "the key is shown once");
}

// What belongs to cold is shown for cold only, with or without scripts.
async function chooseMode(page, mode) {
  const minutes = page.getByLabel("Minutes a guest gets to shut down");
  await minutes.waitFor({ state: "hidden" }); // hot shuts nothing down
  await page.getByRole("radio", { name: mode }).check();
  await minutes.waitFor({ state: "visible" }); // cold needs to know how long a guest gets
  await page.getByRole("heading", { name: "Quiesce the guest" }).waitFor({ state: "hidden" }); // nothing to quiesce
}

// From the name to the summary; the location is made on the way when there is none.
async function fillTask(page, name, machines, folder, mode) {
  await page.goto(new URL("/tasks/new", page.url()).href);
  await page.getByLabel("Name", { exact: true }).fill(name);
  await next(page, "machines");
  for (const which of machines) {
    if (typeof which === "string") await page.getByRole("checkbox", { name: `Pick ${which}`, exact: true }).check();
    else await page.locator("td input[name=vm]:not([disabled])").nth(which).check();
  }
  await next(page, "location");
  if (folder) await createLocation(page, folder);
  else await page.getByRole("radio", { name: /Local disk/ }).check();
  await next(page, "method");
  if (mode) await chooseMode(page, mode);
  await next(page, "schedule");
  await next(page, "retention");
  await page.getByLabel(/Keep the last/).fill("5");
  await next(page, "summary");
  await page.getByRole("heading", { name: `Ready to create “${name}”` }).waitFor();
}

// Waits for the end of the run that is open, without loading the page again.
async function watch(page, { live = true } = {}) {
  await page.evaluate(() => { globalThis.sameDocument = true; });
  const state = page.locator("#run-sum .st").first();
  await state.getByText(/^(Done|Done, warning|Failed|Cancelled)$/).waitFor({ timeout: RUN_LIMIT_MS });
  if (live) assert.ok(await page.evaluate(() => globalThis.sameDocument === true), "the page was loaded again");
  return state.innerText();
}

async function restoreFirst(page) {
  await page.goto(new URL("/restore", page.url()).href);
  await page.getByRole("link", { name: /^Choose a point of/ }).first().click();
  await page.getByRole("button", { name: /^Use the newest/ }).click();
  await page.getByRole("radio", { name: /esx-dr-01/ }).check();
  await next(page, "target");
  await page.getByLabel("Name", { exact: true }).fill("brought-back");
  await page.locator("input[name=datastore]").first().check();
  await next(page, "summary");
  await page.getByRole("button", { name: "Start the restore" }).click();
  assert.match(await watch(page), /^Done/);
}

// Every page an administrator meets, by name and address.
async function allPages(page, base) {
  const at = async (list, pattern) => {
    await page.goto(base + list);
    return page.locator(`main table a[href^="${pattern}"]`).first().getAttribute("href");
  };
  await page.goto(base + "/restore");
  const machine = await page.getByRole("link", { name: /^Choose a point of/ }).first().getAttribute("href");
  return {
    home: "/", devices: "/devices", device: await at("/devices", "/devices/"), "device-new": "/devices/new",
    "device-edit": (await at("/devices", "/devices/")) + "/edit",
    machines: "/machines", machine: await at("/machines?state=protected", "/machines/"),
    tasks: "/tasks", calendar: "/tasks/calendar", "calendar-month": "/tasks/calendar?view=month", task: await at("/tasks", "/tasks/"), "task-new": "/tasks/new",
    activity: "/activity", run: await at("/activity?kind=backup", "/activity/"),
    restore: "/restore", points: machine, point: await at(machine, "/restore/points/"),
    storage: "/storage", location: await at("/storage", "/storage/"), "location-new": "/storage/new",
    "location-smb": "/storage/new?kind=smb", "location-nfs": "/storage/new?kind=nfs", "location-s3": "/storage/new?kind=s3",
    settings: "/settings", account: "/settings/account", audit: "/settings/audit", notifications: "/settings/notifications",
    "channel-mail": "/settings/notifications/new?kind=mail", "channel-webhook": "/settings/notifications/new?kind=webhook",
    search: "/search?q=a", "not-found": "/no/such/page",
  };
}

async function lookAt(page, name, seen) {
  for (const [width, scheme] of LOOKS) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize({ width, height: SIZES[width] });
    const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    if (over > 0) seen.push(`${name} at ${width}: ${over} pixels too wide`);
    await screenshot(page, `${name}-${width}-${scheme}`);
    if (width === 1920) continue;
    seen.push(...(await accessibility(page)).map((line) => `${name} at ${width}, ${scheme}: ${line}`));
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1280, height: SIZES[1280] });
}

// The one expected console error: the browser reports that a page was not there.
const expected = (problem) => problem.includes("404") && problem.includes("/no/such/page");

test("from the first start to a restored machine", { timeout: 900_000 }, async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), "stillframe-journey-"));
  const host = await startHost("esxi", "--state-dir", path.join(folder, "host"), "--listen", "127.0.0.1:0", "--name", "esx-dr-01");
  const hyperv = await startHost("hyperv", "--state-dir", path.join(folder, "hyperv"), "--listen-tls", "127.0.0.1:0",
    "--listen-http", "127.0.0.1:0", "--smb-port", "0", "--name", "HV-DR-01");
  try {
    await withConsole(async ({ server, page, problems, shot, browser }) => {
      const base = server.url.replace(/\/$/, "");
      const seen = [];
      const began = performance.now();
      const after = () => `${((performance.now() - began) / 1000).toFixed(1)} s after the first page`;
      await setUp(page, server, shot);
      await lookAt(page, "home-empty", seen);
      await page.getByRole("button", { name: "Simulated ESXi" }).click();
      await untilMachines(page);
      await page.getByText("simulated", { exact: true }).first().waitFor();
      await addByAddress(page, host);

      await fillTask(page, "Nightly, everything", [0, 1, 2], path.join(folder, "repository"));
      await lookAt(page, "task-summary", seen);
      await page.getByRole("button", { name: "Create and run now" }).click();
      await shot("run-live");
      assert.match(await watch(page), /^Done/);
      t.diagnostic(`first backup of three machines finished ${after()}`);
      await page.getByRole("button", { name: "Cancel run" }).waitFor({ state: "detached" });
      await page.getByRole("link", { name: "Open the task" }).click();
      await page.getByRole("button", { name: "Run now" }).click();
      assert.match(await watch(page), /^Done/);
      await restoreFirst(page);
      t.diagnostic(`a machine restored to another host ${after()}`);
      await lookAt(page, "run-restore", seen);

      const drafts = await wizardPages(page, base);
      await hyperV(page, base, seen);
      Object.assign(drafts, await addHyperV(page, hyperv, seen));
      for (const [name, address] of Object.entries({ ...(await allPages(page, base)), ...drafts })) {
        await page.goto(base + address, { waitUntil: "load" });
        await lookAt(page, name, seen);
      }
      await withoutScripts(base, browser, seen);
      const login = await openPage({ url: server.url, browser });
      await login.page.goto(base + "/login");
      await lookAt(login.page, "login", seen);
      problems.splice(0, problems.length, ...problems.filter((problem) => !expected(problem)), ...login.problems, ...seen);
    });
  } finally {
    host.stop();
    hyperv.stop();
    await rm(folder, { recursive: true, force: true });
  }
});

// Addresses of the wizards' steps, with drafts of their own.
async function wizardPages(page, base) {
  await fillTask(page, "Draft", [0], undefined);
  const draft = new URL(page.url()).pathname.replace(/\/summary$/, "");
  const pages = {};
  for (const step of ["name", "machines", "location", "method", "schedule", "retention"]) pages[`task-${step}`] = `${draft}/${step}`;
  for (const repeat of ["Weekly", "Monthly", "After a task", "Cron"]) await answerSchedule(page, repeat, pages);
  await fillTask(page, "Draft, cold", [0], undefined, /^Cold The/);
  const cold = new URL(page.url()).pathname;
  pages["task-method-cold"] = cold.replace(/summary$/, "method");
  pages["task-summary-cold"] = cold;
  await page.goto(base + "/restore");
  await page.getByRole("link", { name: /^Choose a point of/ }).first().click();
  await page.getByRole("button", { name: /^Use the newest/ }).click();
  pages["restore-host"] = new URL(page.url()).pathname;
  await page.getByRole("radio", { name: /esx-dr-01/ }).check();
  await next(page, "target");
  pages["restore-target"] = new URL(page.url()).pathname;
  await page.locator("input[name=datastore]").first().check();
  await next(page, "summary");
  pages["restore-summary"] = new URL(page.url()).pathname;
  return pages;
}

// The schedule's step answered in another way, in a draft of its own, with hours and a preview.
async function answerSchedule(page, repeat, pages) {
  await fillTask(page, `Draft, ${repeat}`, [0], undefined);
  await page.goto(page.url().replace(/summary$/, "schedule"));
  await page.getByRole("radio", { name: repeat, exact: true }).check();
  if (repeat === "Monthly") await page.getByRole("radio", { name: "On the last day" }).check();
  if (repeat === "Cron") {
    await page.getByLabel("Pattern").fill("30 2 * * 6,0");
    await page.getByLabel("Pattern").press("Tab"); // a field counts when it is left
  }
  if (repeat === "After a task") await page.getByLabel(/^Starts when a run/).selectOption({ index: 1 });
  if (repeat === "Weekly") {
    await page.getByText("Missed runs and hours").click();
    await page.getByRole("radio", { name: /^Only in these hours/ }).check();
    await page.getByRole("radio", { name: /^Leave it out/ }).check();
  }
  const preview = page.locator("#preview");
  await (repeat === "After a task" ? preview.getByText(/has ended/) : preview.locator("tbody tr").nth(9)).waitFor();
  await page.waitForLoadState("networkidle"); // leaving in the middle of a preview is an error in the console
  await next(page, "retention");
  pages[`task-schedule-${repeat.toLowerCase().replaceAll(" ", "-")}`] = new URL(page.url()).pathname.replace(/retention$/, "schedule");
}

// The same wizard in a browser that runs no script at all.
async function withoutScripts(base, browser, seen) {
  const context = await browser.newContext({ javaScriptEnabled: false, ignoreHTTPSErrors: true });
  const page = await context.newPage();
  await page.goto(base + "/login");
  await page.getByLabel("Name").fill("ada");
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("link", { name: "Virtual machines" }).first().waitFor();
  await fillTask(page, "By hand, without scripts", [1], undefined, /^Cold snapshot/);
  await page.getByRole("button", { name: "Create the task" }).click();
  await page.getByText("The task is created.").waitFor();
  await page.getByRole("button", { name: "Run now" }).click();
  const end = Date.now() + RUN_LIMIT_MS;
  while (!/^Done/.test(await page.locator("#run-sum .st").first().innerText())) {
    if (Date.now() > end) return seen.push("without scripts: the run did not end");
    await page.waitForTimeout(500);
    await page.reload();
  }
  await context.close();
  return undefined;
}
