// graphql-ws: everything over one socket.
import { createClient } from "graphql-ws";
import WebSocket from "ws";
import { walk } from "./walk.js";

function connect(url, authorization) {
  const client = createClient({
    url: url.replace("http", "ws"),
    webSocketImpl: WebSocket,
    connectionParams: authorization ? { authorization } : {},
    retryAttempts: 0,
  });
  return {
    async run(query, variables) {
      try {
        for await (const result of client.iterate({ query, variables })) return result;
      } catch (error) {
        if (!Array.isArray(error)) throw error;
        return { errors: error }; // an `error` message, in place of a result
      }
    },
    watch: (query, variables) => client.iterate({ query, variables }),
    close: () => client.dispose(),
  };
}

await walk(connect, { uploads: false });
