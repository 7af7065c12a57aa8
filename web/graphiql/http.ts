import type { ExecutionResult } from "graphql";
import type { Headers as HeaderValues, Operation } from "./fetcher";
import type { Placed } from "./files";

const ENDPOINT = "/graphql";
const ACCEPT = "application/graphql-response+json, application/json;q=0.9";

/** GraphQL multipart request specification: `operations`, then `map`, then the files in the map's order. */
function multipartBody(operation: Operation, files: Placed[]): FormData {
  const body = new FormData();
  body.append("operations", JSON.stringify(operation));
  body.append("map", JSON.stringify(Object.fromEntries(files.map(({ path }, index) => [index, [path]]))));
  files.forEach(({ file }, index) => body.append(String(index), file, file.name));
  return body;
}

function request(operation: Operation, files: Placed[], values: HeaderValues): RequestInit {
  const headers = new Headers(values);
  if (!headers.has("accept")) {
    headers.set("accept", ACCEPT);
  }
  if (files.length === 0) {
    headers.set("content-type", "application/json");
    return { method: "POST", headers, body: JSON.stringify(operation) };
  }
  headers.delete("content-type"); // the browser writes it, with the boundary
  headers.set("apollo-require-preflight", "true"); // no form of another site can send it
  return { method: "POST", headers, body: multipartBody(operation, files) };
}

/** @throws Error that says what came instead of a GraphQL response. */
export async function sendOverHttp(
  operation: Operation,
  files: Placed[],
  headers: HeaderValues,
  refused: () => void,
): Promise<ExecutionResult> {
  const response = await fetch(ENDPOINT, request(operation, files, headers)).catch((error: Error) => {
    throw new Error(`No answer from ${ENDPOINT}: ${error.message}`);
  });
  if (response.status === 401) {
    refused();
  }
  const text = await response.text();
  try {
    const result = JSON.parse(text);
    if ("data" in result || "errors" in result) {
      return result;
    }
  } catch {
    // not JSON, or JSON that is no object: told below, with its text
  }
  throw new Error(`HTTP ${response.status} ${response.statusText}: ${text || "an empty body"}`);
}
