import { type ExecutionResult, GraphQLError } from "graphql";
import { type Client, createClient } from "graphql-ws";
import type { Headers, Operation } from "./fetcher";

/** Close codes of graphql-transport-ws that mean "this token is not accepted". */
const UNAUTHORIZED = 4401;
const FORBIDDEN = 4403;

interface Observer {
  next(result: ExecutionResult): void;
  error(error: unknown): void;
  complete(): void;
}

function connect(headers: Headers): Client {
  const url = new URL("/graphql", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  return createClient({
    url: url.href,
    // A browser sets no headers on a socket, so they travel in `connection_init`, lower-cased as HTTP/2 does.
    connectionParams: Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value])),
    retryAttempts: 0, // here a person decides whether to try again, and wants to see why it ended
  });
}

function explain(failure: unknown): string {
  if (failure instanceof CloseEvent) {
    const reason = failure.reason || "no reason given";
    const advice = [UNAUTHORIZED, FORBIDDEN].includes(failure.code) ? ". Look at the token under Headers." : "";
    return `The socket was closed: ${failure.code} ${reason}${advice}`;
  }
  return failure instanceof Error ? failure.message : "The socket could not be opened.";
}

/** One socket for each run, with the headers of that run; it closes with the subscription. */
export function subscribeOverSocket(operation: Operation, headers: Headers, refused: () => void) {
  return {
    subscribe(sink: unknown) {
      const observer = sink as Observer; // GraphiQL passes an object, always; its type allows functions too
      const client = connect(headers);
      const finish = () => {
        observer.complete();
        void client.dispose();
      };
      const unsubscribe = client.subscribe<Record<string, unknown>>(operation as never, {
        next: (result) => observer.next(result as ExecutionResult),
        error: (failure) => {
          if (failure instanceof CloseEvent && [UNAUTHORIZED, FORBIDDEN].includes(failure.code)) {
            refused();
          }
          const errors = Array.isArray(failure) ? failure : [new GraphQLError(explain(failure))];
          observer.next({ errors });
          finish();
        },
        complete: finish,
      });
      return { unsubscribe };
    },
  };
}
