// graphql-yoga with Heirloom's own schema: `node server.mjs SCHEMA DATA` answers from memory what DATA (JSON, by the
// names of the query's fields) has, and prints the port it listens on.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createSchema, createYoga } from 'graphql-yoga';

const [typeDefs, data] = process.argv.slice(2).map((path) => readFileSync(path, 'utf8'));
const { library, viewer } = JSON.parse(data);

const yoga = createYoga({
  schema: createSchema({
    typeDefs,
    resolvers: {
      Query: { library: () => library, viewer: () => viewer },
      Entity: { __resolveType: () => 'Person' },
    },
  }),
  logging: false,
  graphiql: false,
  landingPage: false,
});

const server = createServer(yoga);
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
