/** A page that the test drives: `#api=…&token=…` says where and as whom it uploads. */
import Uppy from "@uppy/core";
import { uploadToHeirloom } from "./uploads.js";

const { api, token } = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

async function ask(query, variables) {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const response = await fetch(api, { method: "POST", headers, body: JSON.stringify({ query, variables }) });
  const { data, errors } = await response.json();
  const payload = data && Object.values(data)[0];
  const [error] = errors ?? payload?.errors ?? [];
  if (error) {
    throw new Error(error.message);
  }
  return payload;
}

const uppy = new Uppy();
uploadToHeirloom(uppy, ask);

let last;
uppy.on("s3-multipart:part-uploaded", (_file, { PartNumber }) => PartNumber === last && uppy.pauseAll());

/** Uploads the file that was chosen; paused once part `pauseAfter` has arrived. */
window.upload = (pauseAfter) => {
  const [file] = document.querySelector("input").files;
  last = pauseAfter;
  uppy.addFile({ name: file.name, type: file.type, data: file });
  uppy.upload();
};
window.uppy = uppy;
