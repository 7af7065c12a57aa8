/** Scrolls to the operation that is chosen from the play button's list: the page would leave it out of view. */
import { useGraphiQL } from "@graphiql/react";
import { useEffect, useRef } from "react";

export function RevealOperation() {
  const editor = useGraphiQL((state) => state.queryEditor);
  const location = useGraphiQL(
    (state) => state.operations?.find(({ name }) => name?.value === state.operationName)?.loc,
  );
  const line = location?.startToken.line;
  const lastLine = location?.endToken.line;
  const shown = useRef(line);

  useEffect(() => {
    const opened = shown.current === undefined; // what comes above the first operation is to be read first
    shown.current = line;
    // Where somebody types, the operation follows the cursor, and nothing needs to move.
    if (editor && line && lastLine && !opened && !editor.hasTextFocus()) {
      const range = { startLineNumber: line, startColumn: 1, endLineNumber: lastLine, endColumn: 1 };
      editor.revealRangeNearTopIfOutsideViewport(range);
    }
  }, [editor, line, lastLine]);
  return null;
}
