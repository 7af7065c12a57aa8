/** Runs operations: queries and mutations over HTTP, subscriptions over a socket, files as a multipart request. */
import type { GraphiQLProps } from "graphiql";
import { GraphQLError, OperationTypeNode } from "graphql";
import { takeFiles } from "./files";
import { sendOverHttp } from "./http";
import { findOperation, variablesOf } from "./operation";
import { subscribeOverSocket } from "./socket";

type Fetcher = GraphiQLProps["fetcher"];

/** Dispatches `answered` (a CustomEvent of a mutation's data) and `refused` (the token was not accepted). */
export type FetcherEvents = EventTarget;

export type Headers = Record<string, string>;

export interface Operation {
  query: string;
  operationName?: string | null;
  variables?: unknown;
}

export function createFetcher(events: FetcherEvents): Fetcher {
  const refused = () => events.dispatchEvent(new Event("refused"));
  return async ({ query, operationName, variables }, options) => {
    const headers: Headers = options?.headers ?? {};
    const definition = findOperation(query, operationName);
    const operation = { query, operationName: operationName ?? null, variables: variablesOf(definition, variables) };
    if (definition?.operation === OperationTypeNode.SUBSCRIPTION) {
      return subscribeOverSocket(operation, headers, refused);
    }
    try {
      const { files, ...request } = takeFiles(operation);
      const result = await sendOverHttp(request, files, headers, refused);
      if (definition?.operation === OperationTypeNode.MUTATION) {
        events.dispatchEvent(new CustomEvent("answered", { detail: result.data ?? null }));
      }
      return result;
    } catch (error) {
      // Thrown on, GraphiQL would print the stack as well.
      return { errors: [new GraphQLError(error instanceof Error ? error.message : String(error))] };
    }
  };
}
