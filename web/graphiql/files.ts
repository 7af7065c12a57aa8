/** The files chosen on this page. Variables refer to them by string: `file:1`, or `file:IMG_1.jpg`. */
import { useSyncExternalStore } from "react";

const REFERENCE = /^file:(.+)$/s;

let chosen: readonly File[] = [];
const listeners = new Set<() => void>();

function choose(files: readonly File[]): void {
  chosen = files;
  listeners.forEach((notify) => notify());
}

export function addFiles(files: Iterable<File>): void {
  choose([...chosen, ...files]);
}

export function removeFile(file: File): void {
  choose(chosen.filter((other) => other !== file));
}

export function useFiles(): readonly File[] {
  return useSyncExternalStore(
    (notify) => {
      listeners.add(notify);
      return () => listeners.delete(notify);
    },
    () => chosen,
  );
}

function lookUp(name: string): File {
  const file = chosen[Number(name) - 1] ?? chosen.find((candidate) => candidate.name === name);
  if (!file) {
    throw new Error(`The variables name "file:${name}", which is not chosen: add it under Files, on the left.`);
  }
  return file;
}

/** A file and where it stands among the variables, as the multipart request spec's `map` writes it. */
export interface Placed {
  path: string;
  file: File;
}

/**
 * The operation with `null` in its variables in place of every reference to a file, and those files.
 * @throws Error when a reference names no chosen file.
 */
export function takeFiles<T extends { variables: object }>(operation: T): T & { files: Placed[] } {
  const files: Placed[] = [];
  const walk = (value: unknown, path: string): unknown => {
    const name = typeof value === "string" && REFERENCE.exec(value)?.[1];
    if (name) {
      files.push({ path, file: lookUp(name) });
      return null;
    }
    if (Array.isArray(value)) {
      return value.map((item, index) => walk(item, `${path}.${index}`));
    }
    return value && typeof value === "object" ? walkObject(value, path) : value;
  };
  const walkObject = (value: object, path: string): object =>
    Object.fromEntries(Object.entries(value).map(([key, item]) => [key, walk(item, `${path}.${key}`)]));
  return { ...operation, variables: walkObject(operation.variables, "variables"), files };
}
