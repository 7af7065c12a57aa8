/**
 * What GraphiQL remembers: theme and layout stay on this computer; documents, variables and history end with the
 * browser tab, since they hold passwords and refresh tokens.
 */
const LASTING = new Set(["theme", "visiblePlugin", "docExplorerFlex", "editorFlex", "secondaryEditorFlex"]);
const PREFIX = "graphiql:"; // put before every name by GraphiQL's own StorageAPI

function placeOf(key: string): Storage {
  return LASTING.has(key.slice(PREFIX.length)) ? localStorage : sessionStorage;
}

export const STORAGE = {
  getItem: (key: string) => placeOf(key).getItem(key),
  setItem: (key: string, value: string) => placeOf(key).setItem(key, value),
  removeItem: (key: string) => placeOf(key).removeItem(key),
  clear() {
    localStorage.clear();
    sessionStorage.clear();
  },
  get length() {
    return localStorage.length + sessionStorage.length;
  },
};
