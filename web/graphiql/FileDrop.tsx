import { useGraphiQLActions } from "@graphiql/react";
import { useEffect } from "react";
import { addFiles } from "./files";
import { FILES_PLUGIN } from "./FilesPanel";

/** Takes files anywhere on the page: a browser opens a dropped file in its place, and all that was typed is gone. */
export function FileDrop() {
  const { setVisiblePlugin } = useGraphiQLActions();
  useEffect(() => {
    const take = (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes("Files")) {
        return;
      }
      event.preventDefault();
      event.stopPropagation(); // or the editors would type the file's name
      if (event.type === "drop") {
        addFiles(event.dataTransfer.files);
        setVisiblePlugin(FILES_PLUGIN);
      }
    };
    addEventListener("dragover", take, true);
    addEventListener("drop", take, true);
    return () => {
      removeEventListener("dragover", take, true);
      removeEventListener("drop", take, true);
    };
  }, [setVisiblePlugin]);
  return null;
}
