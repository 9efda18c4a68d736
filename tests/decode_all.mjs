// node decode_all.mjs WEB FILE...: decodes compressed models with onnxopt-web's decoder, in the folder WEB. Prints for each
// file the SHA-256 of its weights and of the model, or the message of the error, as a JSON object.

import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';

const [web, ...files] = process.argv.slice(2);
const { decode } = await import(pathToFileURL(`${web}/decode.js`));
const decoder = await WebAssembly.compile(await readFile(`${web}/onnxopt.wasm`));
const said = {};
for (const file of files) {
  try {
    const { model, weights } = await decode(await readFile(file), decoder);
    const digest = (bytes) => createHash('sha256').update(bytes).digest('hex');
    said[file] = { model: Buffer.from(model).toString('base64'), weights: digest(weights) };
  } catch (error) {
    said[file] = { error: error.message, name: error.name };
  }
}
console.log(JSON.stringify(said));
