import { type DocumentNode, Kind, type OperationDefinitionNode, parse } from "graphql";

function parseOrNothing(query: string): DocumentNode | undefined {
  try {
    return parse(query);
  } catch {
    return undefined; // the server says better what is wrong with it
  }
}

/** The operation that is about to run; nothing where the document does not parse or does not say which. */
export function findOperation(query: string, name?: string | null): OperationDefinitionNode | undefined {
  const operations = parseOrNothing(query)?.definitions.filter((node) => node.kind === Kind.OPERATION_DEFINITION) ?? [];
  return name ? operations.find((node) => node.name?.value === name) : operations[0];
}

/**
 * Only what the operation declares: the variables editor serves every operation of the document. Nothing where the
 * operation is unknown, so that a slip in the document is not told as a file that is missing.
 */
export function variablesOf(operation: OperationDefinitionNode | undefined, variables: object = {}): object {
  const declared = new Set(operation?.variableDefinitions?.map((definition) => definition.variable.name.value));
  return Object.fromEntries(Object.entries(variables).filter(([name]) => declared.has(name)));
}
