// A worker in a process of its own, so that SIGSTOP can freeze it. Its queue for new connections is as short as
// the system allows: a test that fills it makes every further connection hang, as a dead network does.

import { createServer } from "node:http"

let seen = 0

const server = createServer((request, response) => {
  request.resume()
  if (request.url === "/livekit/dispatch") seen++
  // No connection is kept: each request has to connect anew.
  response.writeHead(200, { "content-type": "application/json", connection: "close" })
  response.end(JSON.stringify(request.url === "/health" ? { active_calls: 0 } : { seen }))
})

server.listen({ host: "127.0.0.1", port: 0, backlog: 1 }, () => {
  const address = server.address()
  console.log(typeof address === "object" && address !== null ? address.port : 0)
})
