// What each client does, and says on one line of JSON a step: sign in, upload where it can, watch, ask, fail, sign out.
// node <client>.js URL EMAIL PASSWORD FILE|ID: a file to upload, or media that is there.
import { openAsBlob } from "node:fs";
import { basename } from "node:path";

const [address, email, password, given] = process.argv.slice(2);

const LOGIN = `mutation Login($input: LoginInput!) {
  login(input: $input) { accessToken user { displayName } errors { code } }
}`;
const UPLOAD = `mutation Upload($input: UploadMediaInput!) {
  uploadMedia(input: $input) { media { id filename status } errors { code } }
}`;
const WATCH = `subscription Watch($id: ID!) { mediaProcessing(mediaId: $id) { status stage percent } }`;
const LIBRARY = `query Library { library { nodes { id status variants { name } } } }`;
const LOGOUT = `mutation Logout { logout { errors { code } } }`;

const withoutTypes = (key, value) => (key === "__typename" ? undefined : value); // which Apollo's cache asks for
const say = (step, what) => console.log(JSON.stringify({ [step]: what }, withoutTypes));
const codes = (errors) => errors?.map((error) => error.extensions.code);

/**
 * `connect(address, token)` gives `run(document, variables)`, which resolves to `{ data, errors }`, or rejects with what
 * the client makes of a refused request; `watch(document, variables)`, which yields as much for each update; `close()`.
 */
export async function walk(connect, { uploads }) {
  const nobody = connect(address);
  const wrong = await nobody.run(LOGIN, { input: { email, password: `not ${password}` } });
  say("wrong password", wrong.data.login);
  const { accessToken, ...login } = (await nobody.run(LOGIN, { input: { email, password } })).data.login;
  say("login", login);
  await nobody.close();

  const client = connect(address, `Bearer ${accessToken}`);
  const id = uploads ? await upload(client) : given;
  for await (const { data, errors } of client.watch(WATCH, { id })) {
    say("update", errors ? codes(errors) : data.mediaProcessing);
  }
  say("library", (await client.run(LIBRARY)).data.library.nodes.map((media) => [media.id === id, media]));

  const mistaken = await client.run("query Mistaken { nothing }");
  say("mistake", [mistaken.data ?? null, codes(mistaken.errors)]);
  for await (const { data, errors } of client.watch(WATCH, { id: "0198e7a0-0000-7000-8000-000000000000" })) {
    say("unknown", [data?.mediaProcessing ?? null, codes(errors)]);
  }

  say("logout", (await client.run(LOGOUT)).data.logout);
  await client.close();
  const ended = connect(address, `Bearer ${accessToken}`);
  try {
    say("ended", codes((await ended.run(LIBRARY)).errors));
  } catch (refusal) {
    say("ended", refusal.response?.status ?? refusal.code);
  }
  await ended.close();
}

async function upload(client) {
  const file = new File([await openAsBlob(given)], basename(given), { type: "image/jpeg" });
  const { id, ...media } = (await client.run(UPLOAD, { input: { file } })).data.uploadMedia.media;
  say("upload", media);
  return id;
}
