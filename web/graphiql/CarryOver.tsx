/** Carries from one answer what the next operation needs: the access token to Headers, new ids to Variables. */
import { useGraphiQL } from "@graphiql/react";
import { applyEdits, type JSONPath, modify, parse } from "jsonc-parser";
import { useEffect, useRef, useState } from "react";
import type { FetcherEvents } from "./fetcher";

type Values = Record<string, unknown>;
type Editor = { getValue(): string; setValue(value: string): void };

const FORMATTING = { formattingOptions: { insertSpaces: true, tabSize: 2 } };

function read(editor: Editor): Values {
  const values: unknown = parse(editor.getValue());
  return isObject(values) ? values : {};
}

/** Changes one value and leaves the rest of the text, comments too, as it was typed; `undefined` removes it. */
function write(editor: Editor, path: JSONPath, value: unknown): void {
  const text = editor.getValue().trim() || "{}";
  editor.setValue(applyEdits(text, modify(text, path, value, FORMATTING)));
}

function isObject(value: unknown): value is Values {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Each mutation's payload, such as `{accessToken: …}` or `{person: {id: …}}`. */
function payloadsOf(data: unknown): Values[] {
  return isObject(data) ? Object.values(data).filter(isObject) : [];
}

function authorizationOf(headers: Values): [string, unknown] {
  return Object.entries(headers).find(([name]) => name.toLowerCase() === "authorization") ?? ["Authorization", ""];
}

export function CarryOver({ events }: { events: FetcherEvents }) {
  const headerEditor = useGraphiQL((state) => state.headerEditor);
  const variableEditor = useGraphiQL((state) => state.variableEditor);
  // What a person typed is never replaced: only what is empty, or what was put there from here.
  const carried = useRef(new Set<unknown>(["", null]));
  const [notice, setNotice] = useState<{ number: number; text: string }>();

  useEffect(() => {
    if (!headerEditor || !variableEditor) {
      return;
    }
    // A new key for each: React then makes a new element, and its animation begins anew.
    const tell = (text: string) => setNotice((last) => ({ number: (last?.number ?? 0) + 1, text }));
    const carryToken = (token: string) => {
      const [name, current] = authorizationOf(read(headerEditor));
      if (carried.current.has(current)) {
        const value = `Bearer ${token}`;
        carried.current.add(value);
        write(headerEditor, [name], value);
        tell("Signed in: the access token is under Headers now.");
      }
    };
    const carryId = (name: string, id: string) => {
      if (carried.current.has(read(variableEditor)[name])) {
        carried.current.add(id);
        write(variableEditor, [name], id);
        tell(`Variables: “${name}” is filled in.`);
      }
    };
    const answered = (event: Event) => {
      for (const payload of payloadsOf((event as CustomEvent<unknown>).detail)) {
        if (typeof payload.accessToken === "string") {
          carryToken(payload.accessToken);
        }
        for (const [name, value] of Object.entries(payload)) {
          if (isObject(value) && typeof value.id === "string") {
            carryId(name, value.id);
          }
        }
      }
    };
    // Left there, a token that has expired would fail the very sign-in that replaces it.
    const refused = () => {
      const [name, current] = authorizationOf(read(headerEditor));
      if (current && carried.current.has(current)) {
        write(headerEditor, [name], undefined);
        tell("The token was refused and is taken out of Headers: sign in again.");
      }
    };
    events.addEventListener("answered", answered);
    events.addEventListener("refused", refused);
    return () => {
      events.removeEventListener("answered", answered);
      events.removeEventListener("refused", refused);
    };
  }, [events, headerEditor, variableEditor]);

  return (
    <div role="status" className="heirloom-notices">
      {notice && (
        <p key={notice.number} className="heirloom-notice">
          {notice.text}
        </p>
      )}
    </div>
  );
}
