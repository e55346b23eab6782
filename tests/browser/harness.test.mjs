// The harness's own rules, against small pages: each rule lets a good page pass and catches a bad one.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import test from "node:test";
import { accessibility, startServer, withConsole } from "./harness.mjs";

const PAGES = {
  "/good": "<!doctype html><html lang=en><title>Good</title><main><h1>Good</h1><button>Go</button></main>",
  "/shouts": "<!doctype html><title>x</title><script>console.error('broken')</script>",
  "/throws": "<!doctype html><title>x</title><script>null.field</script>",
  "/calls-out": "<!doctype html><title>x</title><img src='http://elsewhere.invalid/x.png'>",
  "/unlabelled": "<!doctype html><html lang=en><title>x</title><main><h1>x</h1><input></main>",
};

async function visit(path, steps = async () => {}) {
  const site = createServer((request, response) => {
    if (request.url === "/favicon.ico") return response.writeHead(204).end();
    return response.writeHead(200, { "content-type": "text/html" }).end(PAGES[request.url]);
  });
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${site.address().port}`;
  try {
    await withConsole(
      async ({ page }) => {
        await page.goto(url + path, { waitUntil: "load" });
        await steps(page);
      },
      { server: { url } },
    );
  } finally {
    site.closeAllConnections();
    site.close();
  }
}

test("a good page passes", { timeout: 60_000 }, () =>
  visit("/good", async (page) => {
    await page.getByRole("button", { name: "Go" }).click();
    assert.deepEqual(await accessibility(page), []);
  }));

test("a console error fails", { timeout: 60_000 }, () => assert.rejects(visit("/shouts"), /console: broken/));

test("a script's exception fails", { timeout: 60_000 }, () => assert.rejects(visit("/throws"), /script: .*null/));

test("a request to another host fails", { timeout: 60_000 }, () =>
  assert.rejects(visit("/calls-out"), /request to another host: http:\/\/elsewhere\.invalid/));

test("a field without a label is found", { timeout: 60_000 }, () =>
  visit("/unlabelled", async (page) => assert.match((await accessibility(page)).join("\n"), /^label /m)));

test("a server that ends at once is reported with its words", { timeout: 60_000 }, () =>
  assert.rejects(startServer({ binary: "/bin/false" }), /the server ended \(1\)/));
