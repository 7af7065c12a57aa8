// PostGraphile over Heirloom's own tables: `node server.mjs DATABASE SECRET` prints the port it listens on.
//
// Its schema is what it makes of the tables by its stock preset. `url`, which no column has, is signed here as Heirloom
// does it: HMAC-SHA256 once in a window, and remembered as long.

import { createHmac } from 'node:crypto';
import { createServer } from 'node:http';
import { lambda } from 'postgraphile/grafast';
import { grafserv } from 'postgraphile/grafserv/node';
import { postgraphile } from 'postgraphile';
import { makePgService } from 'postgraphile/adaptors/pg';
import { PostGraphileAmberPreset } from 'postgraphile/presets/amber';
import { extendSchema, gql } from 'postgraphile/utils';

// The one thing of Node 22 that it needs: so it runs on the Node that the pages are built with, as graphql-yoga does.
Promise.withResolvers ??= () => {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
};

const [connectionString, secret] = process.argv.slice(2);
const expires = Math.ceil(Date.now() / 1000) + 3600;
const signed = new Map();

function url(key) {
  let known = signed.get(key);
  if (known === undefined) {
    const signature = createHmac('sha256', secret).update(`GET:${key.length}:${expires}:${key}`).digest('hex');
    known = `http://127.0.0.1/files/${key}?disposition=inline&expires=${expires}&signature=${signature}`;
    signed.set(key, known);
  }
  return known;
}

const plans = { url: ($row) => lambda($row.get('storage_key'), url, true) };
const preset = {
  extends: [PostGraphileAmberPreset],
  plugins: [
    extendSchema({
      typeDefs: gql`
        extend type Media {
          url: String
        }
        extend type Variant {
          url: String
        }
      `,
      objects: { Media: { plans }, Variant: { plans } },
    }),
  ],
  pgServices: [makePgService({ connectionString, schemas: ['public'] })],
  grafserv: { graphiql: false, watch: false },
};

const served = postgraphile(preset).createServ(grafserv);
const server = createServer();
await served.addTo(server);
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
