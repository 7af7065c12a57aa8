// Renders pictures with sharp: each line of standard input asks for one, and is answered by the CPU seconds it took.

import { createInterface } from 'node:readline';
import sharp from 'sharp';

sharp.cache(false); // the same files come again and again: nothing of the time before may be left
sharp.concurrency(1);

const resized = (image, { width, height, crop }) =>
  image.resize(width, height, { fit: crop ? 'cover' : 'inside', withoutEnlargement: true });

const written = (image, { path, quality }, effort) => image.webp({ quality, effort }).toFile(path);

const ways = {
  // As the documentation has it: every size from the file, which JPEG and WebP shrink while they decode.
  async clones({ source, specs, effort }) {
    const image = sharp(source).autoOrient();
    for (const spec of specs) await written(resized(image.clone(), spec), spec, effort);
  },

  // One decode, and each size from the next larger: where nothing shrinks while it is decoded, far less work.
  async cascade({ source, specs, effort }) {
    let image = sharp(source).autoOrient();
    for (const spec of specs) {
      const { data, info } = await resized(image, spec).raw().toBuffer({ resolveWithObject: true });
      image = sharp(data, { raw: { width: info.width, height: info.height, channels: info.channels } });
      await written(image.clone(), spec, effort);
    }
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const task = JSON.parse(line);
  const before = process.cpuUsage();
  await ways[task.way](task);
  const { user, system } = process.cpuUsage(before);
  console.log((user + system) / 1e6);
}
