import { HISTORY_PLUGIN } from "@graphiql/plugin-history";
import { GraphiQL } from "graphiql";
import { useState } from "react";
import { CarryOver } from "./CarryOver";
import exampleVariables from "./example/variables.json?raw";
import exampleDocument from "./example/walk.graphql?raw";
import { createFetcher, type FetcherEvents } from "./fetcher";
import { FileDrop } from "./FileDrop";
import { FILES_PLUGIN } from "./FilesPanel";
import { RevealOperation } from "./RevealOperation";
import { STORAGE } from "./storage";

const PLUGINS = [HISTORY_PLUGIN, FILES_PLUGIN];
// The variables' linter takes only primitives for a custom scalar unless it is told otherwise.
const SCALARS = { JSON: {} };

export function App() {
  // The fetcher is made once: GraphiQL reads the schema again whenever it gets another one.
  const [events] = useState<FetcherEvents>(() => new EventTarget());
  const [fetcher] = useState(() => createFetcher(events));
  return (
    <GraphiQL
      fetcher={fetcher}
      plugins={PLUGINS}
      storage={STORAGE}
      shouldPersistHeaders={false}
      showPersistHeadersSettings={false}
      customScalarSchemas={SCALARS}
      inputValueDeprecation
      schemaDescription
      defaultQuery={exampleDocument}
      // As `initialVariables` it would win over what was typed before a reload.
      {...(STORAGE.getItem("graphiql:variables") === null && { initialVariables: exampleVariables })}
    >
      <GraphiQL.Logo>
        <span className="heirloom-logo">Heirloom</span>
      </GraphiQL.Logo>
      <CarryOver events={events} />
      <FileDrop />
      <RevealOperation />
    </GraphiQL>
  );
}
