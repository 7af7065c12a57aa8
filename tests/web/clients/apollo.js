// @apollo/client: uploads by apollo-upload-client, subscriptions by Apollo's multipart protocol.
import { ApolloClient, ApolloLink, HttpLink, InMemoryCache, gql } from "@apollo/client";
import { CombinedGraphQLErrors } from "@apollo/client/errors";
import { OperationTypeNode } from "graphql";
import UploadHttpLink from "apollo-upload-client/UploadHttpLink.mjs";
import { walk } from "./walk.js";

const plain = ({ data, error }) => {
  if (error && !CombinedGraphQLErrors.is(error)) throw error;
  return { data, errors: error?.errors };
};

/** The values of an observable, as they come. */
async function* values(subscribe) {
  const waiting = [];
  let wake = () => {};
  const push = (item) => {
    waiting.push(item);
    wake();
  };
  subscribe({
    next: (value) => push({ value }),
    error: (error) => push({ error }),
    complete: () => push({ over: true }),
  });
  for (;;) {
    while (waiting.length === 0) await new Promise((resolve) => (wake = resolve));
    const { value, error, over } = waiting.shift();
    if (error) throw error;
    if (over) return;
    yield value;
  }
}

function connect(uri, authorization) {
  const options = { uri, headers: authorization ? { authorization } : {} };
  const client = new ApolloClient({
    cache: new InMemoryCache(),
    defaultOptions: { query: { errorPolicy: "all" }, mutate: { errorPolicy: "all" } },
    link: ApolloLink.split(
      ({ operationType }) => operationType === OperationTypeNode.SUBSCRIPTION,
      new HttpLink(options),
      new UploadHttpLink(options),
    ),
  });
  return {
    async run(document, variables) {
      const parsed = gql(document);
      const mutation = parsed.definitions[0].operation === OperationTypeNode.MUTATION;
      return plain(await (mutation ? client.mutate({ mutation: parsed, variables }) : client.query({ query: parsed })));
    },
    async *watch(document, variables) {
      const updates = client.subscribe({ query: gql(document), variables, errorPolicy: "all" });
      for await (const result of values((sink) => updates.subscribe(sink))) yield plain(result);
    },
    close: () => client.stop(),
  };
}

await walk(connect, { uploads: true });
