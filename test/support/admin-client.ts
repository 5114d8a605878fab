// The admin API through a client that is generated from openapi.json, the file in the repository. Whatever is sent
// and answered is held against that file.

import { readFileSync } from "node:fs"
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js"
import formats from "ajv-formats"
import { type AxiosRequestConfig, type AxiosResponse, OpenAPIClientAxios } from "openapi-client-axios"
import { root } from "./processes.ts"
import { untilLetIn } from "./service.ts"

export const adminToken = "the-token-of-the-operator"

/** Whatever the API says; a test knows which fields it looks at. */
export interface Told {
  readonly status: number
  readonly type: string | null
  readonly body: ReturnType<typeof JSON.parse>
}

/** Of the path and of the query, by name. */
export type Parameters = Readonly<Record<string, string | number | boolean>>

/** Calls an operation by its id. The body goes out as JSON, but a text as it stands. */
export type AdminClient = (
  operationId: string,
  parameters?: Parameters,
  body?: unknown,
  headers?: Readonly<Record<string, string>>,
) => Promise<Told>

type Schema = object
type Content = Readonly<Record<string, { readonly schema: Schema }>>

/** An operation as the file has it, with nothing left to look up. */
export interface Operation {
  readonly operationId: string
  readonly method: string
  readonly path: string
  readonly parameters: ReadonlyArray<{
    readonly name: string
    readonly in: string
    readonly required: boolean
    readonly schema: Schema
  }>
  readonly requestBody?: { readonly content: Content }
  readonly responses: Readonly<Record<string, { readonly content: Content }>>
}

const asItIs = [(data: unknown) => data]

const api = new OpenAPIClientAxios({
  definition: JSON.parse(readFileSync(`${root}openapi.json`, "utf8")),
  axiosConfigDefaults: {
    adapter: "fetch",
    responseType: "text",
    transformRequest: asItIs,
    transformResponse: asItIs,
    validateStatus: () => true,
  },
})
// It has a method for each operation, named by its id.
const client = api.initSync() as unknown as Readonly<
  Record<
    string,
    (parameters: Parameters, body: unknown, config: AxiosRequestConfig) => Promise<AxiosResponse<string>>
  >
>

export const operations = api.getOperations() as unknown as ReadonlyArray<Operation>

export const operationNamed = (operationId: string): Operation => {
  const operation = operations.find((candidate) => candidate.operationId === operationId)
  if (operation === undefined) throw new Error(`openapi.json has no operation ${operationId}`)
  return operation
}

const ajv = new Ajv2020({ allErrors: true, strictTypes: false })
formats.default(ajv)

const compiled = new Map<Schema, ValidateFunction>()

/** Why a value is not what a schema of the file has, `undefined` where it is. */
export const misfit = (schema: Schema, value: unknown): string | undefined => {
  const validate = compiled.get(schema) ?? ajv.compile(schema)
  compiled.set(schema, validate)
  return validate(value) ? undefined : ajv.errorsText(validate.errors)
}

/** What the request has in its body, according to the file. */
export const bodySchemaOf = ({ requestBody }: Operation): Schema | undefined =>
  requestBody?.content["application/json"]?.schema

const parsed = (text: string) => {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

const refusedByFile = (operation: Operation, parameters: Parameters, body: string | undefined) => {
  const whys = Object.entries(parameters).map(([name, value]) => {
    const known = operation.parameters.find((parameter) => parameter.name === name)
    return known === undefined ? `there is no parameter ${name}` : misfit(known.schema, value)
  })
  for (const { name, required } of operation.parameters)
    if (required && !Object.hasOwn(parameters, name)) whys.push(`the parameter ${name} is missing`)
  const schema = bodySchemaOf(operation)
  if (schema !== undefined) whys.push(body === undefined ? "no body" : misfit(schema, parsed(body)))
  return whys.find((why) => why !== undefined)
}

/** Whatever an operation says, the file must have told before; and what the file refuses, it must not take. */
const expectDescribed = (
  operation: Operation,
  parameters: Parameters,
  body: string | undefined,
  { body: answer, status, type }: Told,
) => {
  const what = `${operation.operationId} answers ${status} ${type}`
  const declared = operation.responses[status]?.content[type ?? ""]
  if (declared === undefined) throw new Error(`${what}, of which openapi.json knows nothing`)
  const why = misfit(declared.schema, answer)
  if (why !== undefined)
    throw new Error(`${what} with what openapi.json does not have: ${why}\n${JSON.stringify(answer)}`)
  const refused = status < 300 ? refusedByFile(operation, parameters, body) : undefined
  if (refused !== undefined) throw new Error(`${what} to what openapi.json refuses: ${refused}`)
}

/** A client of the service at that URL, with the operator's token or another one; an empty one is not sent. */
export const adminOf =
  (url: string, token: string = adminToken): AdminClient =>
  async (operationId, parameters = {}, body, headers = {}) => {
    const operation = operationNamed(operationId)
    const text = body === undefined || typeof body === "string" ? body : JSON.stringify(body)
    const ask = () =>
      client[operationId]!(parameters, text, {
        baseURL: url,
        headers: {
          ...(token === "" ? {} : { authorization: `Bearer ${token}` }),
          ...(text === undefined ? {} : { "content-type": "application/json" }),
          ...headers,
        },
      })
    const response = await untilLetIn(
      ask,
      ({ data, status }) => status === 503 && parsed(data)?.detail === "Overloaded",
    )
    const told = {
      status: response.status,
      type: response.headers["content-type"]?.toString() ?? null,
      body: parsed(response.data),
    }
    expectDescribed(operation, parameters, text, told)
    return told
  }

/** Every item of a list, page by page, with something done in between. */
export const walk = async (
  admin: AdminClient,
  operationId: string,
  parameters: Parameters = {},
  between: () => Promise<unknown> = async () => {},
): Promise<ReadonlyArray<Told["body"]>> => {
  const items: Array<unknown> = []
  let cursor: string | null = null
  do {
    const more: Parameters = cursor === null ? {} : { cursor }
    const { body, status }: Told = await admin(operationId, { ...parameters, ...more })
    if (status !== 200) throw new Error(`${status}: ${JSON.stringify(body)}`)
    items.push(...body.items)
    cursor = body.next_cursor
    await between()
  } while (cursor !== null)
  return items
}
