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

/** Only what the operation declares: the variables editor serves every operation of the document. */
export function variablesOf(operation: OperationDefinitionNode | undefined, variables: unknown): unknown {
  if (!operation || !variables || typeof variables !== "object") {
    return variables;
  }
  const declared = new Set(operation.variableDefinitions?.map((definition) => definition.variable.name.value));
  return Object.fromEntries(Object.entries(variables).filter(([name]) => declared.has(name)));
}
