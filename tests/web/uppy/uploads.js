import AwsS3 from "@uppy/aws-s3";

const MIB = 2 ** 20;
const SESSION = "id state uploadId uploadUrl headers { name value }";
const CREATE = `mutation ($input: CreateUploadSessionInput!) {
  createUploadSession(input: $input) { session { ${SESSION} } errors { message } }
}`;
const FIND = `query ($id: ID!) { uploadSession(id: $id) { ${SESSION} } }`;
const SIGN = `query ($id: ID!, $number: Int!) {
  uploadSession(id: $id) { parts(numbers: [$number]) { url headers { name value } } }
}`;
const LIST = `query ($id: ID!) { uploadSession(id: $id) { uploadedParts { partNumber etag } } }`;
const COMPLETE = `mutation ($id: ID!) {
  completeUpload(input: { sessionId: $id }) { media { id } errors { message } }
}`;
const ABORT = `mutation ($id: ID!) { abortUpload(sessionId: $id) { errors { message } } }`;

/** Uppy speaks S3's protocol; where Heirloom has a mutation instead, it reads the S3's answer from a data URL. */
const answer = (name, xml) => ({ url: `data:application/xml,${encodeURIComponent(`<${name}>${xml}</${name}>`)}` });
const headersOf = ({ headers }) => Object.fromEntries(headers.map(({ name, value }) => [name, value]));

/** Lets Uppy upload into Heirloom. `ask` sends an operation, and gives its payload or throws the first error in it. */
export function uploadToHeirloom(uppy, ask) {
  const unfinished = async (file) => {
    const id = localStorage.getItem(file.id);
    const session = id && (await ask(FIND, { id }));
    return session?.state === "OPEN" ? session : undefined;
  };
  const begin = async (file) => {
    const input = { filename: file.name, contentType: file.type, sizeBytes: file.size };
    const session = (await unfinished(file)) ?? (await ask(CREATE, { input })).session;
    localStorage.setItem(file.id, session.id);
    return session;
  };
  const complete = async (file, id) => {
    try {
      const { media } = await ask(COMPLETE, { id });
      uppy.setFileMeta(file.id, { mediaId: media.id });
      localStorage.removeItem(file.id);
    } catch (error) {
      const { progress } = uppy.getFile(file.id);
      uppy.setFileState(file.id, { progress: { ...progress, uploadComplete: false } }); // so that it can be retried
      uppy.emit("upload-error", uppy.getFile(file.id), error);
    }
  };

  uppy.use(AwsS3, {
    // Heirloom's own rule: up to 5 MiB in one PUT, else in parts of 8 MiB, or more where 4,000 of them aren't enough.
    shouldUseMultipart: (file) => file.size > 5 * MIB,
    getChunkSize: ({ size }) => Math.max(8, Math.ceil(size / 4000 / MIB)) * MIB,
    generateObjectKey: (file) => file.id, // for the first request; from its answer on, the key is the session's id
    async signRequest({ method, key, uploadId, partNumber }) {
      if (!uploadId) {
        const session = await begin(uppy.getFile(key));
        const signed = session.uploadId
          ? answer("InitiateMultipartUploadResult", `<UploadId>${session.uploadId}</UploadId>`)
          : { url: session.uploadUrl, headers: headersOf(session) };
        return { ...signed, key: session.id };
      }
      switch (method) {
        case "PUT": {
          const [part] = (await ask(SIGN, { id: key, number: partNumber })).parts;
          return { url: part.url, headers: headersOf(part) };
        }
        case "GET": {
          const parts = (await ask(LIST, { id: key })).uploadedParts.map(
            ({ partNumber, etag }) => `<Part><PartNumber>${partNumber}</PartNumber><ETag>${etag}</ETag></Part>`,
          );
          return answer("ListPartsResult", parts.join(""));
        }
        case "POST": // completed below, as those in one PUT are
          return answer("CompleteMultipartUploadResult", `<Location>${key}</Location><Key>${key}</Key>`);
        case "DELETE":
          await ask(ABORT, { id: key });
          return answer("Aborted", "");
      }
    },
  });

  // A file that was cut off, by a reload for instance, goes on with the parts that have not arrived.
  uppy.addPreProcessor(async (ids) => {
    for (const file of uppy.getFilesByIds(ids)) {
      const session = await unfinished(file);
      uppy.setFileState(file.id, {
        s3Multipart: session?.uploadId ? { key: session.id, uploadId: session.uploadId } : undefined,
      });
    }
  });
  const completions = new Map();
  uppy.on("upload-success", (file, { body }) => completions.set(file.id, complete(file, body.key)));
  uppy.addPostProcessor((ids) => Promise.all(ids.map((id) => completions.get(id))));
}
