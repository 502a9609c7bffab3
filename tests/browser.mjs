// Runs what the tests ask for in a real Chromium, one line of JSON for each request and each answer.
//
//   {"open": {…options of a context…}}           → {"value": number of the page}
//   {"page": 0, "script": "…body of async (page, argument) => …", "argument": …} → {"value": …}
//   {"close": 0}                                 → {"value": null}
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const require = createRequire(process.env.BROWSER_PARTS + "/");
const { chromium } = require("playwright-core");
const axe = require.resolve("axe-core/axe.min.js");

const browser = await chromium.launch({
  executablePath: process.env.BROWSER_PROGRAM,
  args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
});
const pages = [];
const AsyncFunction = (async () => {}).constructor;

async function open(options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(60000); // of a machine that is busy
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error") page.problems.push(message.text());
  });
  page.on("dialog", (dialog) => {
    page.problems.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  return pages.push(page) - 1;
}

// axe goes in by the debugging protocol, past the policy that forbids foreign scripts.
async function findings(page) {
  await page.evaluate(require("node:fs").readFileSync(axe, "utf8"));
  const found = await page.evaluate(() => window.axe.run({ resultTypes: ["violations"] }));
  return found.violations.map((each) => `${each.id}: ${each.nodes.map((node) => node.html).join(" | ")}`);
}

async function answer(request) {
  if ("open" in request) return open(request.open);
  const page = pages[request.page ?? request.close];
  if ("close" in request) return page.context().close();
  const result = await new AsyncFunction("page", "argument", "findings", request.script)(
    page, request.argument, () => findings(page));
  return result ?? null;
}

for await (const line of createInterface({ input: process.stdin })) {
  let said;
  try {
    said = { value: (await answer(JSON.parse(line))) ?? null };
  } catch (error) {
    said = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(JSON.stringify(said) + "\n");
}
await browser.close();
