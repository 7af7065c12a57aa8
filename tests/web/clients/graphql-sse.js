// graphql-sse in its distinct connections mode: a stream for each operation, queries and mutations too.
import { createClient } from "graphql-sse";
import { walk } from "./walk.js";

function connect(url, authorization) {
  const client = createClient({ url, headers: authorization ? { authorization } : {}, retryAttempts: 0 });
  return {
    async run(query, variables) {
      for await (const result of client.iterate({ query, variables })) return result;
    },
    watch: (query, variables) => client.iterate({ query, variables }),
    close: () => client.dispose(),
  };
}

await walk(connect, { uploads: false });
