/**
 * What GraphiQL remembers: theme and layout stay on this computer; documents, variables and history end with the
 * browser tab, since they hold passwords and refresh tokens. Headers are remembered nowhere.
 */
const LASTING = new Set(["theme", "visiblePlugin", "docExplorerFlex", "editorFlex", "secondaryEditorFlex"]);
// The history keeps each run's headers, whatever `shouldPersistHeaders` says.
const HISTORY = new Set(["queries", "favorites"]);
const PREFIX = "graphiql:"; // put before every name by GraphiQL's own StorageAPI

function placeOf(key: string): Storage {
  return LASTING.has(key.slice(PREFIX.length)) ? localStorage : sessionStorage;
}

function withoutHeaders(history: string): string {
  return JSON.stringify(JSON.parse(history), (name, value) => (name === "headers" ? undefined : value));
}

export const STORAGE = {
  getItem: (key: string) => placeOf(key).getItem(key),
  setItem(key: string, value: string) {
    placeOf(key).setItem(key, HISTORY.has(key.slice(PREFIX.length)) ? withoutHeaders(value) : value);
  },
  removeItem: (key: string) => placeOf(key).removeItem(key),
  clear() {
    localStorage.clear();
    sessionStorage.clear();
  },
  get length() {
    return localStorage.length + sessionStorage.length;
  },
};
