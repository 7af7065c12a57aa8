import { CloseIcon, CopyIcon, type GraphiQLPlugin } from "@graphiql/react";
import { addFiles, removeFile, useFiles } from "./files";

const MEGABYTE = 1_000_000;

function FilesPanel() {
  const files = useFiles();
  return (
    <section aria-label="Files" className="heirloom-files">
      <h2>Files</h2>
      <p>
        Choose files, or drop them on the page, and name them in the variables: <code>"file": "file:1"</code>, or by their own
        name, <code>"file:IMG_1.jpg"</code>.
      </p>
      <label className="graphiql-button heirloom-choose">
        Choose files…
        <input
          type="file"
          multiple
          onChange={(event) => {
            addFiles(event.target.files ?? []);
            event.target.value = ""; // so that the same file can be chosen again
          }}
        />
      </label>
      <ol>
        {files.map((file, index) => (
          <FileRow key={`${index} ${file.name}`} file={file} reference={`file:${index + 1}`} />
        ))}
      </ol>
    </section>
  );
}

function FileRow({ file, reference }: { file: File; reference: string }) {
  return (
    <li>
      <code>{reference}</code>
      <span title={file.name}>{file.name}</span>
      <small>{(file.size / MEGABYTE).toFixed(2)} MB</small>
      <button type="button" title={`Copy "${reference}"`} onClick={() => navigator.clipboard.writeText(`"${reference}"`)}>
        <CopyIcon />
      </button>
      <button type="button" title={`Remove ${file.name}`} onClick={() => removeFile(file)}>
        <CloseIcon />
      </button>
    </li>
  );
}

function PaperclipIcon() {
  return (
    <svg viewBox="0 0 24 24" fill="none" stroke="currentColor" strokeWidth="1.5" strokeLinecap="round">
      <title>paperclip</title>
      <path d="M20 11.5 12 19.500a5 5 0 0 1-7-7L13.500 4a3.300 3.300 0 0 1 4.700 4.700L10 16.800a1.700 1.700 0 0 1-2.400-2.400L15 7" />
    </svg>
  );
}

export const FILES_PLUGIN: GraphiQLPlugin = { title: "Files", icon: PaperclipIcon, content: FilesPanel };
