// Starts the real binary and a real browser, and watches what the pages do. See README.md beside this file.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const ARTIFACTS = path.join(HERE, "..", "artifacts");
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const START_LIMIT_MS = 60_000;
const STOP_LIMIT_MS = 45_000;
const ACTION_LIMIT_MS = 15_000;
const KEPT_OUTPUT_CHARS = 20_000;

// Without these Chromium calls home at every start and fails slowly on a closed network.
const CHROMIUM_FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

export const SIZES = { wide: { width: 1280, height: 800 }, phone: { width: 390, height: 844 } };

// Starts `stillframe serve` on a free port with a data folder of its own; resolves once it has said its address.
export async function startServer({ binary = process.env.STILLFRAME_BIN, options = [], dataDir } = {}) {
  assert.ok(binary, "STILLFRAME_BIN names no binary; `make browser` sets it");
  const own = dataDir === undefined;
  const folder = dataDir ?? (await mkdtemp(path.join(tmpdir(), "stillframe-")));
  const child = spawn(binary, ["serve", "--data-dir", folder, "--listen", "127.0.0.1:0", ...options], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, DATABASE_URL: undefined },
  });
  let output = "";
  const keep = (chunk) => { output = (output + chunk).slice(-KEPT_OUTPUT_CHARS); };
  child.stdout.setEncoding("utf8").on("data", keep);
  child.stderr.setEncoding("utf8").on("data", keep);
  const ended = new Promise((resolve) => {
    child.once("exit", (code, signal) => resolve(signal ?? code));
    child.once("error", (error) => resolve(error.message));
  });

  const server = {
    output: () => output,
    async stop() {
      if (child.exitCode === null && child.signalCode === null) child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), STOP_LIMIT_MS);
      const how = await ended;
      clearTimeout(timer);
      if (own) await rm(folder, { recursive: true, force: true });
      return how;
    },
  };
  let timer;
  try {
    await new Promise((resolve, reject) => {
      timer = setTimeout(() => reject(new Error("the server did not say its address in time")), START_LIMIT_MS);
      ended.then((how) => reject(new Error(`the server ended (${how}) before it said its address`)));
      // The token is printed after the address, and only while there is no administrator.
      const look = () => {
        server.url ??= /Address:\s+(https?:\/\/\S+)/.exec(output)?.[1];
        server.setupToken ??= /Setup token:\s+(\S+)\s/.exec(output)?.[1];
        if (server.url && (server.setupToken || !own)) resolve();
      };
      child.stdout.on("data", look);
    });
  } catch (error) {
    await server.stop();
    throw new Error(`${error.message}; it said:\n${output}`, { cause: error });
  } finally {
    clearTimeout(timer);
  }
  return server;
}

// A browser page that collects whatever breaks a rule into `problems`. `url` is the only host it may talk to.
export async function openPage({ url, size = SIZES.wide, dark = false, browser }) {
  const context = await browser.newContext({
    viewport: size,
    colorScheme: dark ? "dark" : "light",
    ignoreHTTPSErrors: true, // the self-signed certificate of a first start
    reducedMotion: "reduce",
  });
  context.setDefaultTimeout(ACTION_LIMIT_MS);
  const page = await context.newPage();
  const problems = [];
  const { host } = new URL(url);
  page.on("console", (message) => {
    if (message.type() === "error") problems.push(`console: ${message.text()} (${page.url()})`);
  });
  page.on("pageerror", (error) => problems.push(`script: ${error.message} (${page.url()})`));
  await context.route("**/*", async (route) => {
    const wanted = new URL(route.request().url());
    if (wanted.host === host || ["data:", "blob:", "about:"].includes(wanted.protocol)) return route.continue();
    problems.push(`request to another host: ${wanted.href}`);
    return route.abort();
  });
  return { page, context, problems };
}

export function launchBrowser() {
  return chromium.launch({ executablePath: CHROMIUM, headless: true, args: CHROMIUM_FLAGS });
}

// Accessibility violations of the page as lines of text; empty when there is none.
export async function accessibility(page) {
  const source = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  await page.evaluate(source); // evaluated, not added as a tag: the page's Content-Security-Policy stays as it is
  const { violations } = await page.evaluate(() => globalThis.axe.run(document));
  return violations.map((v) => `${v.id} (${v.impact}): ${v.help}: ${v.nodes.slice(0, 3).map((n) => n.target.join(" ")).join(", ")}`);
}

// Takes a screenshot into tests/artifacts/NAME.png.
export async function screenshot(page, name, { fullPage = true } = {}) {
  await mkdir(ARTIFACTS, { recursive: true });
  await page.screenshot({ path: path.join(ARTIFACTS, `${name}.png`), fullPage });
}

// Server, browser and page around `steps`; afterwards the rules are checked and everything is ended.
// `server` may be given (anything with a url) to look at pages of something else.
export async function withConsole(steps, { server: given, ...options } = {}) {
  const server = given ?? (await startServer(options));
  let browser;
  try {
    browser = await launchBrowser();
    const { page, context, problems } = await openPage({ url: server.url, browser, ...options });
    const shot = (name, how) => screenshot(page, name, how);
    try {
      await steps({ server, browser, context, page, problems, shot });
    } catch (error) {
      await shot("failed", { fullPage: false }).catch(() => {});
      // The reporter prints the stack, which holds the message as it was when the error was made.
      error.stack += `\npage: ${page.url()}\nproblems: ${problems.join("\n  ") || "none"}\nserver:\n${server.output?.() ?? ""}`;
      throw error;
    }
    assert.deepEqual(problems, []);
  } finally {
    await browser?.close();
    if (!given) await server.stop();
  }
}
