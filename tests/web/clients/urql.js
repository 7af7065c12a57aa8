// urql: uploads of its own, subscriptions by graphql-ws.
import { createClient as createSocketClient } from "graphql-ws";
import { Client, fetchExchange, subscriptionExchange } from "urql";
import { pipe, toAsyncIterable } from "wonka";
import WebSocket from "ws";
import { walk } from "./walk.js";

const plain = ({ data, error }) => {
  if (error && !error.graphQLErrors.length) throw error;
  return { data, errors: error?.graphQLErrors };
};

function connect(url, authorization) {
  const headers = authorization ? { authorization } : {};
  const socket = createSocketClient({
    url: url.replace("http", "ws"),
    webSocketImpl: WebSocket,
    connectionParams: headers,
  });
  const forwardSubscription = (request) => ({
    subscribe: (sink) => ({ unsubscribe: socket.subscribe({ ...request, query: request.query ?? "" }, sink) }),
  });
  const client = new Client({
    url,
    preferGetMethod: false,
    fetchOptions: { headers },
    exchanges: [fetchExchange, subscriptionExchange({ forwardSubscription })],
  });
  return {
    async run(document, variables) {
      const ask = document.startsWith("mutation") ? "mutation" : "query";
      return plain(await client[ask](document, variables));
    },
    async *watch(document, variables) {
      for await (const result of pipe(client.subscription(document, variables), toAsyncIterable)) {
        if (result.hasNext) yield plain(result); // the last one comes again when it has no next
      }
    },
    close: () => socket.dispose(),
  };
}

await walk(connect, { uploads: true });
