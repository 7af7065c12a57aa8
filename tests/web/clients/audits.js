// All audits of graphql-http, of the server at an address: what is not as it should be, one line of JSON each.
import { auditServer } from "graphql-http";

const results = await auditServer({ url: process.argv[2] });
for (const { id, name, status, reason } of results) console.log(JSON.stringify({ id, name, status, reason }));
