// What the schemas alone would leave untrue in the OpenAPI document.

import { defaultLimit, mostInPage } from "./common.ts"

type Json = ReturnType<typeof JSON.parse>

/** What the text in a query stands for, by the parameter's name. */
const queries: Readonly<Record<string, object>> = {
  limit: { type: "integer", minimum: 1, maximum: mostInPage, default: defaultLimit },
  unanswered: { type: "boolean" },
}

/** An operation without some statuses, which others with the same middleware can answer. */
export const without =
  (...statuses: ReadonlyArray<number>) =>
  (operation: Json): Json => {
    const left = Object.entries(operation.responses).filter(([status]) => !statuses.includes(Number(status)))
    return { ...operation, responses: Object.fromEntries(left) }
  }

const operationOf = (operation: Json): Json => {
  const parameters = operation.parameters.map((parameter: Json) =>
    parameter.in === "query" && Object.hasOwn(queries, parameter.name)
      ? { ...parameter, schema: queries[parameter.name] }
      : parameter,
  )
  const unread = "requestBody" in operation ? [] : [413, 415]
  const free = parameters.some((parameter: Json) => parameter.in === "query") || unread.length === 0
  return without(...unread, ...(free ? [] : [400]))({ ...operation, parameters })
}

const mapValues = (record: Json, f: (value: Json) => Json): Json =>
  Object.fromEntries(Object.entries<Json>(record).map(([key, value]) => [key, f(value)]))

// Classes, and schemas with a status of their own, come under a second name.
const plain = (name: string) => name.replace(/(?:Encoded|_\d+)$/, "")

const named = (spec: Json): Json => {
  const schemas = Object.entries<Json>(spec.components.schemas).map(([name, schema]) => [plain(name), schema])
  const components = { ...spec.components, schemas: Object.fromEntries(schemas) }
  return JSON.parse(JSON.stringify({ ...spec, components }), (key, value) =>
    key === "$ref" ? plain(value) : value,
  )
}

/** The document as it is true. */
export const shaped = (spec: Json): Json =>
  named({ ...spec, paths: mapValues(spec.paths, (item) => mapValues(item, operationOf)) })
