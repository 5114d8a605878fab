// The page at /docs as its readers have it: in a real browser, under the policy it is served with.

import type { Browser, Page } from "playwright-core"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { openApi } from "../../src/http/admin/docs.ts"
import { adminToken } from "../support/admin-client.ts"
import { makeEmbeddedDatabase, type TestDatabase } from "../support/databases.ts"
import { type Service, startService } from "../support/service.ts"
import { eventually } from "../support/waiting.ts"
import { launchChromium } from "./chromium.ts"

const { paths, tags }: ReturnType<typeof JSON.parse> = openApi()

/** What the page calls an operation. */
const titleOf = (method: string, path: string): string => paths[path][method].summary ?? path

/** What its entry beside the page says. */
const entryOf = (method: string, path: string): string =>
  `${titleOf(method, path)} HTTP Method: ${method === "delete" ? "DEL" : method.toUpperCase()}`

const workers = "/api/v1/admin/workers"
const drain = `${workers}/{name}/drain`

// Scalar tries once whether it may compile code, and does without where it may not.
const reportViolations = `document.addEventListener("securitypolicyviolation", (event) => {
  if (event.blockedURI !== "eval") console.error("Against the policy: " + event.effectiveDirective + " " + event.blockedURI)
})`

describe("the docs page", () => {
  let browser: Browser
  let database: TestDatabase
  let service: Service
  let page: Page
  /** Whatever a developer would see in red in the console or among the requests. */
  let wrong: Array<string>

  beforeAll(async () => {
    browser = await launchChromium()
    database = await makeEmbeddedDatabase()
    service = await startService({ ...database.env, ADMIN_TOKEN: adminToken })
  })
  afterAll(async () => {
    await browser?.close()
    await service?.stop()
    await database?.drop()
  })

  beforeEach(async () => {
    wrong = []
    page = await browser.newPage()
    page.setDefaultTimeout(20_000)
    page.on("console", (message) => {
      if (message.type() === "error") wrong.push(`console: ${message.text()}`)
    })
    page.on("pageerror", (error) => wrong.push(`uncaught: ${error.stack ?? error}`))
    page.on("requestfailed", (request) =>
      wrong.push(`failed: ${request.url()} ${request.failure()?.errorText}`),
    )
    page.on("response", (response) => {
      if (response.status() >= 400) wrong.push(`answered with ${response.status()}: ${response.url()}`)
    })
    page.on("request", (request) => {
      const { origin, protocol } = new URL(request.url())
      if (protocol !== "data:" && origin !== service.url) wrong.push(`to somebody else: ${request.url()}`)
    })
    await page.addInitScript({ content: reportViolations })
    await page.goto(`${service.url}/docs`)
    await button("Introduction").waitFor()
  })
  afterEach(() => page?.close())

  const button = (name: string) => page.getByRole("button", { name, exact: true })
  const openGroup = (name: string) => button(`Open Group ${name}`).click()

  it("shows every operation, and asks nobody else for anything", async () => {
    // The first group is open from the start.
    for (const { name } of tags.slice(1)) await openGroup(name)
    for (const [path, methods] of Object.entries<object>(paths))
      for (const method of Object.keys(methods)) await button(entryOf(method, path)).waitFor()
    expect(wrong).toEqual([])
  })

  it("opens an operation, and shows what it takes and answers", async () => {
    await openGroup("workers")
    await button(entryOf("post", drain)).click()
    const operation = page.getByRole("region", { name: titleOf("post", drain), exact: true })
    await operation.getByText("Path Parameters").waitFor()
    await operation.getByText("Authorization: Bearer").waitFor()
    await operation.getByRole("button", { name: /^200 / }).click()
    await operation.getByRole("listitem").getByText("drained", { exact: true }).waitFor()
    expect(wrong).toEqual([])
  })

  it("sends a request with the operator's token", async () => {
    await openGroup("workers")
    await button(entryOf("get", workers)).click()
    await button(`Test Request (get ${workers})`).click()
    const client = page.getByRole("dialog", { name: "API Client" })
    await client.getByRole("textbox", { name: "Bearer Token" }).fill(adminToken)
    const answered = page.waitForResponse(service.url + workers)
    await client.getByRole("button", { name: /^Send get request/ }).click()
    expect((await answered).status()).toBe(200)
    await client.getByText("200 OK").waitFor()
    expect(wrong).toEqual([])
  })

  it("runs no other script, and reaches no other host", async () => {
    await page.evaluate(`{
      const script = document.createElement("script")
      script.textContent = "document.title = 'taken over'"
      document.head.append(script)
      fetch("https://elsewhere.test/").catch(() => {})
    }`)
    await eventually("both violations", () => wrong.filter((what) => what.includes("Against")).length === 2)
    expect(wrong).toEqual(
      expect.arrayContaining([
        "console: Against the policy: script-src-elem inline",
        "console: Against the policy: connect-src https://elsewhere.test/",
      ]),
    )
    expect(await page.title()).toBe("Switchhook admin API")
  })
})
