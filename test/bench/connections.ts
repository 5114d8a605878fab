// Keep-alive connections that write prepared requests and read no more of the answers than is needed.

import { connect, type Socket } from "node:net"

export interface Answer {
  readonly status: number
  readonly body: string
}

/** The body's length by its headers, or what ends a body in chunks. */
const lengthOf = (head: string) => {
  const length = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1]
  return length === undefined ? undefined : Number(length)
}

const lastChunk = "0\r\n\r\n"

/** The whole answer that the text is, or `undefined` where more has to come. */
const parse = (text: string): Answer | undefined => {
  const end = text.indexOf("\r\n\r\n")
  if (end < 0) return undefined
  const head = text.slice(0, end + 2)
  const body = text.slice(end + 4)
  const length = lengthOf(head)
  if (length === undefined ? !body.endsWith(lastChunk) : body.length < length) return undefined
  return { status: Number(head.slice(9, 12)), body }
}

/** One connection, with one request on it at a time. */
export class Connection {
  private readonly socket: Socket
  private received = ""
  private waiting: ((answer: Answer) => void) | undefined

  private constructor(socket: Socket) {
    this.socket = socket
    socket.setNoDelay(true)
    socket.setEncoding("latin1")
    socket.on("data", (chunk: string) => this.take(chunk))
    socket.on("error", () => {})
    socket.on("close", () => this.answer({ status: 0, body: "connection lost" }))
  }

  static open(port: number): Promise<Connection> {
    return new Promise((resolve, reject) => {
      const socket = connect(port, "127.0.0.1")
      socket.once("error", reject)
      socket.once("connect", () => {
        socket.off("error", reject)
        resolve(new Connection(socket))
      })
    })
  }

  private take(chunk: string) {
    this.received += chunk
    const answer = parse(this.received)
    if (answer !== undefined) this.answer(answer)
  }

  private answer(answer: Answer) {
    const { waiting } = this
    this.received = ""
    this.waiting = undefined
    waiting?.(answer)
  }

  /** Writes the request; the callback gets the answer, with status 0 where the connection was lost. */
  send(bytes: Buffer, onAnswer: (answer: Answer) => void): void {
    this.waiting = onAnswer
    if (this.socket.destroyed) this.answer({ status: 0, body: "connection lost" })
    else this.socket.write(bytes)
  }

  close(): void {
    this.waiting = undefined
    this.socket.destroy()
  }
}
