// The served document: valid OpenAPI 3.1, each route in it with every way it says no, and the file that is kept of it.

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { openApi } from "../../src/http/admin/docs.ts"
import { ownRuntime, root, start } from "../support/processes.ts"

type Json = ReturnType<typeof JSON.parse>

const document: Json = JSON.parse(JSON.stringify(openApi()))

interface Operation {
  readonly name: string
  readonly path: string
  readonly operation: Json
}

const operations: ReadonlyArray<Operation> = Object.entries<Json>(document.paths).flatMap(([path, methods]) =>
  Object.entries<Json>(methods).map(([method, operation]) => ({
    name: `${method.toUpperCase()} ${path.replace("/api/v1/admin", "")}`,
    path,
    operation,
  })),
)

const everything = (value: Json, visit: (key: string, value: Json) => void): void => {
  if (typeof value !== "object" || value === null) return
  for (const [key, item] of Object.entries<Json>(value)) {
    visit(key, item)
    everything(item, visit)
  }
}

const resolved = (ref: string): Json =>
  ref
    .replace(/^#\//, "")
    .split("/")
    .reduce((at, key) => at?.[key.replaceAll("~1", "/").replaceAll("~0", "~")], document)

/** Routes that can meet something which has the value already, or refers to what is to go. */
const conflicting = [
  "POST /workers/{name}/undrain",
  ...["carriers", "tenants", "campaigns", "dids"].flatMap((list) => [`POST /${list}`, `PATCH /${list}/{id}`]),
  "DELETE /tenants/{id}",
  "DELETE /campaigns/{id}",
]

describe("the document", () => {
  it("is OpenAPI 3.1 with a title and a version", () => {
    expect(document.openapi).toMatch(/^3\.1\.\d+$/)
    expect(document.info).toMatchObject({ title: "Switchhook admin API", version: "1" })
  })

  it("has every route, and no other", () => {
    expect(operations.map(({ name }) => name).sort()).toEqual(
      [
        ...["GET /settings", "GET /settings/{key}", "PUT /settings/{key}"],
        ...["GET /workers", "POST /workers/{name}/drain", "POST /workers/{name}/undrain"],
        ...["carriers", "tenants", "campaigns", "dids"].flatMap((list) => [
          ...[`GET /${list}`, `GET /${list}/{id}`, `POST /${list}`],
          ...[`PATCH /${list}/{id}`, `DELETE /${list}/{id}`],
        ]),
        ...["calls", "leads", "sessions"].flatMap((list) => [`GET /${list}`, `GET /${list}/{id}`]),
      ].sort(),
    )
  })

  it("resolves every reference, and names every operation once", () => {
    everything(document, (key, value) => {
      if (key === "$ref") expect([value, resolved(value)]).toEqual([value, expect.any(Object)])
    })
    const ids = operations.map(({ operation }) => operation.operationId)
    expect(new Set(ids).size).toBe(ids.length)
    const tags = document.tags.map(({ name }: { name: string }) => name)
    for (const tag of document.tags) expect(tag.description).toEqual(expect.any(String))
    for (const { operation } of operations) expect(tags).toEqual(expect.arrayContaining(operation.tags))
  })

  it.each(operations)("describes $name whole", ({ name, operation, path }) => {
    const inPath = operation.parameters.filter((parameter: Json) => parameter.in === "path")
    expect(inPath.map((parameter: Json) => `{${parameter.name}}`)).toEqual(path.match(/\{\w+\}/g) ?? [])
    for (const parameter of inPath)
      expect(parameter).toMatchObject({ required: true, schema: expect.any(Object) })
    expect(operation.summary).toEqual(expect.any(String))
    expect(operation.security).toEqual([{ bearer: [] }])
    expect(document.components.securitySchemes.bearer).toMatchObject({ type: "http", scheme: "bearer" })
    const hasBody = /^(?:PUT|PATCH|POST \/\w+$)/.test(name)
    expect(operation.requestBody?.content ?? {}).toEqual(
      hasBody ? { "application/json": { schema: expect.any(Object) } } : {},
    )
    const statuses = Object.keys(operation.responses).map(Number)
    const created = name.startsWith("POST ") && hasBody ? 201 : 200
    const conflict = conflicting.includes(name) ? [409] : []
    const isRead = hasBody || operation.parameters.some((parameter: Json) => parameter.in === "query")
    expect(statuses).toEqual([
      ...[created, ...(isRead ? [400] : []), 401, 404, ...conflict, ...(hasBody ? [413, 415] : []), 500],
      ...(name === "GET /workers" ? [] : [503]),
    ])
    for (const [status, response] of Object.entries<Json>(operation.responses)) {
      expect(response.description).toEqual(expect.any(String))
      expect(Object.keys(response.content)).toEqual([
        Number(status) < 300 ? "application/json" : "application/problem+json",
      ])
    }
  })
})

describe("npm run openapi", () => {
  const run = async (...args: ReadonlyArray<string>) => {
    const { exited, output } = start(ownRuntime, "commands/openapi.ts", { args })
    return { code: await exited, output: output() }
  }

  it("writes what is served, and finds a file that is not in step", async () => {
    const directory = await mkdtemp(join(tmpdir(), "switchhook-openapi-"))
    const file = join(directory, "openapi.json")
    try {
      expect(await run("--file", file)).toMatchObject({ code: 0 })
      const text = await readFile(file, "utf8")
      expect(JSON.parse(text)).toEqual(document)
      expect(text).toBe(await readFile(`${root}openapi.json`, "utf8"))
      expect(await run("--check", "--file", file)).toMatchObject({ code: 0 })
      await writeFile(file, text.replace("Tenants by name", "Tenants"))
      const { code, output } = await run("--check", "--file", file)
      expect([code, output]).toEqual([1, expect.stringContaining("run npm run openapi, and commit")])
      expect(await readFile(file, "utf8")).not.toBe(text)
    } finally {
      await rm(directory, { recursive: true, force: true })
    }
  })
})
